"""Waiting, watching and reading in every window: snapshots that skip events, gaps, lost callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coterie.core.commands import CancelTask, SaveCheckpoint, SubmitTask
from coterie.core.nouns import Data, TaskId
from coterie.core.ports import NoQuorum
from coterie.node import convert, reads, turns, waits, watch
from coterie.node.admission import task_id_of
from coterie.node.errors import ApiError
from coterie.node.ledger import LedgerQuery
from coterie.node.waits import wait_many
from coterie.v1 import tasks_pb2
from tests.core.builders import submit_command
from tests.node.fakes import QuietNode

T1 = TaskId("t1")


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[QuietNode]:
    monkeypatch.setattr(waits, "RECHECK_S", 0.02)
    monkeypatch.setattr(watch, "HEARTBEAT_S", 0.02)
    made = await QuietNode.open(tmp_path)
    yield made
    await made.ledger.close()


def run(node: QuietNode, task_id: str = "t1") -> None:
    command = submit_command(task_id)
    assert isinstance(command, SubmitTask)
    node.do(command)
    node.core.assign(task_id)
    node.ledger.append(node.core.index, [], [])
    node.core.state.outbox.clear()


async def names(*batches: list[str]) -> AsyncIterator[tasks_pb2.WaitTasksRequest]:
    for batch in batches:
        yield tasks_pb2.WaitTasksRequest(names=batch)


async def more_to_come(name: str) -> AsyncIterator[tasks_pb2.WaitTasksRequest]:
    yield tasks_pb2.WaitTasksRequest(names=[name])
    await asyncio.Event().wait()


async def first_answer(node: QuietNode, *task_ids: str) -> tasks_pb2.WaitTasksResponse:
    async with asyncio.timeout(30):
        return await anext(wait_many(names(list(task_ids)), node.hub, node.reader))


async def types_of(node: QuietNode, token: str = "") -> list[str]:
    """Types of the events of t1 up to its end; `gap` for a gap, without heartbeats."""
    found = []
    async with asyncio.timeout(30):
        async for event in node.watcher.events(T1, token):
            kind = event.WhichOneof("live")
            if kind != "heartbeat":
                found.append(kind or event.type)
    return found


async def test_a_stream_of_waits_hears_of_an_end_that_came_with_a_snapshot(node: QuietNode) -> None:
    run(node)
    waiting = asyncio.ensure_future(first_answer(node, "t1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    node.finish("t1", seen=False)
    node.restore()
    answer = await waiting
    assert [task.task_id for task in answer.tasks] == ["t1"]


async def test_a_stream_of_waits_on_a_cut_off_node_ends(node: QuietNode) -> None:
    run(node)
    waiting = asyncio.ensure_future(first_answer(node, "t1"))
    await asyncio.sleep(0)
    node.engine.has_quorum = False
    with pytest.raises(NoQuorum):
        await waiting


async def test_a_caller_that_has_gone_leaves_nothing_behind(node: QuietNode) -> None:
    run(node)
    before = asyncio.all_tasks()
    stream = wait_many(more_to_come("t1"), node.hub, node.reader)
    asking = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.005)
    assert node.hub.counts() == (1, 0)
    started = asyncio.all_tasks() - before
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await stream.aclose()
    assert node.hub.counts() == (0, 0)
    assert all(task.done() for task in started), "a task waits for ever for a caller that has gone"


async def test_a_caller_that_reads_slowly_gets_all_and_little_is_held_for_it(
    node: QuietNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there is no room for is read again: also what the state has forgotten since."""
    monkeypatch.setattr(waits, "READY_BYTES_MAX", 7)
    monkeypatch.setattr(waits, "BYTES_MAX", 1)
    asked = [f"t{number}" for number in range(1, 8)]
    for task_id in asked:
        run(node, task_id)
    waiting = waits.Waits(node.hub, node.reader)
    await waiting.add(asked)
    for task_id in asked:
        node.finish(task_id)
    held = [len(waiting._ready)]
    node.forget_finished()
    found: list[str] = []
    async with asyncio.timeout(30):
        while len(found) < len(asked):
            found += [task.task_id for task in (await waiting.next()).tasks]
            held.append(len(waiting._ready))
    assert found == asked and max(held) == 2
    assert node.hub.counts() == (0, 0) and not waiting._names


async def test_a_message_of_ends_keeps_to_its_size_with_all_that_is_in_it(
    node: QuietNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client takes no message above its limit: all its waits would end with it."""
    monkeypatch.setattr(waits, "BYTES_MAX", 10_000)
    monkeypatch.setattr(waits, "MISSING_MAX", 2)
    ended = [f"t{number}" for number in range(7)]
    for task_id in ended:
        run(node, task_id)
        node.do(SaveCheckpoint(TaskId(task_id), 1, Data(b"x" * 4_000), 1))
        node.finish(task_id)
    unknown = [f"u{number}" for number in range(5)]
    stream = wait_many(names([*ended, *unknown]), node.hub, node.reader)
    found: list[str] = []
    missing: list[str] = []
    async with asyncio.timeout(30):
        while len(found) < len(ended) or len(missing) < len(unknown):
            answer = await anext(stream)
            assert answer.ByteSize() < 10_000
            found += [task.task_id for task in answer.tasks]
            missing += answer.not_found
    await stream.aclose()
    assert (found, missing) == (ended, unknown)


async def test_unread_checkpoints_are_held_within_the_bound_too(
    node: QuietNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "READY_BYTES_MAX", 100)
    waiting = waits.Waits(node.hub, node.reader)
    for task_id in ("t1", "t2"):
        run(node, task_id)
        node.do(SaveCheckpoint(TaskId(task_id), 1, Data(b"x" * 200), 1))
        await waiting.add([task_id])
        node.finish(task_id)
    assert len(waiting._ready) == 1
    answers = [await waiting.next(), await waiting.next()]
    assert [task.task_id for answer in answers for task in answer.tasks] == ["t1", "t2"]


async def test_unread_payloads_are_held_within_the_bound_too(
    node: QuietNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not told, but an ended task keeps its own."""
    monkeypatch.setattr(waits, "READY_BYTES_MAX", 100)
    waiting = waits.Waits(node.hub, node.reader)
    for task_id in ("t1", "t2"):
        node.do(submit_command(task_id, payload=Data(b"x" * 200)))
        node.core.assign(task_id)
        node.core.state.outbox.clear()
        await waiting.add([task_id])
        node.finish(task_id)
    assert len(waiting._ready) == 1
    assert [len((await waiting.next()).tasks) for _ in range(2)] == [1, 1]


async def test_more_names_than_may_be_waited_for_are_not_looked_through(
    node: QuietNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "NAMES_MAX", 10)
    waiting, drawn = waits.Waits(node.hub, node.reader), 0

    def very_many() -> Iterator[str]:
        nonlocal drawn
        while drawn < 10_000:
            drawn += 1
            yield f"t{drawn}"

    with pytest.raises(ApiError, match="more than 10 on one stream"):
        await waiting.add(very_many())
    assert drawn == 11 and node.hub.counts() == (0, 0)


async def test_names_of_nothing_that_nobody_reads_are_bounded(
    node: QuietNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "NAMES_MAX", 10)
    waiting = waits.Waits(node.hub, node.reader)
    await waiting.add([f"u{number}" for number in range(8)])
    with pytest.raises(ApiError, match="more than 10 on one stream"):
        await waiting.add(["u8", "u9", "u10"])
    assert len((await waiting.next()).not_found) == 8
    await waiting.add(["u8", "u9", "u10"])


async def test_many_names_are_taken_and_looked_at_in_turns_with_others(
    node: QuietNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SLICE_S", 0.0)
    count, others = 100, 0
    for number in range(count):
        run(node, f"t{number}")

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    waiting = waits.Waits(node.hub, node.reader)
    beside = asyncio.create_task(other())
    await waiting.add([f"t{number}" for number in range(count)])
    taken, others = others, 0
    await waiting._recheck()
    beside.cancel()
    assert taken >= count and others >= count // 2
    waiting.close()


@pytest.mark.parametrize("name", ["tenants/" + "x" * 300 + "/tasks/t1", "/" * 1_000_000, "x" * 1_000_000])
def test_a_name_that_is_too_long_is_refused_in_few_words(name: str) -> None:
    with pytest.raises(ApiError, match="or a task id") as caught:
        task_id_of(name)
    assert len(caught.value.message) < 400


async def test_a_watch_hears_of_an_end_that_came_with_a_snapshot(node: QuietNode) -> None:
    run(node)
    watching = asyncio.ensure_future(types_of(node))
    await asyncio.sleep(0.005)
    node.finish("t1", seen=False)
    node.restore()
    assert (await watching)[-1] == "succeeded"


async def test_a_watch_of_a_task_that_ended_in_a_gap_ends(node: QuietNode) -> None:
    run(node)
    node.finish("t1", seen=False)
    node.restore()
    assert await types_of(node) == ["submitted", "gap", "succeeded"]


async def test_a_watch_that_missed_nothing_has_no_gap(node: QuietNode) -> None:
    node.do(submit_command())
    watching = asyncio.ensure_future(types_of(node))
    await asyncio.sleep(0.05)
    node.do(CancelTask(T1))
    assert await watching == ["submitted", "cancelled"]


@pytest.mark.parametrize("token", ["t1.99", "t1." + "9" * 5_000, "t2.1", "t1.", "t1.-1", "."])
async def test_a_token_that_nobody_gave_out_is_refused(node: QuietNode, token: str) -> None:
    node.do(submit_command())
    with pytest.raises(ApiError) as caught:
        await types_of(node, token)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_task_is_not_called_missing_while_history_is_missing(node: QuietNode) -> None:
    node.catching_up = True
    with pytest.raises(ApiError) as caught:
        await node.reader.get(T1, 1)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    node.catching_up = False
    with pytest.raises(ApiError) as caught:
        await node.reader.get(T1, 1)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


async def test_the_id_of_a_task_that_the_state_has_forgotten_is_still_taken(node: QuietNode) -> None:
    assert not await node.reader.in_history(T1)
    run(node)
    assert not await node.reader.in_history(T1)
    node.finish("t1")
    node.forget_finished()
    assert await node.reader.in_history(T1)


async def test_a_task_that_ends_while_a_page_is_read_is_on_it(
    node: QuietNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(node)
    read = node.ledger.tasks

    async def ends_meanwhile(query: LedgerQuery, before: int | None, limit: int) -> object:
        rows = await read(query, before, limit)
        node.finish("t1")
        return rows

    monkeypatch.setattr(node.ledger, "tasks", ends_meanwhile)
    page = await node.reader.page(LedgerQuery(), None, 10)
    assert [found.task.task_id for found in page] == ["t1"]


async def test_a_page_of_history_is_decoded_in_turns_with_others(
    node: QuietNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row holds all steps of its task: a thousand of them take most of a second."""
    monkeypatch.setattr(turns, "SLICE_S", 0.0)
    for number in range(20):
        run(node, f"t{number}")
        node.finish(f"t{number}")
    others, decode = 0, convert.read_finished
    seen: list[int] = []

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    def decoding(record: bytes) -> Any:
        seen.append(others)
        return decode(record)

    monkeypatch.setattr(convert, "read_finished", decoding)
    beside = asyncio.create_task(other())
    page = await node.reader.page(LedgerQuery(), None, 50)
    beside.cancel()
    assert len(page) == 20 and len(set(seen)) >= 19


async def test_a_long_queue_is_looked_through_in_turns_with_others(
    node: QuietNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that matches nothing looks at every live task: the event loop has other duties meanwhile."""
    monkeypatch.setattr(turns, "SLICE_S", 0.0)
    count, others = 5 * reads.PORTION, 0
    for number in range(count):
        node.do(submit_command(f"t{number}"))

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            if others == 2:  # what ends meanwhile is in the ledger, and no place in the list is lost
                run(node, "first")
                node.finish("first")
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    assert not await node.reader.page(LedgerQuery(types=frozenset({"none"})), None, 10)
    beside.cancel()
    assert others >= count // reads.PORTION
    for before, first in ((None, count - 1), (node.core.task("t700").order, 699)):
        page = await node.reader.page(LedgerQuery(states=frozenset({"PENDING"})), before, 3)
        assert [found.task.task_id for found in page] == [f"t{first - down}" for down in range(3)]
