"""Waiting: one stream for all waits, which outlives nodes; results and the ways to have none."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from coterie.client import (
    FailedPrecondition,
    NodeLost,
    NotFound,
    PermissionDenied,
    TaskCancelled,
    TaskDeadLettered,
    TaskError,
    TaskFailed,
    TaskTimedOut,
    Timeouts,
    Unavailable,
    WaitTimeout,
)
from coterie.v1 import tasks_pb2
from tests.client.conftest import IMPATIENT, client_of
from tests.client.fake import FakeCluster, Fault


def names_seen(fake: FakeCluster, node: str = "") -> set[str]:
    """Task ids that were sent on WaitTasks streams."""
    sent = [call for call in fake.calls if call[1] == "WaitTasks.names" and node in ("", call[0])]
    return {name.rpartition("/")[2] for _, _, names in sent for name in names}


async def test_many_waits_share_one_stream(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        jobs = await client.submit_tasks([{"type": "echo"} for _ in range(100)])
        waits = [asyncio.create_task(job.wait()) for job in jobs]
        await fake.until(lambda: len(names_seen(fake)) == 100)
        for number, job in enumerate(jobs):
            await fake.finish(job.id, {"n": number})
        assert await asyncio.gather(*waits) == [{"n": n} for n in range(100)]
    assert len(fake.methods("WaitTasks")) == 1
    assert len(fake.methods("WaitTasks.names")) == 1


async def test_two_waits_for_one_task_both_get_the_result(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        waits = [asyncio.create_task(client.job(job.id).wait()) for _ in range(2)]
        await fake.until(lambda: names_seen(fake))
        await fake.finish(job.id, "both")
        assert await asyncio.gather(*waits) == ["both", "both"]
        assert await job.wait() == "both"


@pytest.mark.parametrize(
    ("data", "value"), [(b"", None), (b"null", None), (b'{"a":[1]}', {"a": [1]}), (b"\xff\x00", b"\xff\x00")]
)
async def test_results_are_json_or_bytes(fake: FakeCluster, data: bytes, value: object) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        fake.tasks[job.id].result.inline = data
        fake.tasks[job.id].state = tasks_pb2.SUCCEEDED
        assert await job.wait() == value


async def test_a_wait_moves_on_from_every_node_that_stops(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        jobs = await client.submit_tasks([{"type": "echo"} for _ in range(5)])
        waits = [asyncio.create_task(job.wait()) for job in jobs]
        for _ in range(6):
            await fake.until(lambda: len(names_seen(fake)) == 5)
            busy = next(node for node in fake.nodes if names_seen(fake, node.name))
            fake.calls.clear()
            await busy.stop()
            await busy.start()
        await fake.until(lambda: len(names_seen(fake)) == 5)
        for job in jobs:
            await fake.finish(job.id, job.id)
        assert await asyncio.gather(*waits) == [job.id for job in jobs]


async def test_a_wait_survives_the_loss_of_all_nodes_for_a_while(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        wait = asyncio.create_task(job.wait())
        await fake.until(lambda: names_seen(fake))
        fake.calls.clear()
        for node in fake.nodes:
            await node.stop()
        await fake.finish(job.id, "kept")
        for node in fake.nodes:
            await node.start()
        assert await wait == "kept"
        assert names_seen(fake) == {job.id}


async def test_the_stream_leaves_a_node_that_stopped_answering(fake: FakeCluster) -> None:
    async with client_of(fake, timeouts=IMPATIENT) as client:
        job = await client.submit_task(type="echo")
        wait = asyncio.create_task(job.wait())
        await fake.until(lambda: names_seen(fake))
        [first] = {name for name, method, _ in fake.calls if method == "WaitTasks.names"}
        stopped = next(node for node in fake.nodes if node.name == first)
        stopped.deaf = True
        await fake.until(lambda: {name for name, m, _ in fake.calls if m == "WaitTasks.names"} != {first})
        await fake.finish(job.id, "moved")
        assert await wait == "moved"


async def test_a_task_unknown_to_a_lagging_node_is_asked_for_again(fake: FakeCluster) -> None:
    async with client_of(fake, fake.nodes[0]) as client:
        job = await client.submit_task(type="echo")
        fake.nodes[0].says_not_found = True
        wait = asyncio.create_task(job.wait())
        await fake.until(lambda: len(fake.methods("GetTask")) >= 2)
        fake.nodes[0].says_not_found = False
        await fake.finish(job.id, "found")
        assert await wait == "found"


async def test_waiting_for_nothing_says_so(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        with pytest.raises(NotFound):
            await client.job("never").wait()


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (tasks_pb2.FAILED, TaskFailed),
        (tasks_pb2.CANCELLED, TaskCancelled),
        (tasks_pb2.TIMED_OUT, TaskTimedOut),
        (tasks_pb2.DEAD_LETTERED, TaskDeadLettered),
    ],
)
async def test_a_task_without_a_result_raises(
    fake: FakeCluster, state: tasks_pb2.TaskState.ValueType, error: type[TaskError]
) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        fake.tasks[job.id].error.CopyFrom(tasks_pb2.TaskError(code="SKILL_FAILED", message="boom"))
        await fake.finish(job.id, state=state)
        with pytest.raises(error, match="boom") as failed:
            await job.wait()
    assert failed.value.task.id == job.id
    assert failed.value.task.done and failed.value.task.error
    assert failed.value.task.error.code == "SKILL_FAILED"


async def test_a_result_that_had_no_room_in_the_answer_to_a_batch_is_fetched(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        first = await client.submit_task(type="echo", request_id="once")
        await fake.finish(first.id, {"n": 1})
        for node in fake.nodes:
            node.leaves_results_out = True
        again = await client.submit_task(type="echo", request_id="once")
        assert await again.wait() == {"n": 1}


async def test_a_timeout_ends_the_wait_and_not_the_task(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        with pytest.raises(WaitTimeout) as late:
            await job.wait(timeout="20ms")
        assert isinstance(late.value, TimeoutError)
        await fake.finish(job.id, 1)
        assert await job.wait(timeout=30) == 1


async def test_a_loss_without_failover_is_an_error(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        wait = asyncio.create_task(job.wait(failover=False))
        await fake.until(lambda: fake.methods("WatchTask"))
        fake.tasks[job.id].attempt = 2
        await fake.tell(job.id, "released", detail="drained")
        await fake.until(lambda: len(fake.methods("GetTask")) >= 2)
        assert not wait.done(), "a drain is no loss"
        fake.tasks[job.id].losses = 1
        await fake.tell(job.id, "released", detail="node lost")
        with pytest.raises(NodeLost) as lost:
            await wait
        assert lost.value.task.losses == 1
        await fake.finish(job.id, "elsewhere")
        assert await job.wait() == "elsewhere"
        assert await job.wait(failover=False) == "elsewhere"


async def test_a_refused_stream_ends_all_waits(fake: FakeCluster) -> None:
    async with client_of(fake, fake.nodes[0]) as client:
        jobs = await client.submit_tasks([{"type": "echo"}] * 2)
        fake.nodes[0].faults["WaitTasks"] = [Fault(grpc.StatusCode.PERMISSION_DENIED, "viewer only")]
        waits = await asyncio.gather(*(job.wait() for job in jobs), return_exceptions=True)
        assert [type(error) for error in waits] == [PermissionDenied] * 2
        await fake.finish(jobs[0].id, "later")
        assert await jobs[0].wait() == "later"


async def test_an_outage_that_is_too_long_ends_the_wait(fake: FakeCluster) -> None:
    async with client_of(fake, timeouts=Timeouts(outage=0.5)) as client:
        job = await client.submit_task(type="echo")
        for node in fake.nodes:
            await node.stop()
        with pytest.raises(Unavailable, match="connection refused"):
            await job.wait()


async def test_cancel_reaches_the_task_and_a_finished_one_refuses(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        for node in fake.nodes:
            node.faults["CancelTask"] = [Fault(reason="NO_LEADER")]
        assert (await job.cancel("enough")).state == "CANCELLED"
        with pytest.raises(TaskCancelled):
            await job.wait()
        with pytest.raises(FailedPrecondition) as refused:
            await job.cancel()
    requests = fake.methods("CancelTask")
    assert refused.value.reason == "TASK_TERMINAL"
    assert {request.reason for request in requests[:-1]} == {"enough"}
    assert len({request.request_id for request in requests[:-1]}) == 1
