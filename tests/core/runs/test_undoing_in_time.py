"""What had succeeded is undone however late it is: the deadline of a run does not hold for what undoes it."""

from __future__ import annotations

import pytest

from coterie.core.commands import CancelTask
from coterie.core.nouns import TaskState
from tests.core.runs.world import RUN, World, echo

DEADLINE_MS = 10_000
NODES = (
    echo("book"),
    echo("pay", "book"),
    {"id": "unbook", "type": "compensate", "skill": "echo", "compensates": "book"},
)


def paying(within_ms: int = DEADLINE_MS) -> World:
    """A run that has booked, and pays."""
    world = World()
    world.run(*NODES, on_failure="compensate", more={"deadline_after_ms": within_ms})
    world.give("book", "seat 7")
    world.hold("pay")
    return world


def is_undone(world: World, ends_as: TaskState) -> None:
    assert world.open() == ["r~unbook~0"] and world.task("r~unbook~0").deadline_at_ms == 0
    world.hold("unbook")
    world.pass_time(10 * DEADLINE_MS)
    assert world.payload("unbook") == {"undo": "seat 7"}
    world.give("unbook")
    assert world.ended().state is ends_as and world.states()["unbook"] == "SUCCEEDED"


def test_it_is_undone_when_the_deadline_passes() -> None:
    world = paying()
    world.pass_time(2 * DEADLINE_MS)
    is_undone(world, TaskState.TIMED_OUT)


@pytest.mark.parametrize("early_ms", [-5, 0, 5])
def test_it_is_undone_when_a_node_fails_at_about_the_deadline(early_ms: int) -> None:
    world = paying()
    world.now_ms = world.task(RUN).deadline_at_ms - early_ms
    world.fail("pay")
    is_undone(world, TaskState.FAILED if early_ms > 0 else TaskState.TIMED_OUT)


def test_it_is_undone_when_the_run_is_cancelled_just_before() -> None:
    world = paying()
    world.now_ms = world.task(RUN).deadline_at_ms - 5
    world.do(CancelTask(RUN))
    world.fail("pay")
    is_undone(world, TaskState.CANCELLED)


def test_a_run_that_undoes_in_time_keeps_its_deadline() -> None:
    """A new run of it gets as much time."""
    world = paying()
    deadline_at_ms = world.task(RUN).deadline_at_ms
    world.fail("pay")
    world.give("unbook")
    assert world.ended().deadline_at_ms == deadline_at_ms > 0


def test_a_run_inside_of_one_that_is_out_of_time_is_undone_before_that_ends() -> None:
    world = World()
    body = {"nodes": [*NODES], "on_failure": "compensate"}
    world.run({"id": "s", "type": "workflow", "body": body}, more={"deadline_after_ms": DEADLINE_MS})
    world.give("r~s~0~book~0", 1)
    world.hold("r~s~0~pay~0")
    world.pass_time(2 * DEADLINE_MS)
    assert world.open() == ["r~s~0~unbook~0"] and world.task(RUN).state is TaskState.WAITING
    world.hold("r~s~0~unbook~0")
    world.pass_time(10 * DEADLINE_MS)
    world.give("r~s~0~unbook~0")
    assert world.ended().state is TaskState.TIMED_OUT
