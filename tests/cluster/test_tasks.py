"""What a client can do with a healthy cluster."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest

from coterie.client import (
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    QueueFull,
    TaskCancelled,
    TaskFailed,
    TaskRouter,
    TaskTimedOut,
)
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import client_of, until

pytestmark = pytest.mark.cluster


async def test_every_node_takes_work_and_answers(shared: LocalCluster) -> None:
    for node_id in shared.node_ids:
        async with client_of(shared, node_id) as client:
            job = await client.submit_task(type="echo", payload={"from": node_id})
            assert await job.wait(timeout=30) == {"from": node_id}


async def test_a_result_can_be_read_on_every_node(shared: LocalCluster) -> None:
    async with client_of(shared, "node-1") as client:
        job = await client.submit_task(type="echo", payload=[1, 2])
        await job.wait(timeout=30)
    for node_id in shared.node_ids:
        async with client_of(shared, node_id) as client:
            info = await client.job(job.id).get()
            assert (info.state, info.attempt) == ("SUCCEEDED", 1)
            assert await client.job(job.id).wait(timeout=30) == [1, 2]


async def test_the_same_request_gives_the_same_task_on_any_node(shared: LocalCluster) -> None:
    request_id = secrets.token_hex(8)
    ids = set()
    for node_id in shared.node_ids:
        async with client_of(shared, node_id) as client:
            job = await client.submit_task(type="echo", payload=7, request_id=request_id)
            ids.add(job.id)
    assert len(ids) == 1


async def test_a_request_id_with_another_body_is_refused(shared: LocalCluster) -> None:
    request_id = secrets.token_hex(8)
    async with client_of(shared) as client:
        await client.submit_task(type="echo", payload=1, request_id=request_id)
        with pytest.raises(InvalidRequest) as refused:
            await client.submit_task(type="echo", payload=2, request_id=request_id)
    assert refused.value.reason == "REQUEST_ID_REUSED"


async def test_many_tasks_from_many_callers(shared: LocalCluster) -> None:
    async with client_of(shared) as client:

        async def one(number: int) -> int:
            job = await client.submit_task(type="echo", payload=number)
            result: int = await job.wait(timeout=60)
            return result

        assert await asyncio.gather(*map(one, range(300))) == list(range(300))


async def test_a_batch_is_answered_in_order(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        jobs = await client.submit_tasks([{"type": "echo", "payload": n} for n in range(50)])
        assert [await job.wait(timeout=30) for job in jobs] == list(range(50))


async def test_a_watch_tells_the_whole_story(shared: LocalCluster, tmp_path: Path) -> None:
    seen: list[float] = []
    async with client_of(shared) as client:
        job = await client.submit_task(
            type="steps",
            payload={"witness": str(tmp_path / "w"), "steps": 3, "step_ms": 250},
            on_progress=lambda p: seen.append(p.percent),
        )
        events = [event async for event in job.watch()]
    types = [event.type for event in events if event.type not in ("progress", "checkpoint")]
    assert types == ["submitted", "assigned", "started", "step", "step", "step", "succeeded"]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_finished_task_can_be_watched_again_from_any_token(
    shared: LocalCluster, tmp_path: Path
) -> None:
    async with client_of(shared, "node-1") as client:
        job = await client.submit_task(
            type="steps", payload={"witness": str(tmp_path / "w"), "steps": 4, "step_ms": 1}
        )
        await job.wait(timeout=30)
        whole = [event async for event in job.watch()]
    for node_id in shared.node_ids:
        async with client_of(shared, node_id) as client:
            for at, event in enumerate(whole[:-1]):
                rest = [e async for e in client.job(job.id).watch(resume_token=event.resume_token)]
                assert [e.sequence for e in rest] == [e.sequence for e in whole[at + 1 :]]


async def test_payloads_and_results_above_the_inline_limit_travel_as_blobs(shared: LocalCluster) -> None:
    text = secrets.token_hex(400_000)
    async with client_of(shared, "node-2") as client:
        job = await client.submit_task(type="echo", payload={"text": text})
        assert (await job.wait(timeout=60)) == {"text": text}
    async with client_of(shared, "node-3") as client:
        assert (await client.job(job.id).wait(timeout=60)) == {"text": text}
        info = await client.job(job.id).get()
        assert info.raw.result.blob.sha256


async def test_cancelling_a_queued_and_a_running_task(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        later = await client.submit_task(type="echo", start_delay="1h")
        await later.cancel("not needed")
        running = await client.submit_task(type="sleep", payload={"seconds": 600})
        await until(lambda: _is(running, "RUNNING"), "the task runs")
        await running.cancel()
        for job in (later, running):
            with pytest.raises(TaskCancelled):
                await job.wait(timeout=30)
        with pytest.raises(FailedPrecondition):
            echo = await client.submit_task(type="echo")
            await echo.wait(timeout=30)
            await echo.cancel()


async def test_a_skill_that_ignores_cancellation_is_killed(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        job = await client.submit_task(type="stubborn", payload={})
        await until(lambda: _is(job, "RUNNING"), "the task runs")
        await job.cancel()
        with pytest.raises(TaskCancelled):
            await job.wait(timeout=30)


async def _is(job: object, state: str) -> bool:
    return bool((await job.get()).state == state)  # type: ignore[attr-defined]


async def test_a_hanging_skill_harms_nobody_and_times_out(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        hanging = await client.submit_tasks(
            [{"type": "hang", "payload": {}, "timeout": "2s", "max_attempts": 1} for _ in range(3)]
        )
        jobs = await client.submit_tasks([{"type": "echo", "payload": n} for n in range(50)])
        assert [await job.wait(timeout=30) for job in jobs] == list(range(50))
        for job in hanging:
            with pytest.raises((TaskTimedOut, TaskFailed)) as ended:
                await job.wait(timeout=60)
            assert ended.value.task.error is not None
            assert ended.value.task.error.code == "ATTEMPT_TIMEOUT"


@pytest.mark.parametrize(
    ("how", "attempts", "code"),
    [
        ("abort", 2, "SKILL_CRASHED"),
        ("exit", 2, "SKILL_CRASHED"),
        ("raise", 2, "SKILL_FAILED"),
        ("raise-final", 1, "NON_RETRYABLE"),
    ],
)
async def test_a_dying_skill_is_tried_again_and_then_failed(
    shared: LocalCluster, how: str, attempts: int, code: str
) -> None:
    async with client_of(shared) as client:
        job = await client.submit_task(type="crash", payload={"how": how}, max_attempts=2)
        with pytest.raises(TaskFailed) as failed:
            await job.wait(timeout=60)
        assert failed.value.task.error is not None
        assert (failed.value.task.attempt, failed.value.task.error.code) == (attempts, code)


async def test_a_deadline_ends_a_task(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        job = await client.submit_task(type="sleep", payload={"seconds": 600}, deadline="1s")
        with pytest.raises(TaskTimedOut):
            await job.wait(timeout=30)


async def test_listing_pages_filters_and_orders(shared: LocalCluster) -> None:
    tag = secrets.token_hex(4)
    async with client_of(shared) as client:
        jobs = await client.submit_tasks(
            [{"type": "echo", "payload": n, "labels": {"run": tag}} for n in range(25)]
        )
        for job in jobs:
            await job.wait(timeout=30)
    newest_first = [job.id for job in reversed(jobs)]
    for node_id in shared.node_ids:
        async with client_of(shared, node_id) as client:
            query = f'labels.run="{tag}" AND state=SUCCEEDED'
            listed = [task.id async for task in client.list_tasks(filter=query, page_size=10)]
            assert listed == newest_first


async def test_a_task_nobody_can_run_says_why(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        job = await client.submit_task(type="echo", constraints={"requireGPU": True})
        info = await job.get()
        assert (info.state, info.wait_reason) == ("PENDING", "NO_NODE")
        assert "no GPU" in info.wait_detail
        route = await job.explain()
        assert (route.wait_reason, route.node) == ("NO_NODE", "")
        for candidate in route.candidates:
            assert ("gpu", "has no GPU") in candidate.objections
        assert {candidate.node for candidate in route.candidates} == set(shared.node_ids)
        await job.cancel()


async def test_a_dry_run_says_where_a_task_would_go_on_every_node_alike(shared: LocalCluster) -> None:
    leader = await shared.wait_ready()
    for node_id in shared.node_ids:
        async with client_of(shared, node_id) as client:
            task = {"type": "echo", "payload": 1, "constraints": {"maxLatency": "10s"}}
            route = await TaskRouter(client).route(task, strategy="least-loaded")
            assert route.node in shared.node_ids and route.decided_by == leader
            assert all(c.cost is not None and c.terms for c in route.candidates)
            assert {t.name for t in route.candidates[0].terms} >= {"load", "latency"}
            job = await client.submit_task(route, type="echo", payload=7)
            assert await job.wait(timeout=30) == 7
            assert (
                await job.get()
            ).node in shared.node_ids  # a route advises: on a busy node it is overruled
            nowhere = await client.route_task(task, constraints={"require_node": "coordinator", "gpus": 1})
            assert nowhere.wait_reason == "NO_NODE" and nowhere.wait_detail.count("GPU") == 3


async def test_what_must_run_on_the_coordinator_does(shared: LocalCluster) -> None:
    leader = await shared.wait_ready()
    async with client_of(shared) as client:
        tasks = [{"type": "echo", "constraints": {"require_node": "coordinator"}} for _ in range(5)]
        for job in await client.submit_tasks(tasks):
            await job.wait(timeout=30)
            assert (await job.get()).node == leader


async def test_a_full_queue_refuses_before_anything_is_kept(shared: LocalCluster) -> None:
    """maxPending of this cluster is 500."""
    async with client_of(shared) as client:
        refused = None
        try:
            await client.submit_tasks([{"type": "echo", "start_delay": "1h"} for _ in range(250)])
            await client.submit_tasks([{"type": "echo", "start_delay": "1h"} for _ in range(200)])
            for _ in range(100):
                await client.submit_task(type="echo", start_delay="1h")
        except QueueFull as error:
            refused = error
        finally:
            waiting = [task async for task in client.list_tasks(filter="state=PENDING", page_size=1_000)]
            for task in waiting:
                await client.job(task.id).cancel()
        assert refused is not None and refused.retry_after is not None
        job = await client.submit_task(type="echo", payload=1)
        assert await job.wait(timeout=30) == 1


async def test_all_violations_are_named_at_once(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        raw = client_request()
        with pytest.raises(InvalidRequest) as refused:
            await client.submit_task(
                type="ecko", payload=1, max_attempts=1_000, task_id="no spaces", request_id=raw
            )
    fields = {field for field, _ in refused.value.violations}
    assert {"task.type", "task.max_attempts", "task.task_id", "request_id"} <= fields
    texts = dict(refused.value.violations)
    assert "did you mean 'echo'" in texts["task.type"]


def client_request() -> str:
    return "a b"


async def test_what_does_not_exist_is_not_found(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        with pytest.raises(NotFound):
            await client.job("nothing").get()
        with pytest.raises(NotFound):
            await client.job("nothing").wait(timeout=30)
        with pytest.raises(NotFound):
            await client.drain_node("node-9")
        with pytest.raises(InvalidRequest):
            await client.job("no spaces in names").get()


async def test_status_counts_nodes_and_names_the_leader(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        status = await client.get_status()
        assert (status.active_nodes, status.total_nodes, status.has_quorum) == (3, 3, True)
        assert status.leader in shared.node_ids
        nodes = await client.list_nodes()
        assert {node.id for node in nodes} == set(shared.node_ids)
        assert all("echo" in node.skills for node in nodes)


async def test_leadership_can_be_handed_over(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        before = (await client.get_status()).leader
        target = next(node_id for node_id in shared.node_ids if node_id != before)
        assert await client.transfer_leadership(target) == target

        async def moved() -> bool:
            return (await client.get_status()).leader == target

        await until(moved, "the new leader is known")
        job = await client.submit_task(type="echo", payload=1)
        assert await job.wait(timeout=30) == 1


async def test_state_is_equal_on_all_nodes(shared: LocalCluster) -> None:
    async def equal() -> bool:
        hashes = set()
        for node_id in shared.node_ids:
            async with client_of(shared, node_id) as client:
                status = await client.get_status(state_hash=True)
                hashes.add((status.applied_index, status.state_hash))
        return len(hashes) == 1

    await until(equal, "three nodes at the same index have the same state")
