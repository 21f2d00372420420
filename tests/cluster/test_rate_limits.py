"""Limits on calls on real nodes: three together stay within them while leaders die."""

from __future__ import annotations

import asyncio
import time

import pytest

from coterie.client import Cluster, CoterieError, Limit, NotFound, ResourceExhausted
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of
from tests.cluster.test_queue_api import kill_the_leader

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

COUNT, PERIOD_S = 20, 1.0
KILLS = 2


class Spender:
    """Calls, each with the time before which, and the time after which, it was not made."""

    def __init__(self) -> None:
        self.spends: list[tuple[float, float]] = []
        self.going = True

    async def run(self, client: Cluster) -> None:
        while self.going:
            began = time.monotonic()
            try:
                await client.limits.take("api", timeout="1s")
            except CoterieError:
                await asyncio.sleep(0.05)
                continue
            self.spends.append((began, time.monotonic()))

    def most(self, window_s: float) -> int:
        """The most calls that were surely made within any time of that length."""
        return max(
            sum(1 for first, last in self.spends if begins <= first and last < begins + window_s)
            for begins, _ in self.spends
        )


async def test_three_nodes_together_stay_within_a_limit_while_leaders_die(fresh: LocalCluster) -> None:
    spender = Spender()
    async with client_of(fresh) as client:
        await client.limits.set(Limit(id="api", rate=COUNT, period=PERIOD_S, calls=True))
        clients = [client_of(fresh, node_id) for node_id in fresh.node_ids for _ in range(3)]
        for one in clients:
            await one.__aenter__()
        work = [asyncio.create_task(spender.run(one)) for one in clients]
        try:
            for _ in range(KILLS):
                await asyncio.sleep(2.5)
                dead = await kill_the_leader(fresh, client)
                await asyncio.sleep(1.5)
                fresh.start_node(dead)
                await fresh.wait_ready(READY_S)
            await asyncio.sleep(2.5)
        finally:
            spender.going = False
            for one in clients:
                await one.close()
            await asyncio.gather(*work, return_exceptions=True)
    assert len(spender.spends) > 3 * COUNT, "the limit was used"
    assert spender.most(PERIOD_S) <= COUNT


async def test_skills_and_programs_share_a_limit(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        await client.limits.set(Limit(id="service", rate=4, period="1h", calls=True, tenant="*"))
        job = await client.submit_task(type="metered", payload={"limit": "service", "calls": 3})
        assert await job.wait(timeout=60) == 3
        await client.limits.take("service")
        with pytest.raises(ResourceExhausted) as caught:
            await client.limits.take("service")
        assert caught.value.reason == "RATE_LIMITED"
        assert caught.value.retry_after is not None and caught.value.retry_after > 60
        with pytest.raises(NotFound):
            await client.limits.take("nobodys")
        late = await client.submit_task(
            type="metered", payload={"limit": "service", "calls": 1, "timeout": 0}, max_attempts=1
        )
        with pytest.raises(CoterieError, match="used up"):
            await late.wait(timeout=60)
        await client.limits.remove("service")
