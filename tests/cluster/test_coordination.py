"""Locks, keys, topics and schedules on real nodes, while leaders die."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coterie.client import Cluster, InvalidRequest
from coterie.client.bus import Message, MessageGap
from coterie.client.errors import LockHeld, LockLost, VersionMismatch
from coterie.client.keys import KeyChange
from coterie.client.schedules import Timing
from coterie.node.cli.main import cli
from coterie.node.cli.session import Session
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of, new_cluster, until
from tests.cluster.test_failover import leader_of
from tests.cluster.test_queue_api import kill_the_leader

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def nodes() -> Any:
    """Three nodes for all of this file: who kills one starts it again."""
    with new_cluster() as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


@pytest.fixture
async def client(nodes: LocalCluster) -> AsyncIterator[Cluster]:
    async with client_of(nodes) as opened:
        await opened.get_status()
        yield opened


async def test_a_lock_has_one_holder_and_growing_tokens_while_leaders_die(
    nodes: LocalCluster, client: Cluster
) -> None:
    tokens: list[int] = []
    inside = 0

    async def work(number: int) -> None:
        nonlocal inside
        for _ in range(4):
            async with client.locks.hold("stock/42", ttl="20s") as lock:
                inside += 1
                assert inside == 1, "two hold it"
                tokens.append(lock.token)
                await asyncio.sleep(0.05)
                inside -= 1

    working = [asyncio.create_task(work(number)) for number in range(4)]
    await until(lambda: _true(len(tokens) >= 4), "some turns")
    killed = await kill_the_leader(nodes, client)
    await asyncio.gather(*working)
    nodes.start_node(killed)
    assert tokens == sorted(set(tokens)) and len(tokens) == 16
    assert await client.locks.list() == []


async def test_a_lease_that_nobody_renews_ends_and_its_holder_is_told(client: Cluster) -> None:
    first = await client.locks.acquire("lease", ttl="4s")
    with pytest.raises(LockHeld):
        await client.locks.acquire("lease", ttl="1s", wait=0)
    second = await client.locks.acquire("lease", ttl="30s", wait="20s")
    assert second.token > first.token
    assert not await client.locks.release("lease", first.token), "a late release frees nobody else's lock"
    assert [(one.name, one.token) for one in await client.locks.list("lea")] == [("lease", second.token)]
    assert await client.locks.release("lease", second.token)
    with pytest.raises(LockLost):
        async with client.locks.hold("lease", ttl="400ms") as held:
            assert held._renewing is not None
            held._renewing.cancel()
            await asyncio.sleep(1)


async def test_keys_are_compared_and_set_and_watched_across_the_death_of_the_leader(
    nodes: LocalCluster, client: Cluster
) -> None:
    seen: list[KeyChange] = []

    async def follow() -> None:
        async for change in client.kv.watch("count/"):
            seen.append(change)  # noqa: PERF401 - it never ends, and is looked at meanwhile

    await client.kv.put("count/a", 0)
    following = asyncio.create_task(follow())
    await until(lambda: _true(any(change.kind == "synced" for change in seen)), "the watch is in step")

    async def add(times: int) -> None:
        for _ in range(times):
            while True:
                entry = await client.kv.entry("count/a")
                assert entry is not None
                try:
                    await client.kv.cas("count/a", entry.value + 1, entry.version)
                    break
                except VersionMismatch as mismatch:
                    assert mismatch.version > entry.version

    adding = [asyncio.create_task(add(10)) for _ in range(3)]
    await asyncio.sleep(0.3)
    killed = await kill_the_leader(nodes, client)
    await asyncio.gather(*adding)
    nodes.start_node(killed)
    assert await client.kv.get("count/a") == 30, "no increment was lost or done twice"
    await client.kv.put("count/b", "short", ttl="300ms")
    assert await client.kv.delete("count/a") and not await client.kv.delete("count/a")
    await until(lambda: _true(any(change.kind == "expired" for change in seen)), "the key to expire")
    following.cancel()
    values = [change.value for change in seen if change.key == "count/a" and change.kind == "put"]
    assert values[0] == 0 and values[-1] == 30 and values == sorted(values)
    assert ("deleted", "count/a") in {(change.kind, change.key) for change in seen}
    versions = [change.version for change in seen if change.key]
    assert versions == sorted(set(versions)), "each change once, in order"
    assert [entry.key async for entry in client.kv.list("count/")] == []


async def _true(value: bool) -> bool:
    return value


async def test_every_subscriber_sees_every_message_once_across_the_death_of_the_leader(
    nodes: LocalCluster, client: Cluster
) -> None:
    begun = await client.bus.publish("order.new", {"n": -1})
    seen: dict[str, list[Message]] = {"order.*": [], "order.>": [], "order.paid.eu": [], "+.paid.#": []}

    async def follow(pattern: str) -> None:
        async for message in client.bus.subscribe(pattern, after=begun):
            assert isinstance(message, Message)
            seen[pattern].append(message)

    following = [asyncio.create_task(follow(pattern)) for pattern in seen]

    async def publish(topic: str) -> None:
        for number in range(20):
            await client.bus.publish(topic, {"n": number}, headers={"kind": "test"})
            await asyncio.sleep(0.02)

    publishing = [asyncio.create_task(publish(topic)) for topic in ("order.new", "order.paid.eu")]
    await asyncio.sleep(0.3)
    killed = await kill_the_leader(nodes, client)
    await asyncio.gather(*publishing)
    nodes.start_node(killed)
    await until(lambda: _true(len(seen["order.>"]) >= 40), "all messages")
    for pattern in ("order.*", "order.paid.eu", "+.paid.#"):
        await until(lambda pattern=pattern: _true(len(seen[pattern]) >= 20), pattern)  # type: ignore[misc]
    for task in following:
        task.cancel()
    assert (
        [m.body["n"] for m in seen["order.*"]]
        == list(range(20))
        == [m.body["n"] for m in seen["order.paid.eu"]]
    )
    assert [m.position for m in seen["+.paid.#"]] == [m.position for m in seen["order.paid.eu"]]
    assert len(seen["order.>"]) == 40 and seen["order.>"][0].headers == {"kind": "test"}
    sequences = [m.sequence for m in seen["order.>"] if m.topic == "order.new"]
    assert sequences == list(range(sequences[0], sequences[0] + 20))


async def test_a_group_gives_each_message_to_one_consumer_until_it_is_acknowledged(client: Cluster) -> None:
    await client.bus.set_group("billing", "bill.>", ack_wait="4s", deliveries_max=2)
    await client.bus.set_topic("bill.a", kept_count=5)
    for number in range(4):
        await client.bus.publish("bill.a", number)
    first = await client.bus.fetch("billing", count=2)
    second = await client.bus.fetch("billing", count=10)
    assert [m.body for m in first] == [0, 1] and [m.body for m in second] == [2, 3]
    assert await client.bus.ack("billing", first) == 2
    again = await client.bus.fetch("billing", wait="10s")
    assert {m.body for m in again} == {2, 3} and {m.delivery for m in again} == {2}
    await client.bus.ack("billing", again[:1])
    await client.bus.nack("billing", again[1:])
    assert await client.bus.fetch("billing", wait=0) == []
    [group] = await client.bus.groups()
    assert (group.dead, group.unacked) == (1, 0)
    buried = client.bus.subscribe("$dead.billing", after=0)
    dead = await anext(buried)
    await buried.aclose()
    assert isinstance(dead, Message) and dead.body == again[1].body and dead.headers["topic"] == "bill.a"
    await client.bus.seek("billing", 0)
    assert [m.body for m in await client.bus.fetch("billing")] == [0, 1, 2, 3]
    for number in range(10):
        await client.bus.publish("bill.a", number)
    late = client.bus.subscribe("bill.a", after=0)
    gap, oldest = await anext(late), await anext(late)
    await late.aclose()
    assert isinstance(gap, MessageGap) and isinstance(oldest, Message) and oldest.body == 5


async def test_a_schedule_fires_each_time_once_while_leaders_die(
    nodes: LocalCluster, client: Cluster
) -> None:
    """Twenty ticks, two leaders killed on the way."""
    timing = Timing(interval="1s", overlap="allow", misfire="fire-all")
    await client.schedules.apply("tick", timing, type="echo", payload="tick", labels={"from": "schedule"})

    async def fired(count: int) -> bool:
        return (await client.schedules.get("tick")).fired >= count

    for count in (4, 10):
        await until(lambda count=count: fired(count), f"{count} ticks", 60)  # type: ignore[misc]
        killed = await kill_the_leader(nodes, client)
        nodes.start_node(killed)
    await until(lambda: fired(20), "20 ticks", 60)
    info = await client.schedules.pause("tick", "enough")
    assert info.paused and not info.next and (info.missed, info.skipped) == (0, 0)
    tasks = [task async for task in client.list_tasks(filter='labels.from="schedule"')]
    nominal = sorted(int(task.id.rsplit(".", 1)[1]) for task in tasks)
    assert len(nominal) == len(set(nominal)) == info.fired
    assert {later - earlier for earlier, later in pairwise(nominal)} == {1_000}
    triggered = await client.schedules.trigger("tick")
    assert await triggered.wait(timeout=30) == "tick"
    assert info.last is not None
    end = info.last + timedelta(milliseconds=1)
    jobs = await client.schedules.backfill("tick", end - timedelta(seconds=3), end)
    assert len(jobs) == 3 and [await job.wait(timeout=30) for job in jobs] == ["tick"] * 3
    await client.schedules.remove("tick")
    assert await client.schedules.list() == []


async def test_a_schedule_that_makes_no_sense_is_refused_with_the_reason(client: Cluster) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        await client.schedules.apply("bad", Timing(cron="61 * * * *", time_zone="Europe/Bonn"), type="echo")
    assert [field for field, _ in wrong.value.violations] == ["schedule.time_zone"]
    shown = await client.schedules.apply(
        "shown", Timing(cron="30 7 * * MON", time_zone="Europe/Berlin"), type="echo", validate_only=True
    )
    assert len(shown.next) == 3 and shown.next[0] > datetime.now(UTC)
    assert await client.schedules.list() == []
    assert await leader_of(client)


async def test_skills_share_a_lock_and_keys_and_publish_once_while_nodes_die(
    nodes: LocalCluster, client: Cluster, tmp_path: Path
) -> None:
    """A task that is taken up elsewhere neither adds nor publishes again what it had done."""
    lines, rounds, tasks = tmp_path / "witness", 5, 4
    begun = await client.bus.publish("share.begun")
    given = {"witness": str(lines), "rounds": rounds, "hold_ms": 60}
    jobs = [await client.submit_task(type="share", payload=given) for _ in range(tasks)]
    await until(lambda: _true(lines.exists() and len(lines.read_text().splitlines()) > 8), "some turns")
    killed = await kill_the_leader(nodes, client)
    results = [await job.wait(timeout=90) for job in jobs]
    nodes.start_node(killed)
    assert len({result["begun"] for result in results}) >= 1
    assert await client.kv.get("share/counter") == rounds * tasks
    told = []
    async for message in client.bus.subscribe("share.done", after=begun):
        assert isinstance(message, Message)
        told.append((message.body["task"], message.body["turn"]))
        assert message.publisher == f"task:{message.body['task']}" and message.headers == {"by": "share"}
        if len(told) == rounds * tasks:
            break
    assert sorted(told) == sorted((job.id, turn) for job in jobs for turn in range(rounds))
    tokens = [int(line.split()[1]) for line in lines.read_text().splitlines() if line.startswith("in ")]
    assert tokens == sorted(set(tokens)), "tokens did not grow in the order of holding"
    assert await client.locks.list("share/") == []


async def test_a_plain_function_has_the_same_calls(client: Cluster) -> None:
    job = await client.submit_task(type="shareplain", payload={"x": 1})
    said = await job.wait(timeout=30)
    assert said.pop("year") == datetime.now(UTC).year
    assert said == {
        "token": True,
        "held": True,
        "mismatch": True,
        "listed": [["plain/a", {"n": 2}], ["plain/b", None]],
        "gone": True,
        "position": True,
    }
    assert await client.kv.delete("plain/b")


async def test_the_command_line_does_the_same(nodes: LocalCluster) -> None:
    async def coterie(*arguments: str, code: int = 0) -> Any:
        session = Session(connect=lambda target: client_of(nodes))
        env = {"COTERIE_ENDPOINT": nodes.endpoints}
        result = await asyncio.to_thread(
            CliRunner().invoke, cli, [*arguments, "--json"], env=env, obj=session
        )
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    token = (await coterie("lock", "get", "cli", "--ttl", "60s"))["lock"]["token"]
    assert (await coterie("lock", "get", "cli", code=4))["error"]["reason"] == "LOCK_HELD"
    assert [one["name"] for one in (await coterie("lock", "list", "cl"))["locks"]] == ["cli"]
    assert (await coterie("lock", "release", "cli", str(token)))["released"] is True
    version = (await coterie("kv", "put", "cli/a", '{"n": 1}', "--expect", "0"))["version"]
    assert (await coterie("kv", "put", "cli/a", "2", "--expect", "0", code=4))["error"]["reason"]
    assert (await coterie("kv", "get", "cli/a"))["entry"]["value"] == {"n": 1}
    assert (await coterie("kv", "watch", "cli/", "--count", "1"))["changes"][0]["version"] == version
    assert len((await coterie("kv", "list", "cli/"))["entries"]) == 1
    assert (await coterie("kv", "rm", "cli/a"))["deleted"] is True
    assert not (await coterie("kv", "get", "cli/a", code=4))["ok"]
    await coterie("bus", "keep", "cli.said", "--count", "2")
    position = (await coterie("bus", "pub", "cli.said", '"hello"', "--header", "a=b"))["position"]
    [message] = (await coterie("bus", "sub", "cli.*", "--after", "0", "--count", "1"))["messages"]
    assert (message["position"], message["body"], message["headers"]) == (position, "hello", {"a": "b"})
    assert (await coterie("bus", "topics", "cli.*"))["topics"][0]["count"] == 1
    cron = ("--cron", "0 3 * * *", "--time-zone", "Europe/Berlin")
    shown = await coterie("schedule", "add", "cli", "echo", *cron, "--payload", "1", "--dry-run")
    assert len(shown["schedule"]["next"]) == 3 and not (await coterie("schedule", "list"))["schedules"]
    await coterie("schedule", "add", "cli", "echo", *cron, "--payload", "1")
    assert (await coterie("schedule", "pause", "cli", "--reason", "why"))["schedule"]["paused"]
    assert not (await coterie("schedule", "resume", "cli"))["schedule"]["paused"]
    assert len((await coterie("schedule", "trigger", "cli"))["tasks"]) == 1
    times = ("--from", "2026-03-01T00:00", "--to", "2026-03-04T00:00")
    assert len((await coterie("schedule", "backfill", "cli", *times))["tasks"]) == 3
    assert (await coterie("schedule", "show", "cli"))["schedule"]["fired"] == 4
    assert (await coterie("schedule", "rm", "cli"))["removed"] == "cli"
    for command in ("show", "rm"):
        error = (await coterie("schedule", command, "cli", code=4))["error"]
        assert error["reason"] == "SCHEDULE_NOT_FOUND" and "cli" in error["message"]
