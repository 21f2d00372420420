"""A skill that dies everywhere is kept from all nodes, also by the next leader, and tried again later."""

from __future__ import annotations

import pytest

from coterie.client import Cluster, NotFound, TaskFailed
from coterie.client.breakers import Breaker
from tests.cluster.conftest import READY_S, client_of, new_cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
BREAKER = {"failureThreshold": 4, "recoveryTimeout": "15s", "halfOpenRequests": 2}


async def breaker(client: Cluster, key: str) -> Breaker | None:
    return next((one for one in await client.breakers.list() if one.key == key), None)


async def test_a_skill_that_dies_everywhere_waits_until_it_is_tried_again() -> None:
    with new_cluster({"faultTolerance": {"circuitBreaker": BREAKER}}) as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            deadly = {"type": "crash", "payload": {"how": "abort"}, "max_attempts": 3}
            jobs = await client.submit_tasks([deadly] * 6)

            async def is_open() -> Breaker | None:
                found = await breaker(client, "skill:crash")
                return found if found is not None and found.state == "OPEN" else None

            opened: Breaker = await until(is_open, "the breaker of the skill is open")
            assert "attempts of crash died" in opened.reason and opened.until is not None
            assert await breaker(client, "node:node-1") is None  # no node is blamed for a skill
            for job in jobs:
                await job.cancel()  # the next probe shall find that the skill works again
            leader = (await client.get_status()).leader
            cluster.kill_node(leader)
            job = await client.submit_task(type="crash", payload={"how": "raise-final"})

            async def waits() -> bool:
                return (await job.explain()).wait_reason == "CIRCUIT_OPEN"

            await until(waits, "the task says that the breaker is open")
            cluster.start_node(leader)
            with pytest.raises(TaskFailed, match="never again"):
                await job.wait(timeout=60)  # a probe: the skill's own error says that it works
            with pytest.raises(NotFound):
                await client.breakers.reset("skill:other")
            assert (await client.breakers.reset("skill:crash")).state == "CLOSED"
