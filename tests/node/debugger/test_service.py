"""The service and its client, joined without a network."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coterie.client.debugger import Debugger
from coterie.core.nouns import TaskId
from coterie.node.debugger import service
from coterie.node.debugger.machine import TimeMachine
from coterie.node.debugger.model import History
from coterie.node.debugger.service import DebuggerParts, DebuggerService
from coterie.node.debugger.service_rows import history_to_pb
from coterie.node.rpc import Gate
from coterie.raft import codec
from coterie.raft.past import NotKept, Past
from coterie.v1 import debugger_pb2
from tests.core.runs.world import RUN, echo
from tests.node.debugger.mermaid import check
from tests.node.debugger.recorded import Recorded
from tests.node.test_control import Context, Refused


class Image:
    """The present state as a snapshot."""

    def __init__(self, world: Recorded) -> None:
        self.chunks = lambda: codec.encode_state(world.state.copy())

    def close(self) -> None:
        pass


class Joined:
    """A client whose calls go straight to the service."""

    tenant = "default"

    def __init__(self, world: Recorded) -> None:
        def past(index: int) -> Past:
            if index not in (0, world.index):
                raise NotKept(index, world.index, world.index)
            image: Any = Image(world)
            return Past(world.index, world.index, world.index, world.now_ms, image, ())

        forks: Any = SimpleNamespace()
        parts = DebuggerParts(world.historian, forks, TimeMachine(past))
        self.world, self.caller = world, self
        self.service: Any = DebuggerService(parts, Gate(9))
        opened: Any = lambda: self  # noqa: E731
        self.debugger = Debugger(opened)

    def task_name(self, task_id: str) -> str:
        return f"tenants/default/tasks/{task_id}"

    async def unary(self, choose: Any, request: Any, **more: Any) -> Any:
        return await choose(SimpleNamespace(debugger=self.service))(request, Context())


@pytest.fixture
async def joined(tmp_path: Path) -> AsyncIterator[Joined]:
    async with Recorded.at(tmp_path) as world:
        world.run(echo("a"), echo("b", "a"), name="two")
        world.give("a", "one")
        yield Joined(world)


async def test_a_history_reaches_the_client_in_every_form(joined: Joined) -> None:
    history = await joined.debugger.history(RUN)
    assert history.drawing == "" and history.task.id == RUN and not history.truncated
    assert [one.task.id for one in history.tasks] == ["r", "r~a~0", "r~b~0"]
    states = [(node.id, node.state) for node in history.tasks[0].nodes]
    assert states == [
        ("a", "SUCCEEDED"),
        ("b", "RUNNING"),
    ]
    assert [(one.number, one.node, one.end) for one in history.tasks[1].attempts] == [(1, "n1", "succeeded")]
    indexes = [event.index for event in history.timeline]
    assert indexes == sorted(indexes) and len(indexes) > 5
    forms: Any = ("mermaid", "gantt")
    for form in forms:
        assert check((await joined.debugger.history(RUN, format=form)).drawing)
    assert "timeline" in (await joined.debugger.history(RUN, format="text")).drawing
    assert (await joined.debugger.story(RUN)).startswith("r is a run of workflow two")
    assert "after 2 of" in (await joined.debugger.history(RUN, format="replay", until=2)).drawing


async def test_a_history_is_drawn_beside_the_loop(joined: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(history: History) -> str:
        drawn.append(threading.get_ident())
        return "drawn"

    monkeypatch.setattr(service, "DRAW", {debugger_pb2.TEXT: draw})
    assert (await joined.debugger.history(RUN, format="text")).drawing == "drawn"
    assert drawn and drawn[0] != threading.get_ident()


async def test_what_cannot_be_asked_is_refused(joined: Joined) -> None:
    for wrong in ({"tasks_max": 9_999}, {"until": -1}):
        options: Any = wrong
        with pytest.raises(Refused):
            await joined.debugger.history(RUN, **options)
    with pytest.raises(Refused, match="-1"):
        await joined.debugger.state(-1)
    with pytest.raises(Refused, match="lies ahead"):
        await joined.debugger.state(joined.world.index + 1)


async def test_a_state_reaches_the_client(joined: Joined) -> None:
    then = await joined.debugger.state(0, RUN)
    assert then.task is not None and then.task.state == "WAITING" and then.index == joined.world.index
    assert {node.id: node.state for node in then.nodes} == {"a": "SUCCEEDED", "b": "RUNNING"}
    assert [step.raw.result.inline for step in then.task.steps] == [b'"one"']
    cluster = await joined.debugger.state()
    assert (cluster.live_total, [task.id for task in cluster.live]) == (2, ["r", "r~b~0"])
    assert [(node.id, node.status) for node in cluster.cluster] == [("n1", "UP")]
    assert cluster.tasks_by_state == {"WAITING": 1, "PENDING": 1, "SUCCEEDED": 1}


async def test_what_does_not_fit_is_cut_off_and_said(joined: Joined) -> None:
    history = await joined.world.history(TaskId(RUN))
    first = history_to_pb(history).tasks[0].ByteSize()
    short = history_to_pb(history, room=first + 10)
    assert len(short.tasks) == 1 and short.truncated


async def test_no_second_state_beside_one_that_is_too_large(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STATE_TASKS_MAX", 2)
    with pytest.raises(Refused, match="3 tasks; the limit is 2"):
        await joined.debugger.state()
