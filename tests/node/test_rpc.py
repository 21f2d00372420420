"""What callers are told: refusals keep their reason on the way, nothing a user does is INTERNAL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from coterie.core.nouns import NodeId
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.clock import Clock
from coterie.node.errors import STATUS_DETAILS_KEY, ApiError, from_exception, to_status
from coterie.node.loads import Lease, LoadBook, Reporter
from coterie.node.rpc import Gate, streaming, unary
from coterie.v1 import peer_pb2, tasks_pb2

Zones = tasks_pb2.Constraints


class Refused(Exception):
    """Stands for grpc's own AbortError."""


class Context:
    """Remembers how the call was ended."""

    code: grpc.StatusCode | None = None

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        self.code = code
        raise Refused


class Service:
    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.closed = False

    @unary
    async def wait(self, request: asyncio.Event, context: Any) -> bool:
        return await request.wait()

    @streaming
    async def stream(self, request: int, context: Any) -> AsyncIterator[int]:
        try:
            while True:
                yield request
        finally:
            self.closed = True


async def test_clients_cannot_take_every_place() -> None:
    service, release, context = Service(Gate(2)), asyncio.Event(), Context()
    calls = [asyncio.ensure_future(service.wait(release, Context())) for _ in range(2)]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    with pytest.raises(Refused):
        await service.wait(release, context)  # type: ignore[arg-type]
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    release.set()
    assert await asyncio.gather(*calls) == [True, True]
    assert await service.wait(release, Context())  # type: ignore[arg-type]


async def test_a_stream_lets_go_of_everything_when_it_is_closed() -> None:
    service = Service(Gate(1))
    for _ in range(3):
        stream: Any = service.stream(7, Context())  # type: ignore[arg-type]
        assert await anext(stream) == 7
        await stream.aclose()
        assert service.closed


def test_a_refusal_of_another_node_is_passed_on_as_it_is() -> None:
    refusal = ApiError(grpc.StatusCode.FAILED_PRECONDITION, "TRANSFER_FAILED", "nobody is up to date")
    trailing = grpc.aio.Metadata((STATUS_DETAILS_KEY, to_status(refusal).SerializeToString()))
    error = grpc.aio.AioRpcError(refusal.code, grpc.aio.Metadata(), trailing, refusal.message)
    told = from_exception(error)
    assert (told.code, told.reason, told.message) == (refusal.code, refusal.reason, refusal.message)


def test_what_answers_with_bytes_that_are_no_status_is_not_there() -> None:
    """It ends a call, and no loop that makes calls: see RaftDialer."""
    trailing = grpc.aio.Metadata((STATUS_DETAILS_KEY, b"\xff" * 9))
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailing, "no")
    assert from_exception(error).reason == "NODE_UNREACHABLE"


@pytest.mark.parametrize(
    "error",
    [
        grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "down"),
        TimeoutError(),
        grpc.aio.UsageError("Channel is closed."),
    ],
)
def test_a_node_that_does_not_answer_can_be_tried_again(error: Exception) -> None:
    assert from_exception(error).code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("field", "task"),
    [
        ("task.constraints.zones", tasks_pb2.Task(constraints=Zones(zones=["z"] * 33))),
        ("task.constraints.zones", tasks_pb2.Task(constraints=Zones(zones=["z" * 257]))),
        ("task.constraints.prefer_zone", tasks_pb2.Task(constraints=Zones(prefer_zone="z" * 257))),
        (
            "task.payload.blob.sha256",
            tasks_pb2.Task(payload=tasks_pb2.Data(blob=tasks_pb2.BlobRef(size_bytes=5))),
        ),
    ],
)
def test_limits_of_a_submission(field: str, task: tasks_pb2.Task) -> None:
    task.type = "echo"
    with pytest.raises(ApiError) as caught:
        Admission(AdmissionLimits()).command(tasks_pb2.SubmitTaskRequest(task=task), "id", {"echo"}, set())
    assert [violation.field for violation in caught.value.violations] == [field]


def test_of_very_many_items_the_number_is_told_and_not_each_of_them() -> None:
    """There may be millions in one request, and the loop has other duties."""
    task = tasks_pb2.Task(
        type="echo",
        labels={str(number): "x" * 300 for number in range(2_000)},
        retry=tasks_pb2.RetryPolicy(non_retryable=["no code"] * 2_000),
        constraints=Zones(
            labels={"": "x" * 300} | {str(number): "x" * 300 for number in range(2_000)},
            zones=["z" * 257] * 2_000,
            companions=[tasks_pb2.Companion()] * 2_000,
        ),
    )
    with pytest.raises(ApiError) as caught:
        Admission(AdmissionLimits()).command(tasks_pb2.SubmitTaskRequest(task=task), "id", {"echo"}, set())
    told = caught.value.violations
    assert len(told) < 60
    fields = {"labels", "constraints.labels", "retry.non_retryable", "constraints.zones"}
    assert {f"task.{field}" for field in fields | {"constraints.companions"}} < {one.field for one in told}


class HungLeader:
    """Takes reports and never answers; the next one answers at once."""

    metadata = ()

    def __init__(self) -> None:
        self.leader, self.is_leader = "n1", False
        self.peers = {"n1": "", "n2": ""}
        self.answered = asyncio.Event()

    def stub(self, peer: str, purpose: str) -> Any:
        return self

    def Report(self, metadata: Any) -> Any:
        return Stream(self, self.leader == "n2")


class Stream:
    def __init__(self, world: HungLeader, answers: bool) -> None:
        self._world, self._answers = world, answers
        self._sent = peer_pb2.LoadReport()

    async def write(self, report: peer_pb2.LoadReport) -> None:
        self._sent = report
        self._world.leader = "n2"  # elected while the report waits

    async def read(self) -> peer_pb2.ReportAck:
        if not self._answers:
            await asyncio.Event().wait()
        self._world.answered.set()
        return peer_pb2.ReportAck(sent_at_us=self._sent.sent_at_us, lease=True)

    def cancel(self) -> bool:
        return True


async def test_a_leader_that_hangs_does_not_keep_a_node_from_its_successor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coterie.node.loads.ACK_TIMEOUT_S", 3_600.0)
    clock, world = Clock(), HungLeader()
    lease = Lease(clock, 60_000, lambda ms: None)
    report = peer_pb2.LoadReport(node_id=NodeId("n3"))
    parts: tuple[Any, ...] = (world, world, LoadBook(clock, 3_000), lease, lambda: report, clock, 0.01)
    reporter = Reporter(*parts)
    running = asyncio.ensure_future(reporter.run())
    async with asyncio.timeout(30):
        await world.answered.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
