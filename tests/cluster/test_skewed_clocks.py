"""Schedules on real nodes whose clocks are wrong by ten minutes, while their leaders are killed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise

import pytest

from coterie.client import Cluster
from coterie.client.schedules import Timing
from tests.cluster.conftest import READY_S, client_of, until
from tests.cluster.skewed import SkewedCluster
from tests.cluster.test_queue_api import kill_the_leader

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SKEW_S = 600.0
TICKS = 20


@pytest.fixture
async def nodes() -> AsyncIterator[SkewedCluster]:
    """The node with the fast clock does not run yet: log and clock never go back behind what it stamps."""
    cluster = SkewedCluster({"node-1": SKEW_S, "node-2": 0.0, "node-3": -SKEW_S}, capacity=8)
    try:
        cluster.start_node("node-2")
        cluster.start_node("node-3")
        await cluster.wait_ready(READY_S)
        yield cluster
    finally:
        cluster.stop()


async def lead(nodes: SkewedCluster, client: Cluster, node_id: str) -> None:
    """Make it the leader, whose clock from now on stamps the log."""
    await until(lambda: _led_by(client, node_id), f"{node_id} to lead", 60, 0.5)


async def _led_by(client: Cluster, node_id: str) -> bool:
    if (await client.get_status()).leader != node_id:
        await client.transfer_leadership(node_id)
    return (await client.get_status()).leader == node_id


async def test_each_time_fires_once_though_the_clocks_of_leaders_are_ten_minutes_wrong(
    nodes: SkewedCluster,
) -> None:
    """It begins under a slow clock, goes on under a fast one, which brings ten minutes of times at once, and
    then under those that are behind the log."""
    async with client_of(nodes) as client:
        await lead(nodes, client, "node-3")
        timing = Timing(interval="1s", overlap="allow", misfire="skip")
        await client.schedules.apply("tick", timing, type="echo", payload=1, labels={"from": "tick"})

        async def fired(count: int) -> bool:
            return (await client.schedules.get("tick")).fired >= count

        await until(lambda: fired(5), "5 ticks", 60)
        before = await client.schedules.get("tick")
        nodes.start_node("node-1")
        await nodes.wait_ready(READY_S)
        await lead(nodes, client, "node-1")
        await until(lambda: fired(before.fired + 5), "5 more ticks", 60)
        after = await client.schedules.get("tick")
        assert after.last is not None and before.last is not None
        assert after.last - before.last > timedelta(seconds=SKEW_S), "the clock of the log has jumped"
        assert after.missed > SKEW_S - 10, "and what lies between is too late"
        await lead(nodes, client, "node-1")
        assert await kill_the_leader(nodes, client) == "node-1"
        await until(lambda: fired(after.fired + 5), "5 ticks under a clock that is behind", 60)
        nodes.start_node("node-1")
        await nodes.wait_ready(READY_S)
        await kill_the_leader(nodes, client)
        await until(lambda: fired(TICKS), f"{TICKS} ticks", 60)
        info = await client.schedules.pause("tick")
        tasks = [task async for task in client.list_tasks(filter='labels.from="tick"')]
    nominal = sorted(int(task.labels["coterie.nominal_ms"]) for task in tasks)
    assert len(nominal) == len(set(nominal)) == info.fired >= TICKS, "each time once"
    gaps = [later - earlier for earlier, later in pairwise(nominal)]
    assert all(gap % 1_000 == 0 for gap in gaps)
    assert sum(gap // 1_000 - 1 for gap in gaps) == info.missed, "what did not fire is counted"
