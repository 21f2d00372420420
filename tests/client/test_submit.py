"""Submitting: coalescing, retries under one request_id, refusals."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from coterie.client import (
    ClusterClosed,
    InvalidRequest,
    QueueFull,
    ResourceExhausted,
    SubmitErrors,
    TaskSpec,
    Timeouts,
    Unavailable,
)
from coterie.client.submit import BATCH_TASKS_MAX, BATCHES_IN_FLIGHT_MAX, ELSEWHERE_TRIES
from tests.client.conftest import IMPATIENT, PATIENT, client_of
from tests.client.fake import FakeCluster, Fault

LEADERSHIP_LOST = Fault(grpc.StatusCode.ABORTED, reason="LEADERSHIP_LOST_UNKNOWN_OUTCOME", after=True)


async def test_submits_of_one_turn_share_one_call(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        jobs = await asyncio.gather(*(client.submit_task(type="echo", payload=n) for n in range(200)))
    [batch] = fake.methods("BatchSubmitTasks")
    assert len(batch.requests) == 200
    assert [fake.tasks[job.id].payload.inline for job in jobs] == [b"%d" % n for n in range(200)]
    assert len({entry.request_id for entry in batch.requests}) == 200


async def test_batches_stay_under_the_limits(fake: FakeCluster) -> None:
    text = "x" * 200_000
    async with client_of(fake) as client:
        await client.submit_tasks([{"type": "echo", "payload": n} for n in range(600)])
        await client.submit_tasks([{"type": "echo", "payload": text} for _ in range(40)])
    batches = fake.methods("BatchSubmitTasks")
    assert sum(len(batch.requests) for batch in batches) == 640
    assert max(len(batch.requests) for batch in batches) == BATCH_TASKS_MAX
    assert max(batch.ByteSize() for batch in batches) <= 3 * 1024 * 1024 + 4096
    assert len(batches) <= 3 + 3


async def test_while_four_calls_are_under_way_the_next_batch_grows(fake: FakeCluster) -> None:
    gate = asyncio.Event()
    for node in fake.nodes:
        node.gate = gate
    async with client_of(fake) as client:
        submits = []
        for number in range(1, BATCHES_IN_FLIGHT_MAX + 1):
            submits.append(asyncio.create_task(client.submit_task(type="early")))
            await fake.until(lambda number=number: len(fake.calls) == number)
        submits += [asyncio.create_task(client.submit_task(type="late")) for _ in range(50)]
        status = asyncio.create_task(client.get_status())
        await fake.until(lambda: fake.methods("GetStatus"))
        assert len(fake.methods("BatchSubmitTasks")) == BATCHES_IN_FLIGHT_MAX
        gate.set()
        await asyncio.gather(*submits, status)
    sizes = [len(batch.requests) for batch in fake.methods("BatchSubmitTasks")]
    assert sizes == [1] * BATCHES_IN_FLIGHT_MAX + [50]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(grpc.StatusCode.UNAVAILABLE, after=True),
        Fault(grpc.StatusCode.UNAVAILABLE, reason="NO_LEADER", retry_after=0.05),
        Fault(grpc.StatusCode.CANCELLED, after=True),
        Fault(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", after=True),
        Fault(grpc.StatusCode.UNAVAILABLE, pushback_ms="30"),
        Fault(hang=True),
        LEADERSHIP_LOST,
    ],
    ids=lambda fault: f"{fault.code.name}-{fault.reason}{fault.hang}",
)
async def test_a_failed_submit_is_repeated_elsewhere_with_the_same_request_id(
    fake: FakeCluster, fault: Fault
) -> None:
    for node in fake.nodes:
        node.faults["BatchSubmitTasks"] = [fault]
    async with client_of(fake, timeouts=IMPATIENT if fault.hang else PATIENT) as client:
        job = await client.submit_task(type="echo", payload="once")
        struck = [name for name, method, _ in fake.calls if method == "BatchSubmitTasks"]
    ids = {batch.requests[0].request_id for batch in fake.methods("BatchSubmitTasks")}
    assert ids == {job.request_id}
    assert len(fake.tasks) == 1
    assert len(struck) == 4 and set(struck[:3]) == {"n1", "n2", "n3"}


async def test_a_pushback_that_forbids_retries_is_obeyed(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.faults["BatchSubmitTasks"] = [Fault(pushback_ms="-1")]
    async with client_of(fake) as client:
        with pytest.raises(Unavailable):
            await client.submit_task(type="echo")
    assert len(fake.calls) == 1


async def test_a_user_given_request_id_never_makes_a_second_task(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        first = await client.submit_task(type="echo", request_id="mine")
        again = await client.submit_task(type="echo", request_id="mine")
    assert first.id == again.id and first.request_id == "mine"


async def test_one_refused_entry_leaves_the_others_submitted(fake: FakeCluster) -> None:
    unknown = Fault(
        grpc.StatusCode.INVALID_ARGUMENT,
        "task.type: 'nope' is no skill here",
        reason="UNKNOWN_SKILL",
        violations=[("task.type", "'nope' is no skill here")],
    )
    for node in fake.nodes:
        node.entry_faults = [None, unknown, None]
    async with client_of(fake) as client:
        with pytest.raises(SubmitErrors) as refused:
            await client.submit_tasks(
                [
                    {"type": "a"},
                    {"type": "nope"},
                    {"type": "b"},
                    {"typo": "c"},
                    TaskSpec(type="d", timeout="1x"),
                ]
            )
    error = refused.value
    assert sorted(error.errors) == [1, 3, 4]
    assert [job is not None for job in error.jobs] == [True, False, True, False, False]
    assert isinstance(error.errors[1], InvalidRequest) and error.errors[1].reason == "UNKNOWN_SKILL"
    assert error.errors[1].violations == [("task.type", "'nope' is no skill here")]
    assert sorted(task.type for task in fake.tasks.values()) == ["a", "b"]
    assert "[1]" in str(error) and "[3]" in str(error)


async def test_an_entry_that_met_a_leader_change_is_sent_again_alone(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.entry_faults = [None, Fault(reason="NO_LEADER", retry_after=0.01)]
    async with client_of(fake, fake.nodes[0]) as client:
        await client.submit_tasks([{"type": "a"}, {"type": "b"}])
    first, second = fake.methods("BatchSubmitTasks")
    assert [entry.task.type for entry in first.requests] == ["a", "b"]
    assert [entry.request_id for entry in second.requests] == [first.requests[1].request_id]


async def test_a_full_queue_is_told_with_its_retry_time(fake: FakeCluster) -> None:
    full = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "10000 tasks", reason="QUEUE_FULL", retry_after=1.5)
    for node in fake.nodes:
        node.entry_faults = [full]
    async with client_of(fake) as client:
        with pytest.raises(QueueFull) as refused:
            await client.submit_task(type="echo")
    assert (refused.value.retry_after, refused.value.reason) == (1.5, "QUEUE_FULL")
    assert len(fake.calls) == 1


async def test_wait_when_full_comes_back_when_told(fake: FakeCluster) -> None:
    full = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="QUEUE_FULL", retry_after=0.05)
    fake.nodes[0].entry_faults = [full, full]
    async with client_of(fake, fake.nodes[0]) as client:
        job = await client.submit_task(type="echo", wait_when_full=True)
    assert len(fake.calls) == 3 and len(fake.tasks) == 1
    assert fake.tasks[job.id].request_id == job.request_id


async def test_a_full_queue_without_a_time_is_not_waited_for(fake: FakeCluster) -> None:
    fake.nodes[0].entry_faults = [Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="TENANT_QUOTA")]
    async with client_of(fake, fake.nodes[0]) as client:
        with pytest.raises(Exception, match="TENANT_QUOTA"):
            await client.submit_task(type="echo", wait_when_full=True)
    assert len(fake.calls) == 1


async def test_an_unreachable_cluster_names_every_endpoint_and_the_request_id(fake: FakeCluster) -> None:
    for node in fake.nodes[:2]:
        await node.stop()
    fake.nodes[2].deaf = True
    async with client_of(fake, timeouts=Timeouts(call=1.5, attempt=0.3)) as client:
        with pytest.raises(Unavailable) as failed:
            await client.submit_task(type="echo", request_id="abc")
    assert failed.value.request_id == "abc"
    errors = failed.value.endpoints
    assert "connection refused" in errors[fake.nodes[0].address]
    assert "connection refused" in errors[fake.nodes[1].address]
    assert "no answer in time" in errors[fake.nodes[2].address]
    assert all(address in str(failed.value) for address in errors)


async def test_a_node_that_does_not_speak_the_protocol_is_no_success(fake: FakeCluster) -> None:
    async def nothing(request: object, context: object) -> object:
        from coterie.v1 import tasks_pb2

        return tasks_pb2.BatchSubmitTasksResponse()

    await fake.nodes[0].stop()
    fake.nodes[0].BatchSubmitTasks = nothing  # type: ignore[method-assign]
    await fake.nodes[0].start()
    async with client_of(fake, fake.nodes[0]) as client:
        with pytest.raises(Exception, match="0 results for 1 tasks"):
            await client.submit_task(type="echo")


async def test_a_cancelled_submit_is_not_sent(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        submit = asyncio.create_task(client.submit_task(type="gone"))
        stays = asyncio.create_task(client.submit_task(type="stays"))
        asyncio.get_running_loop().call_soon(submit.cancel)
        with pytest.raises(asyncio.CancelledError):
            await submit
        await stays
    assert [task.type for task in fake.tasks.values()] == ["stays"]


async def test_a_closed_cluster_refuses(fake: FakeCluster) -> None:
    client = client_of(fake)
    with pytest.raises(ClusterClosed):
        await client.submit_task(type="echo")
    async with client:
        job = await client.submit_task(type="echo")
    with pytest.raises(ClusterClosed):
        await client.submit_task(type="echo")
    with pytest.raises(ClusterClosed):
        await job.get()


async def test_closing_ends_submits_under_way(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.deaf = True
    client = client_of(fake, timeouts=Timeouts(call=20, attempt=20))
    async with client:
        submits = [asyncio.create_task(client.submit_task(type="echo")) for _ in range(10)]
        status = asyncio.create_task(client.get_status())
        await fake.until(lambda: len(fake.calls) >= 2)
    for result in await asyncio.gather(*submits, status, return_exceptions=True):
        assert isinstance(result, ClusterClosed)


async def test_a_node_with_a_full_disk_is_passed_over_and_full_disks_everywhere_are_told(
    fake: FakeCluster,
) -> None:
    full = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="DISK_FULL", retry_after=2.0)
    fake.nodes[0].entry_faults = [full, full]
    async with client_of(fake, fake.nodes[0]) as client:
        await client.submit_task(type="echo")
        assert (len(fake.calls), len(fake.tasks)) == (3, 1)
        fake.nodes[0].entry_faults = [full] * 20
        with pytest.raises(ResourceExhausted) as refused:
            await client.submit_task(type="echo")
    assert (refused.value.reason, refused.value.retry_after) == ("DISK_FULL", 2.0)
    assert len(fake.calls) == 3 + 1 + ELSEWHERE_TRIES
