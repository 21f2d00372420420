"""Forks as a node carries them out: of what is live, of what the state has forgotten, once per request id."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coterie.core.commands import Command, Outcome, RecordStep
from coterie.core.nouns import Data, TaskId
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.clock import Clock
from coterie.node.control import Control
from coterie.node.debugger.forking import Forks
from coterie.node.errors import ApiError, not_found
from coterie.node.ledger import Ledger
from coterie.v1 import debugger_pb2, tasks_pb2
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, echo
from tests.node.debugger.recorded import Recorded


class Node(Recorded):
    """A world with the part of a node that forks. `room`: its disk has some; `gone`: blobs that are."""

    room = True
    gone: frozenset[str] = frozenset()

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.secured: list[tuple[str, int]] = []  # blobs, and where the log was then

    async def fork(self, task_id: str, at: str, **more: Any) -> tasks_pb2.Task:
        async def one(command: Command, timeout_s: float) -> Outcome:
            return self.do(command)

        proposer: Any = SimpleNamespace(one=one)
        exchange: Any = SimpleNamespace(secure=self._secure)
        admission = Admission(AdmissionLimits(payload_inline_max=100))
        control = Control(self._state, self.reader, proposer, exchange, admission, Clock(), lambda: self.room)
        request = debugger_pb2.ForkRequest(name=task_id, at=at, **more)
        return await Forks(control, lambda: {}).fork(request, 5.0)

    async def _secure(self, data: Data) -> None:
        self.secured.append((data.sha256, self.index))
        if data.sha256 in self.gone:
            raise not_found("BLOB", data.sha256)

    async def refused(self, task_id: str, at: str, **more: Any) -> ApiError:
        before = self.index
        with pytest.raises(ApiError) as caught:
            await self.fork(task_id, at, **more)
        assert self.index == before, "nothing was committed"
        return caught.value


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node.at(tmp_path) as opened:
        assert isinstance(opened, Node)
        yield opened


async def test_a_live_run_and_one_long_ended_are_forked(node: Node) -> None:
    node.run(echo("a"), echo("b", "a"))
    node.give("a", 1)
    live = await node.fork(RUN, "b")
    assert (live.forked_from, live.state, live.type) == ("r@b", tasks_pb2.WAITING, "workflow")
    assert f"{live.task_id}~b~0" in node.open() and "r~b~0" in node.open()
    node.give("b", 2)
    node.state.finished.clear()
    ended = await node.fork(RUN, "b", set={"a": "7"})
    assert json.loads(node.task(f"{ended.task_id}~b~0").payload.inline) == {"a": 7}


async def test_a_live_task_is_forked_and_not_touched(node: Node) -> None:
    node.with_node("n1")
    node.do(submit_command("t1", labels=(), priority=3, key="k"))
    node.start("t1")
    for key in ("one", "two"):
        node.do(RecordStep(TaskId("t1"), 1, key, Data(b"1")))
    before = node.task("t1")
    fork = await node.fork("t1", "two")
    made = node.task(fork.task_id)
    assert [step.key for step in node.state.steps[made.task_id]] == ["one"]
    assert (made.forked_from, made.priority, made.key, made.retry_of) == ("t1@two", 3, "k", "")
    assert node.task("t1") == before


async def test_the_same_request_is_the_same_fork(node: Node) -> None:
    node.run(echo("a"), inputs=[{"name": "who"}], given={"who": "x"})
    first = await node.fork(RUN, "a", request_id="q", set={"who": '"y"'})
    assert (await node.fork(RUN, "a", request_id="q", set={"who": '"y"'})).task_id == first.task_id
    with pytest.raises(ApiError, match="another body") as caught:
        await node.fork(RUN, "a", request_id="q", set={"who": '"z"'})
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_what_is_wrong_is_said_before_anything_is_committed(node: Node) -> None:
    node.run(echo("a"), inputs=[{"name": "who"}], given={"who": "x"})
    error = await node.refused(RUN, "b", request_id="not one", set={"who": "1", "z": "{"})
    assert sorted(one.field for one in error.violations) == ["at", "request_id", "set.who", "set.z"]
    large = await node.refused(RUN, "a", set={"who": json.dumps("x" * 200)})
    assert [one.field for one in large.violations] == ["set.who.inline"]
    before = node.index
    assert (await node.fork(RUN, "a", validate_only=True)).task_id == RUN and node.index == before
    node.room = False
    assert (await node.refused(RUN, "a")).reason == "DISK_FULL"
    assert (await node.refused("nobody", "a")).reason == "TASK_NOT_FOUND"


async def test_a_journal_that_is_not_here_yet_is_waited_for(node: Node) -> None:
    node.with_node("n1")
    node.do(submit_command("t1"))
    node.start("t1")
    node.do(RecordStep(TaskId("t1"), 1, "one", Data(b"1")))
    node.state.steps.clear()
    assert (await node.refused("t1", "one")).reason == "CATCHING_UP"


async def test_a_value_for_what_is_kept_is_no_larger_than_a_payload(node: Node) -> None:
    node.run(echo("a"), echo("b", "a"))
    node.give("a", "one")
    error = await node.refused(RUN, "b", set={"a": json.dumps("x" * 200)})
    assert [one.field for one in error.violations] == ["set.a.inline"]
    node.with_node("n1")
    node.do(submit_command("t1"))
    node.start("t1")
    for key in ("one", "two"):
        node.do(RecordStep(TaskId("t1"), 1, key, Data(b'"1"')))
    error = await node.refused("t1", "two", set={"one": json.dumps("x" * 200)})
    assert [one.field for one in error.violations] == ["set.one.inline"]


async def test_blobs_that_a_fork_takes_over_are_secured_before_it_is_committed(node: Node) -> None:
    node.with_node("n1")
    payload, result, later = (Data(sha256=letter * 64, size_bytes=999) for letter in "abc")
    node.do(submit_command("t1", payload=payload))
    node.start("t1")
    for key, data in (("one", result), ("again", result), ("two", later)):
        node.do(RecordStep(TaskId("t1"), 1, key, data))
    before = node.index
    await node.fork("t1", "two")
    assert node.secured == [("a" * 64, before), ("b" * 64, before)]
    node.gone = frozenset({"b" * 64})
    error = await node.refused("t1", "two")
    assert [one.field for one in error.violations] == ["steps.again"]
    node.gone = frozenset({"a" * 64})
    assert [one.field for one in (await node.refused("t1", "two")).violations] == ["payload.blob"]
    await node.fork("t1", "two", validate_only=True)
