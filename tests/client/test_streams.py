"""Streams that go on elsewhere, for readers of any speed."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

import pytest

from coterie.client import Unavailable
from coterie.client.caller import Caller
from coterie.client.endpoints import Endpoint, Pool
from coterie.client.streams import resumed
from coterie.client.watch import Watch
from coterie.v1 import tasks_pb2
from tests.client.conftest import PATIENT
from tests.client.fake import FakeCluster, Fault


class Clock:
    """The time, and what is added to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def caller(fake: FakeCluster, clock: Clock) -> Caller:
    return Caller(Pool([node.address for node in fake.nodes], None), PATIENT, clock)


async def a_task(fake: FakeCluster, events: int) -> str:
    task = fake.submit(tasks_pb2.SubmitTaskRequest(parent="tenants/default", request_id="r"))
    for _ in range(events - 1):
        await fake.tell(task.task_id, "progress")
    return task.name


async def test_a_watch_goes_on_after_a_break_however_long_its_reader_took(
    fake: FakeCluster, caller: Caller, clock: Clock
) -> None:
    name = await a_task(fake, 2)
    await fake.finish("t1")
    for node in fake.nodes:
        node.faults["WatchTask"] = [Fault(events=1)]
    told = []
    async for event in Watch(caller, name).events():
        told.append(event.type)
        clock.ahead += 10 * PATIENT.outage
    assert told == ["submitted", "progress", "succeeded"]
    assert len(fake.methods("WatchTask")) == 3
    await caller.pool.close()


async def test_a_stream_goes_on_after_a_break_however_long_its_reader_took(
    fake: FakeCluster, caller: Caller, clock: Clock
) -> None:
    request = tasks_pb2.WatchTaskRequest(name=await a_task(fake, 3))
    for node in fake.nodes:
        node.faults["WatchTask"] = [Fault(events=1)]
    told = []
    stream = resumed(caller, lambda endpoint: endpoint.tasks.WatchTask(request), tasks_pb2.TaskEvent)
    async with aclosing(stream) as events:
        async for event in events:
            told.append(event.sequence)
            clock.ahead += 10 * PATIENT.outage
            request.resume_token = event.resume_token
            if event.sequence == 3:
                break
    assert told == [1, 2, 3]
    await caller.pool.close()


@pytest.mark.parametrize("heard", [0, 1])
async def test_a_stream_that_nobody_serves_any_more_ends_with_an_error(
    fake: FakeCluster, caller: Caller, clock: Clock, heard: int
) -> None:
    request = tasks_pb2.WatchTaskRequest(name=await a_task(fake, 1))
    for node in fake.nodes:
        node.faults["WatchTask"] = [Fault(events=1)] * heard + [Fault() for _ in range(1000)]

    def open_call(endpoint: Endpoint) -> Any:
        clock.ahead += PATIENT.outage / 4
        return endpoint.tasks.WatchTask(request)

    told = []
    with pytest.raises(Unavailable):
        async for event in resumed(caller, open_call, tasks_pb2.TaskEvent):
            told.append(event.sequence)  # noqa: PERF401 - it ends with an error
    assert told == [1] * heard * len(fake.nodes)
    assert len(fake.methods("WatchTask")) < 20
    await caller.pool.close()
