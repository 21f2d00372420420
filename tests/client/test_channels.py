"""Many calls to one address: as many connections as they need, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import grpc.aio
import pytest

from coterie.client import Event, Job, Timeouts, channels
from coterie.client.channels import Channels
from coterie.v1 import tasks_pb2
from tests.client.conftest import client_of
from tests.client.fake import FakeCluster


class Call:
    """An open call that ends when told."""

    def __init__(self) -> None:
        self.ended: Callable[[Any], None] = lambda _: None

    def add_done_callback(self, ended: Callable[[Any], None]) -> None:
        self.ended = ended

    def end(self) -> None:
        self.ended(self)


class Network:
    """Makes channels, and knows which are open."""

    def __init__(self) -> None:
        self.open: list[int] = []
        self.made = 0
        self.channels = Channels(self._connect)
        self.call = self.channels.unary_stream("/service/Method")

    def _connect(self) -> grpc.aio.Channel:
        self.made += 1
        self.open.append(self.made)
        return cast("grpc.aio.Channel", Channel(self, self.made))


class Channel:
    def __init__(self, network: Network, number: int) -> None:
        self._network, self._number = network, number

    def unary_stream(self, path: str) -> Callable[[], Call]:
        return Call

    async def close(self) -> None:
        self._network.open.remove(self._number)


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setattr(channels, "CALLS_MAX", 4)
    return Network()


async def test_a_channel_is_opened_when_the_others_are_full(network: Network) -> None:
    calls = [network.call() for _ in range(4)]
    assert network.open == [1]
    calls += [network.call() for _ in range(4)]
    assert network.open == [1, 2]
    calls[0].end()
    network.call()
    assert network.open == [1, 2]
    network.call()
    assert network.open == [1, 2, 3]
    await network.channels.close()
    assert network.open == []


async def test_calls_one_after_another_share_a_channel(network: Network) -> None:
    for _ in range(10):
        network.call().end()
    assert network.made == 1


async def test_an_empty_channel_is_kept_for_the_next_call_until_another_is_half_empty(
    network: Network,
) -> None:
    calls = [network.call() for _ in range(4)]
    for _ in range(10):
        network.call().end()
    await settled()
    assert network.open == [1, 2] and network.made == 2
    calls[0].end()
    await settled()
    assert network.open == [1, 2]
    calls[1].end()
    await settled()
    assert network.open == [1]


async def test_the_first_channel_stays_and_full_ones_are_not_closed(network: Network) -> None:
    calls = [network.call() for _ in range(12)]
    for call in calls[4:8]:
        call.end()
    await settled()
    assert network.open == [1, 2, 3]
    for call in calls[:4]:
        call.end()
    await settled()
    assert network.open == [1, 3]
    for call in calls[8:]:
        call.end()
    await settled()
    assert network.open == [1]


async def test_no_call_begins_on_what_is_closed(network: Network) -> None:
    call = network.call()
    await network.channels.close()
    call.end()
    with pytest.raises(grpc.aio.UsageError):
        network.call()
    assert network.made == 1


async def test_more_streams_than_a_connection_takes_stop_neither_calls_nor_each_other(
    fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "CALLS_MAX", 18)
    node = fake.nodes[0]
    await node.stop()
    node.options = [*node.options, ("grpc.max_concurrent_streams", 20)]
    await node.start()
    async with client_of(fake, node, timeouts=Timeouts(call=10.0)) as client:
        jobs = await client.submit_tasks([{"type": "echo"}] * 25)
        watches = [asyncio.create_task(events_of(job)) for job in jobs]
        await fake.until(lambda: len(fake.methods("WatchTask")) >= 18)
        assert (await client.get_status()).served_by == node.name
        for job in jobs:
            await fake.finish(job.id)
        for events in await asyncio.gather(*watches):
            assert [event.type for event in events] == ["submitted", "succeeded"]


async def events_of(job: Job) -> list[Event]:
    return [event async for event in job.watch()]


@pytest.mark.parametrize("end", ["answer", "error", "deadline", "cancelled", "left", "closed"])
async def test_a_call_is_counted_until_it_is_over_however_it_ends(fake: FakeCluster, end: str) -> None:
    """Each way to end a call, on a real connection."""
    node = fake.nodes[0]
    opened = Channels(lambda: grpc.aio.insecure_channel(node.address))
    line = opened._with_room()
    get = opened.unary_unary(
        "/coterie.v1.Tasks/GetTask", tasks_pb2.GetTaskRequest.SerializeToString, tasks_pb2.Task.FromString
    )
    watch = opened.unary_stream(
        "/coterie.v1.Tasks/WatchTask",
        tasks_pb2.WatchTaskRequest.SerializeToString,
        tasks_pb2.TaskEvent.FromString,
    )
    task = fake.submit(tasks_pb2.SubmitTaskRequest(parent="tenants/default", request_id="r"))
    name = task.name if end != "error" else "tenants/default/tasks/never"
    node.deaf = end in ("deadline", "cancelled", "closed")
    calls = [
        get(tasks_pb2.GetTaskRequest(name=name), timeout=0.2 if end == "deadline" else 20),
        watch(tasks_pb2.WatchTaskRequest(name=name), timeout=0.2 if end == "deadline" else 20),
    ]
    readers = [asyncio.ensure_future(calls[0]), asyncio.ensure_future(calls[1].read())]
    assert line.calls == 2
    if end in ("cancelled", "closed"):
        await fake.until(lambda: len(fake.calls) == 2)
        if end == "closed":
            await opened.close()
        for reader in readers:
            reader.cancel()
    await asyncio.wait(readers)
    calls[1].cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    for call in calls:
        await call.code()
    await settled()
    assert line.calls == 0
    await opened.close()
