"""What was acknowledged outlives the death of all nodes; those who wait are served in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from coterie.client import Cluster
from coterie.client.bus import Message
from coterie.client.errors import LockHeld
from coterie.client.schedules import Timing
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of, until
from tests.cluster.test_queue_api import kill_the_leader

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture
async def client(fresh: LocalCluster) -> AsyncIterator[Cluster]:
    async with client_of(fresh) as opened:
        yield opened


async def read(client: Cluster, pattern: str, after: int, count: int) -> list[Message]:
    """So many messages from behind a position."""
    stream = client.bus.subscribe(pattern, after=after)
    found = [await anext(stream) for _ in range(count)]
    await stream.aclose()
    assert all(isinstance(one, Message) for one in found)
    return found  # type: ignore[return-value]


async def test_history_positions_keys_locks_and_schedules_outlive_the_death_of_all_nodes(
    fresh: LocalCluster, client: Cluster
) -> None:
    """Consumers go on where they were."""
    await client.bus.set_group("audit", "deed.#", ack_wait="10m")
    positions = [await client.bus.publish("deed.done", number) for number in range(6)]
    given = await client.bus.fetch("audit", count=4)
    assert await client.bus.ack("audit", given[:3]) == 3
    version = await client.kv.put("deed/last", "five")
    lock = await client.locks.acquire("deed", ttl="10m", owner="me")
    await client.schedules.apply("deeds", Timing(cron="0 3 * * *"), type="echo")
    for node_id in fresh.node_ids:
        fresh.kill_node(node_id)
    fresh.start()
    await fresh.wait_ready(READY_S)
    assert [one.position for one in await read(client, "deed.done", 0, 6)] == positions
    assert [one.body for one in await read(client, "deed.+", positions[3], 2)] == [4, 5]
    assert [one.body for one in await client.bus.fetch("audit", count=10)] == [4, 5]
    await client.bus.nack("audit", given[3:])
    assert [one.body for one in await client.bus.fetch("audit", wait="20s")] == [3], "refused, so again"
    entry = await client.kv.entry("deed/last")
    assert entry is not None and (entry.value, entry.version) == ("five", version)
    assert (await client.locks.acquire("deed", ttl="10m", owner="me")).token == lock.token, "still held"
    with pytest.raises(LockHeld):
        await client.locks.acquire("deed", ttl="1s", wait=0)
    await client.locks.release("deed", lock.token)
    assert (await client.locks.acquire("deed", ttl="1s")).token > lock.token
    assert [one.id for one in await client.schedules.list()] == ["deeds"]


async def test_waiters_are_served_in_their_order_while_the_leader_dies(
    fresh: LocalCluster, client: Cluster
) -> None:
    first = await client.locks.acquire("fair", ttl="10m", owner="first")
    served: list[str] = []

    async def wait(owner: str) -> None:
        lock = await client.locks.acquire("fair", ttl="10m", wait="60s", owner=owner)
        served.append(owner)
        await client.locks.release("fair", lock.token)

    waiting = []
    for number in range(5):
        waiting.append(asyncio.create_task(wait(f"w{number}")))

        async def queued(count: int = number + 1) -> bool:
            [lock] = await client.locks.list("fair")
            return len(lock.waiters) == count

        await until(queued, f"{number + 1} to stand in the queue")
    killed = await kill_the_leader(fresh, client)
    await client.locks.release("fair", first.token)
    await asyncio.gather(*waiting)
    fresh.start_node(killed)
    assert served == [f"w{number}" for number in range(5)]
