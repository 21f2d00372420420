"""Waiting: one stream for all waits, which outlives nodes; results and the ways to have none."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc.aio._call import _StreamRequestMixin

from coterie.client import (
    ClusterError,
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
from coterie.client.endpoints import Pool
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
    async with client_of(fake, timeouts=Timeouts(outage=3)) as client:
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


async def test_a_stream_that_ends_while_names_are_written_costs_no_wait(
    fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC says so by an error of its own kind, which is neither a status nor a fault of the cluster."""
    broken: list[object] = []
    write = _StreamRequestMixin.write

    async def write_late(call: Any, request: Any) -> None:
        if not broken:
            broken.append(request)
            call.cancel()
            raise asyncio.InvalidStateError("RPC already finished.")
        await write(call, request)

    monkeypatch.setattr(_StreamRequestMixin, "write", write_late)
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        wait = asyncio.create_task(job.wait())
        await fake.until(lambda: names_seen(fake))
        await fake.finish(job.id, "done")
        assert await asyncio.wait_for(wait, 20) == "done" and broken


async def test_a_fault_of_the_waiting_itself_is_told_and_later_waits_go_on(
    fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [ValueError("a fault"), None]

    def pick(pool: Pool, avoid: Any = None) -> Any:
        if len(faults) > 1 and "coterie-client-waits" in asyncio.current_task().get_name():  # type: ignore[union-attr]
            raise faults.pop(0)  # type: ignore[misc]
        return chosen(pool, avoid)

    chosen = Pool.pick
    monkeypatch.setattr(Pool, "pick", pick)
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        with pytest.raises(ClusterError, match="a fault"):
            await asyncio.wait_for(job.wait(), 20)
        await fake.finish(job.id, "done")
        assert await asyncio.wait_for(job.wait(), 20) == "done"


async def test_a_node_without_room_for_the_stream_is_left_for_another(fake: FakeCluster) -> None:
    full = [
        Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls are open", reason="OVERLOADED"),
        Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"),
    ]
    for node, fault in zip(fake.nodes, full, strict=False):
        node.faults["WaitTasks"] = [fault] * 9
        node.faults["GetTask"] = [fault] * 9
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        wait = asyncio.create_task(job.wait())
        await fake.until(lambda: names_seen(fake, "n3"))
        await fake.finish(job.id, "done")
        assert await wait == "done"
        assert (await job.get()).state == "SUCCEEDED"


async def test_a_task_is_awaited_by_its_id_whatever_tenant_it_is_of(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        fake.tasks[job.id].name = f"tenants/acme/tasks/{job.id}"
        wait = asyncio.create_task(client.job(job.id).wait())
        await fake.until(lambda: names_seen(fake))
        await fake.finish(job.id, "done")
        assert await asyncio.wait_for(wait, 10) == "done"
