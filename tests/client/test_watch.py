"""Watching: whatever breaks, the events are those that an undisturbed watcher sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from coterie.client import ClusterError, Event, Job, NotFound, Progress, Timeouts
from coterie.v1 import tasks_pb2
from tests.client.conftest import IMPATIENT, client_of
from tests.client.fake import FakeCluster, FakeNode, Fault

STORY = ["assigned", "started", "step", "progress", "step", "released", "assigned", "started", "step"]


async def story(fake: FakeCluster, job: Job) -> None:
    for kind in STORY:
        await fake.tell(job.id, kind)
    await fake.finish(job.id, "end")


def check(events: list[Event]) -> None:
    assert [event.type for event in events] == ["submitted", *STORY, "succeeded"]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].terminal and events[-1].task is not None and events[-1].task.done


async def test_a_watch_ends_with_the_terminal_event(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        telling = asyncio.create_task(story(fake, job))
        check([event async for event in job.watch()])
        await telling


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
@pytest.mark.parametrize("repeat", [False, True])
async def test_a_watch_broken_after_every_event_misses_and_repeats_nothing(
    fake: FakeCluster, code: grpc.StatusCode, repeat: bool
) -> None:
    for node in fake.nodes:
        node.repeat_events = repeat
        # With repeats a stream must get beyond them to make progress.
        node.faults["WatchTask"] = [Fault(code, events=3 if repeat else 1) for _ in range(20)]
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await story(fake, job)
        check([event async for event in job.watch()])
    tokens = [request.resume_token for request in fake.methods("WatchTask")]
    assert tokens[0] == "" and len(tokens) >= 9 and tokens == sorted(tokens, key=number)
    if not repeat:
        assert [number(token) for token in tokens] == list(range(len(tokens)))


def number(token: str) -> int:
    return int(token.rpartition(".")[2] or 0)


async def test_a_watch_survives_the_restart_of_its_node(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        events: list[Event] = []
        async for event in job.watch():
            events.append(event)
            if len(events) <= len(STORY):
                busy = next(node for node in fake.nodes if node.name == fake.calls[-1][0])
                await busy.stop()
                await fake.tell(job.id, STORY[len(events) - 1])
                await busy.start()
            elif not event.terminal:
                await fake.finish(job.id)
        check(events)


async def test_a_silent_stream_is_left(fake: FakeCluster) -> None:
    async with client_of(fake, timeouts=IMPATIENT) as client:
        job = await client.submit_task(type="echo")
        for node in fake.nodes[:2]:
            node.faults["WatchTask"] = [Fault(hang=True)]
        await story(fake, job)
        check([event async for event in job.watch()])


async def test_heartbeats_keep_a_quiet_watch_on_its_node(fake: FakeCluster) -> None:
    async with client_of(fake, timeouts=Timeouts(stream_silence=6.0)) as client:
        job = await client.submit_task(type="echo")
        watch = asyncio.create_task(collect(job))
        await fake.until(lambda: fake.methods("WatchTask"))
        # Longer than the silence that an idle stream may keep, in heartbeats.
        for _ in range(150):
            await asyncio.sleep(fake.nodes[0].heartbeat_s)
        await story(fake, job)
        check(await watch)
    assert len(fake.methods("WatchTask")) == 1


async def collect(job: Job, token: str = "") -> list[Event]:
    return [event async for event in job.watch(resume_token=token)]


async def test_a_hole_is_filled_by_another_node(fake: FakeCluster) -> None:
    for node in fake.nodes[:2]:
        node.skip_sequences = {4, 7}
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await story(fake, job)
        check(await collect(job))


async def test_a_hole_nobody_can_fill_is_an_error(fake: FakeCluster) -> None:
    fake.nodes[0].skip_sequences = {4}
    seen: list[int] = []
    async with client_of(fake, fake.nodes[0]) as client:
        job = await client.submit_task(type="echo")
        await story(fake, job)
        with pytest.raises(ClusterError) as broken:
            async for event in job.watch():
                seen += [event.sequence]
    assert broken.value.reason == "HISTORY_GAP"
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("at", [0, 3])
async def test_a_gap_told_first_is_filled_by_another_node(
    fake: FakeCluster, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """From the beginning, and after a token: two of the nodes do not have the next events."""
    gap = tasks_pb2.TaskEvent(gap=tasks_pb2.Gap(reason="they are gone"))

    async def lacking(
        request: tasks_pb2.WatchTaskRequest, context: object
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        fake.calls.append(("n", "lacking", request))
        yield gap
        for event in fake.events["t1"][at + 2 :]:
            yield event

    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await story(fake, job)
        for node in fake.nodes[:2]:
            await node.stop()
            monkeypatch.setattr(node, "WatchTask", lacking)
            await node.start()
        for _ in range(3):
            rest = await collect(job, fake.events["t1"][at - 1].resume_token if at else "")
            assert [event.sequence for event in rest] == list(range(at + 1, len(STORY) + 3))
    assert fake.methods("lacking")


@pytest.mark.parametrize("at", [0, 3])
async def test_a_gap_told_first_that_nobody_fills_is_told(fake: FakeCluster, at: int) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await story(fake, job)
        gap = tasks_pb2.TaskEvent(gap=tasks_pb2.Gap(reason="they are gone"))
        token = fake.events["t1"][at - 1].resume_token if at else ""
        fake.events[job.id][at : at + 2] = [gap, gap]
        rest = await collect(job, token)
    assert [event.sequence for event in rest] == [0, *range(at + 3, len(STORY) + 3)]
    assert len(fake.methods("WatchTask")) > len(fake.nodes)


async def test_a_gap_of_a_stream_that_broke_is_forgotten(
    fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(
        request: tasks_pb2.WatchTaskRequest, context: object
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        fake.calls.append(("n", "broken", request))
        yield tasks_pb2.TaskEvent(gap=tasks_pb2.Gap(reason="they are gone"))
        await Fault().strike(context)  # type: ignore[arg-type]

    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await story(fake, job)
        for node in fake.nodes[:2]:
            await node.stop()
            monkeypatch.setattr(node, "WatchTask", broken)
            await node.start()
        for _ in range(3):
            check(await collect(job))
    assert fake.methods("broken")


async def test_a_hole_that_every_node_admits_is_a_gap_event(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await story(fake, job)
        gap = tasks_pb2.TaskEvent(gap=tasks_pb2.Gap(reason="events 3 to 4 are gone"))
        fake.events[job.id][2:4] = [gap, gap]
        events = await collect(job)
    assert [event.sequence for event in events] == [1, 2, 0, *range(5, 12)]
    assert (events[2].type, events[2].detail) == ("gap", "events 3 to 4 are gone")


async def test_a_watch_goes_on_after_any_token(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await story(fake, job)
        whole = await collect(job)
        for at, event in enumerate(whole):
            rest = await collect(client.job(job.id), event.resume_token)
            assert [e.sequence for e in rest] == [e.sequence for e in whole[at + 1 :]]


async def test_a_resumed_watch_outlasts_heartbeats_of_a_node_that_has_not_heard_of_the_end(
    fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events come after three heartbeats, in which the other nodes know the end of the task."""

    async def late(
        request: tasks_pb2.WatchTaskRequest, context: object
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        for _ in range(3):
            yield tasks_pb2.TaskEvent(heartbeat=tasks_pb2.Heartbeat())
        for event in fake.events["t1"][number(request.resume_token) :]:
            yield event

    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await story(fake, job)
        for node in fake.nodes:
            await node.stop()
            monkeypatch.setattr(node, "WatchTask", late)
            await node.start()
        rest = await collect(job, fake.events[job.id][0].resume_token)
    assert [event.type for event in rest] == [*STORY, "succeeded"]


async def test_streams_that_nodes_end_early_do_not_end_a_watch(
    fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task ends while its watch is opened again: only a stream opened after that may say that nothing
    is left."""
    ends = 0

    async def leaving(
        request: tasks_pb2.WatchTaskRequest, context: object
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        nonlocal ends
        ends += 1
        if ends == 2:
            await story(fake, job)
        for event in fake.events["t1"][number(request.resume_token) :] if ends > 2 else ():
            yield event

    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        for node in fake.nodes:
            await node.stop()
            monkeypatch.setattr(node, "WatchTask", leaving)
            await node.start()
        rest = await collect(job, fake.events[job.id][0].resume_token)
    assert [event.type for event in rest] == [*STORY, "succeeded"]


async def test_watching_nothing_says_so(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        with pytest.raises(NotFound):
            await collect(client.job("never"))


async def test_a_watch_that_is_left_early_frees_its_stream(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        watch = job.watch()
        async for event in watch:
            assert event.type == "submitted"
            break
        await watch.aclose()


@pytest.mark.parametrize("kind", ["function", "coroutine"])
async def test_progress_is_reported_and_all_of_it_before_the_result(fake: FakeCluster, kind: str) -> None:
    seen: list[Progress] = []

    async def later(progress: Progress) -> None:
        await asyncio.sleep(0)
        seen.append(progress)

    async with client_of(fake) as client:
        report = later if kind == "coroutine" else seen.append
        job = await client.submit_task(type="echo", on_progress=report)
        for node in fake.nodes:
            node.faults["WatchTask"] = [Fault(events=1)] * 3
        wait = asyncio.create_task(job.wait())
        for percent in (10, 50, 100):
            await fake.tell(job.id, "progress", percent=percent, detail=f"at {percent}")
        await fake.finish(job.id, "done")
        assert await wait == "done"
    assert seen == [Progress(10, "at 10"), Progress(50, "at 50"), Progress(100, "at 100")]


async def test_a_broken_progress_callback_harms_nobody(
    fake: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(progress: Progress) -> None:
        raise RuntimeError("no screen")

    async with client_of(fake) as client:
        job = await client.submit_task(type="echo", on_progress=broken)
        await fake.tell(job.id, "progress", percent=10)
        await fake.finish(job.id, "done")
        assert await job.wait() == "done"
    assert "no screen" in caplog.text


async def test_closing_ends_a_watch(fake: FakeCluster) -> None:
    node: FakeNode = fake.nodes[0]
    async with client_of(fake, node) as client:
        job = await client.submit_task(type="echo", on_progress=print)
        watch = asyncio.create_task(collect(job))
        wait = asyncio.create_task(job.wait())
        await fake.until(lambda: len(fake.methods("WatchTask")) == 2 and fake.methods("WaitTasks"))
    for result in await asyncio.gather(watch, wait, return_exceptions=True):
        assert type(result).__name__ == "ClusterClosed"
