"""Control of tasks, dead letters, quarantine and limits on real nodes, also while leaders die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coterie.client import (
    Cluster,
    ClusterError,
    FailedPrecondition,
    Job,
    Limit,
    QueueFull,
    TaskDeadLettered,
    TaskFailed,
    TaskInfo,
    Tenant,
)
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of, new_cluster, until
from tests.cluster.test_failover import (
    assert_no_step_ran_again_after_completion,
    executions,
    has_steps,
    leader_of,
    steps_payload,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PENDING_MAX = 25
ONCE = {"max_attempts": 1, "dead_letter": True}


@pytest.fixture(scope="module")
def nodes() -> Any:
    """Three nodes for all of this file: who kills one starts it again."""
    options: dict[str, Any] = {"distribution": {"taskQueue": {"maxPending": PENDING_MAX}}}
    options["limits"] = {"payloadInlineMax": "4KiB"}
    with new_cluster(options=options) as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


@pytest.fixture
async def client(nodes: LocalCluster) -> AsyncIterator[Cluster]:
    async with client_of(nodes) as opened:
        yield opened


async def in_state(job: Job, *states: str) -> TaskInfo:
    async def there() -> TaskInfo | None:
        info = await job.get()
        return info if info.state in states else None

    found = await until(there, f"{job.id} is {' or '.join(states)}")
    assert isinstance(found, TaskInfo)
    return found


async def kill_the_leader(nodes: LocalCluster, client: Cluster) -> str:
    """Kill -9; returns its name once another node leads."""
    old = await leader_of(client)
    nodes.kill_node(old)

    async def another() -> bool:
        return await leader_of(client) != old

    await until(another, "another leader")
    return old


async def test_what_was_paused_or_waits_goes_on_after_the_leader_died(
    nodes: LocalCluster, client: Cluster, tmp_path: Path
) -> None:
    seen, said = tmp_path / "steps", tmp_path / "waits"
    running = await client.submit_task(type="steps", payload=steps_payload(seen, 40, 100))
    queued = await client.submit_task(type="echo", payload=1, start_delay="1h")
    given = {"witness": str(said), "signals": ["go", "go", "stop"]}
    waiting = await client.submit_task(type="wait", payload=given)
    sleeping = await client.submit_task(type="wait", payload={"witness": str(said), "sleep_ms": 1_000})
    assert (await queued.pause("not yet", request_id="p1")).wait_reason == "PAUSE"
    await has_steps(running, 2)
    await running.pause("lunch")
    paused = await in_state(running, "PAUSED")
    await in_state(waiting, "WAITING")
    assert 2 <= paused.step_count < 40 and (await waiting.get()).wait_reason == "SIGNAL"
    await waiting.signal("go", {"n": 1}, request_id="first")
    killed = await kill_the_leader(nodes, client)
    assert (await running.get()).state == "PAUSED" == (await queued.get()).state
    await waiting.signal("go", {"n": 1}, request_id="first")  # the same once more: an answer may get lost
    await waiting.signal("go", 2)
    await waiting.signal("stop")
    assert (await waiting.wait(timeout=30))["told"] == [{"n": 1}, 2, None]
    assert (await sleeping.wait(timeout=30))["attempt"] > 1, "it slept without a process"
    await running.resume()
    assert len((await running.wait(timeout=30))["squares"]) == 40
    await queued.resume()
    repeated = await queued.pause("not yet", request_id="p1")  # an answer that was lost: the pause was done
    assert (repeated.state, repeated.wait_reason) == ("PENDING", "DELAYED")
    with pytest.raises(ClusterError, match="p1 was used with another body"):
        await queued.cancel(request_id="p1")
    assert await queued.retry(request_id="now") is queued
    assert await queued.wait(timeout=30) == 1
    nodes.start_node(killed)
    info = await running.get(include_steps=True)
    assert_no_step_ran_again_after_completion(seen, info)
    assert len(executions(seen, running.id)) == 40, "a pause falls between two steps"
    lines = [line.split()[1] for line in said.read_text().splitlines() if line.split()[0] == waiting.id]
    assert sorted(lines) == ["begin", "go", "go", "stop"], "no step twice"
    with pytest.raises(FailedPrecondition, match="SUCCEEDED"):
        await waiting.signal("go")
    assert (await waiting.signal("go", {"n": 1}, request_id="first")).state == "SUCCEEDED"
    assert await queued.retry(request_id="now") is queued, "it was hurried, and that is all"


async def test_a_wait_that_runs_out_ends_the_task_unless_it_is_caught(
    client: Cluster, tmp_path: Path
) -> None:
    given = {"witness": str(tmp_path / "witness"), "signals": ["never"], "timeout_ms": 300}
    job = await client.submit_task(type="wait", payload=given)
    with pytest.raises(TaskFailed) as failed:
        await job.wait(timeout=30)
    assert failed.value.task.error is not None and failed.value.task.error.code == "WAIT_TIMED_OUT"
    assert failed.value.task.failures == 1


async def test_a_cluster_may_allow_less_inline_than_clients_think(client: Cluster, tmp_path: Path) -> None:
    long = "x" * 20_000
    assert await (await client.submit_task(type="echo", payload=long)).wait(timeout=30) == long
    given = {"witness": str(tmp_path / "witness"), "signals": ["go"]}
    waiting = await client.submit_task(type="wait", payload=given)
    await waiting.signal("go", long)
    assert (await waiting.wait(timeout=30))["told"] == [long]


async def test_cancelling_a_waiting_task_ends_it(client: Cluster, tmp_path: Path) -> None:
    given = {"witness": str(tmp_path / "witness"), "signals": ["never"]}
    job = await client.submit_task(type="wait", payload=given)
    child = await client.submit_task(type="echo", start_delay="1h", parent=job.id)
    await in_state(job, "WAITING")
    assert (await job.cancel()).state == "CANCELLED"
    assert (await child.get()).state == "CANCELLED", "what belongs to it ends with it"


async def test_a_dead_letter_is_replayed_with_its_steps_and_purged(client: Cluster) -> None:
    job = await client.submit_task(type="crash", payload={"how": "raise"}, retry=ONCE)
    with pytest.raises(TaskDeadLettered):
        await job.wait(timeout=30)
    assert job.id in [letter.id async for letter in client.dead_letters.list()]
    shown = await client.dead_letters.get(job.id)
    assert shown.error is not None and shown.error.code == "SKILL_FAILED"
    again = await client.dead_letters.replay(job.id, request_id="again")
    assert (await client.dead_letters.replay(job.id, request_id="again")).id == again.id != job.id
    with pytest.raises(TaskDeadLettered) as ended:
        await again.wait(timeout=30)
    assert ended.value.task.retry_of == job.id
    assert [letter.id async for letter in client.dead_letters.list()] == [again.id]
    assert await client.dead_letters.purge([again.id]) == 1
    assert [letter.id async for letter in client.dead_letters.list()] == []


async def test_a_failed_task_is_retried_with_the_steps_that_only_the_history_has(
    client: Cluster, tmp_path: Path
) -> None:
    given = {"witness": str(tmp_path / "witness"), "signals": ["never"], "timeout_ms": 1}
    job = await client.submit_task(type="wait", payload=given)
    with pytest.raises(TaskFailed):
        await job.wait(timeout=30)
    again = await job.retry()
    with pytest.raises(TaskFailed):
        await again.wait(timeout=30)
    assert [line.split()[0] for line in (tmp_path / "witness").read_text().splitlines()] == [job.id]


async def test_a_task_that_kills_its_process_on_three_nodes_is_quarantined(client: Cluster) -> None:
    retry = {"max_attempts": 100, "initial_backoff": "1ms", "max_backoff": "1ms"}
    job = await client.submit_task(type="crash", payload={"how": "abort"}, retry=retry)
    with pytest.raises(TaskDeadLettered) as quarantined:
        await job.wait(timeout=60)
    task = quarantined.value.task
    assert task.error is not None and task.error.code == "POISON"
    assert set(task.crashed_on) == {"node-1", "node-2", "node-3"}
    assert all(node in task.error.message for node in task.crashed_on)
    assert [letter.id async for letter in client.dead_letters.list()] == [job.id]


async def test_a_full_queue_says_when_to_come_back(nodes: LocalCluster, client: Cluster) -> None:
    await client.limits.set_tenant(Tenant("small", 1, 2))
    async with client_of(nodes, tenant="small") as small:
        jobs = [await small.submit_task(type="echo", start_delay="1h") for _ in range(2)]
        with pytest.raises(QueueFull) as refused:
            await small.submit_task(type="echo")
        assert refused.value.reason == "TENANT_QUOTA" and (refused.value.retry_after or 0) > 0
        jobs += [await client.submit_task(type="echo", start_delay="1h") for _ in range(PENDING_MAX - 2)]
        applied = (await client.get_status()).commit_index
        for _ in range(20):
            with pytest.raises(QueueFull) as refused:
                await client.submit_task(type="echo")
            assert refused.value.reason == "QUEUE_FULL" and (refused.value.retry_after or 0) > 0
        assert (await client.get_status()).commit_index < applied + 20, "refused before commit"
        patient = asyncio.create_task(client.submit_task(type="echo", payload=7, wait_when_full=True))
        await asyncio.gather(*(job.cancel() for job in jobs))
    assert await (await patient).wait(timeout=30) == 7


async def test_a_limit_holds_on_three_nodes_together(client: Cluster) -> None:
    await client.limits.set(Limit(id="per-customer", key="*", concurrent=2))
    entries = [
        {"type": "span", "payload": {"ms": 150}, "key": f"customer-{number % 2}"} for number in range(16)
    ]
    jobs = await client.submit_tasks(entries)
    waiting = [await job.get() for job in jobs]
    assert {task.raw.wait_limit for task in waiting} <= {"", "per-customer"}
    spans = [await job.wait(timeout=30) for job in jobs]
    infos = [await job.get() for job in jobs]
    assert len({info.node for info in infos}) > 1, "on more than one node"
    for customer in range(2):
        assert most_at_once(spans[customer::2]) == 2
    await client.limits.remove("per-customer")


def most_at_once(spans: list[list[float]]) -> int:
    """Of how many spans the inner parts overlap at most."""
    moments = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most
