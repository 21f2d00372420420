"""Runs that are paused while they end: they wait for whoever resumes them, cancels them, or for their
deadline."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from coterie.core.commands import Accepted, CancelTask, PauseTask, ResumeTask, SignalTask
from coterie.core.nouns import Data, RetryPolicy, TaskState
from coterie.core.runs import outline
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.run import WORKFLOW
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, World, echo

UNDO = {"type": "compensate", "skill": "echo"}


def undoing(**more: Any) -> World:
    """A run that compensates: the second of two undos is still to begin."""
    world = World()
    world.run(
        echo("a"),
        echo("b", "a"),
        echo("c", "b"),
        {"id": "undo-a", "compensates": "a", **UNDO},
        {"id": "undo-b", "compensates": "b", **UNDO},
        on_failure="compensate",
        more=more,
    )
    world.give("a")
    world.give("b")
    world.fail("c", "BROKEN")
    assert world.open() == ["r~undo-b~0"]
    return world


def failed(world: World) -> None:
    task = world.ended()
    assert task.state is TaskState.FAILED and task.error is not None and task.error.code == "BROKEN"
    assert world.states()["undo-a"] == world.states()["undo-b"] == "SUCCEEDED"


def test_a_run_that_is_paused_while_it_compensates_goes_on_when_it_is_resumed() -> None:
    world = undoing()
    world.do(PauseTask(RUN, "let me look"))
    world.give("undo-b")
    assert world.open() == [] and world.task(RUN).state is TaskState.PAUSED
    world.do(ResumeTask(RUN))
    assert world.open() == ["r~undo-a~0"]
    world.do(PauseTask(RUN, "again"))
    world.give("undo-a")
    assert world.task(RUN).state is TaskState.PAUSED, "nothing is left, and yet somebody wants to look"
    world.do(ResumeTask(RUN))
    failed(world)


@pytest.mark.parametrize("live", [False, True])
def test_a_paused_run_that_is_cancelled_compensates_to_the_end(live: bool) -> None:
    world = undoing()
    world.do(PauseTask(RUN))
    if not live:
        world.give("undo-b")
    assert world.do(CancelTask(RUN, "enough")) == Accepted(RUN)
    assert world.task(RUN).state is TaskState.WAITING, "a cancelled run waits for nobody"
    if live:
        world.give("undo-b")
    world.give("undo-a")
    failed(world)


def test_a_paused_run_that_is_out_of_time_waits_for_nobody() -> None:
    world = undoing(deadline_after_ms=5_000)
    world.do(PauseTask(RUN))
    world.give("undo-b")
    world.pass_time(6_000)
    assert world.task(RUN).state is TaskState.WAITING and world.open() == ["r~undo-a~0"]
    world.give("undo-a")
    failed(world)


def test_a_run_that_was_paused_when_it_failed_ends_when_it_is_cancelled() -> None:
    world = World()
    world.run(echo("a"))
    world.do(PauseTask(RUN))
    world.fail("a", "BROKEN")
    assert world.task(RUN).state is TaskState.PAUSED
    world.do(CancelTask(RUN, "enough"))
    task = world.ended()
    assert task.state is TaskState.FAILED and task.error is not None and task.error.code == "BROKEN"


@pytest.mark.parametrize("visit", [SignalTask(RUN, "go"), CancelTask(RUN), ResumeTask(RUN)])
def test_a_paused_run_of_a_graph_that_cannot_be_read_fails(visit: Any) -> None:
    """A large graph is read when the run begins; by then it may be paused."""
    world = World()
    submit = submit_command(RUN, type=WORKFLOW, payload=Data(b"{}"), retry=RetryPolicy(attempts_max=1))
    with patch.object(outline, "LARGE_BYTES", 0):
        assert world.do(RunWorkflow(submit, b'{"nodes":')) == Accepted(RUN)
        world.do(PauseTask(RUN))
        assert world.do(visit) == Accepted(RUN)
    task = world.ended()
    assert task.state is TaskState.FAILED and task.error is not None and task.error.code == "BAD_WORKFLOW"
