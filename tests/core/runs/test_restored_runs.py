"""A run goes on in the same way on a node that was restored in the middle of it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import (
    Command,
    ExpireTask,
    FailAttempt,
    FinishTask,
    PauseTask,
    ResumeTask,
    SetTenant,
    SignalTask,
)
from coterie.core.nouns import Data, TaskError, TaskId, TaskState
from coterie.core.quotas import Tenant
from coterie.core.runs import walk
from coterie.core.runs.commands import AddNodes
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from coterie.raft import codec
from tests.core.runs.world import RUN, World, echo, raw

BOUNDS: tuple[dict[str, int], ...] = ({}, {"max_parallel": 3}, {"max_parallel": 5})


def pair(**graph: Any) -> tuple[World, World]:
    """Two equal clusters."""
    found = World(), World()
    for world in found:
        world.do(SetTenant(Tenant("default", pending_tasks_max=6)))
        world.run(
            echo("late"),
            {"id": "two", "type": "wait", "signal": "go", "depends_on": ["c"]},
            {"id": "one", "type": "wait", "signal": "go", "depends_on": []},
            {"id": "c", "type": "condition", "expr": "true"},
            *(echo(f"w{place}", "c", when=f"{place} % 3 != 1 && c") for place in range(6)),
            echo("last", *(f"w{place}" for place in range(6)), when="!failed()"),
            {"id": "a", "type": "map", "over": [1, 2, 3, 4, 5, 6], "skill": "echo", "window": 2},
            {"id": "b", "type": "map", "over": [1, 2, 3, 4, 5, 6], "skill": "echo", "window": 3},
            {"id": "in", "type": "map", "over": [1, 2, 3], "body": {"nodes": [echo("x"), echo("y", "x")]}},
            {"id": "ask", "type": "agent", "agents": ["p", "q"], "join": "llm-judge", "judge": "echo"},
            {
                "id": "l",
                "type": "loop",
                "expr": "iteration == 3",
                "max_iterations": 3,
                "body": {"nodes": [echo("z")]},
            },
            {"id": "o", "type": "map", "over": "{{ in | [7, 8] }}", "skill": "echo", "window": 1},
            {"id": "p", "type": "map", "over": ["{{ in | 0 }}", "{{ a | 1 }}"], "skill": "echo", "window": 1},
            {"id": "q", "type": "map", "over": "{{ in | [1, 2, 3, 4, 5, 6] }}", "skill": "echo", "window": 1},
            **graph,
        )
    return found


def next_command(world: World, dice: random.Random) -> Command:
    """What may happen next: mostly, the end of a task."""
    due = [one for one in plan(world.state, View(world.now_ms), PlanPolicy()) if isinstance(one, ExpireTask)]
    if due:
        return dice.choice(due)
    what = dice.random()
    if what < 0.05:
        return SignalTask(RUN, "go", Data(b"1"))
    if what < 0.15:
        return PauseTask(RUN, "") if dice.random() < 0.5 else ResumeTask(RUN)
    if what < 0.18:
        return AddNodes(RUN, raw({"nodes": [echo(f"more-{dice.randrange(1_000)}")]}))
    held = [task for task in world.state.tasks.values() if task.state is TaskState.SCHEDULED]
    if not held:
        return ResumeTask(RUN)
    task = dice.choice(held)
    return FinishTask(task.task_id, task.attempt, Data(json.dumps(dice.randint(0, 1)).encode()))


def assign_one(worlds: tuple[World, World], dice: random.Random) -> None:
    open_now = [name for name in worlds[0].open() if worlds[0].task(name).state is TaskState.PENDING]
    if open_now:
        name = dice.choice(open_now)
        for world in worlds:
            world.assign(name)


@pytest.mark.parametrize("work_max", [walk.WORK_MAX, 15, 20])
@pytest.mark.parametrize("seed", range(20))
def test_a_restored_node_decides_as_one_that_was_there_all_the_time(
    seed: int, work_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when an entry may do so little that conditions and nodes wait for the next, again and again."""
    monkeypatch.setattr(walk, "WORK_MAX", work_max)
    dice = random.Random(seed)
    worlds = there, back = pair(**BOUNDS[seed % len(BOUNDS)])
    for _ in range(200):
        if TaskId(RUN) not in there.state.tasks:
            break
        back.state = codec.decode_state(list(codec.encode_state(back.state.copy())))
        assign_one(worlds, dice)
        command = next_command(there, dice)
        assert there.do(command) == back.do(command), command
        assert state_hash(there.state) == state_hash(back.state), f"seed {seed}: after {command}"
        if dice.random() < 0.1:
            there.now_ms = back.now_ms = there.now_ms + 1_000


@pytest.mark.parametrize("over", [list(range(4_500)), ["{{ big }}"] * 15 + [1] * 40])
def test_a_restored_node_begins_as_many_items_as_one_that_was_there_all_the_time(over: list[Any]) -> None:
    """It has to make the list of a map again, which the others remember: that is no work of the entry."""
    worlds = there, back = World(), World()
    for world in worlds:
        world.do(SetTenant(Tenant("default", pending_tasks_max=10_000)))
        node = {"id": "m", "type": "map", "over": over, "skill": "echo", "window": 10_000}
        given = {"big": "x" * 900_000}
        world.run(node, given=given, inputs=[{"name": "big"}], max_parallel=10_000)
    for _ in range(3):
        back.state = codec.decode_state(list(codec.encode_state(back.state.copy())))
        due = [
            one for one in plan(there.state, View(there.now_ms), PlanPolicy()) if isinstance(one, ExpireTask)
        ]
        for command in due:
            assert there.do(command) == back.do(command), command
        assert len(there.state.tasks) == len(back.state.tasks)
        assert state_hash(there.state) == state_hash(back.state)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("on_failure", ["abort", "compensate", "skip-dependents"])
def test_a_restored_node_ends_a_run_as_one_that_was_there_all_the_time(seed: int, on_failure: str) -> None:
    dice = random.Random(seed)
    worlds = there, back = World(), World()
    for world in worlds:
        world.run(
            echo("done"),
            *(echo(name, "done") for name in "abcd"),
            {"id": "t", "type": "timer", "duration_ms": 3_600_000},
            {"id": "w", "type": "wait", "signal": "go", "timeout_ms": 7_200_000},
            {"id": "undo", "type": "compensate", "skill": "echo", "compensates": "done"},
            {"id": "undo-a", "type": "compensate", "skill": "echo", "compensates": "a"},
            on_failure=on_failure,
            more={"deadline_after_ms": 5_000 * (1 + seed)},
        )
    for _ in range(60):
        if TaskId(RUN) not in there.state.tasks:
            break
        back.state = codec.decode_state(list(codec.encode_state(back.state.copy())))
        assign_one(worlds, dice)
        command = next_command(there, dice)
        if (
            isinstance(command, FinishTask)
            and not command.task_id.startswith("r~done")
            and dice.random() < 0.5
        ):
            command = FailAttempt(
                command.task_id, command.attempt, TaskError("NO", "it broke", retryable=False)
            )
        assert there.do(command) == back.do(command), command
        assert state_hash(there.state) == state_hash(back.state), f"seed {seed}: after {command}"
        there.now_ms = back.now_ms = there.now_ms + dice.choice((0, 0, 500, 5_000))


@pytest.mark.parametrize("on_failure", ["abort", "compensate"])
def test_a_run_that_is_ending_has_no_timers(on_failure: str) -> None:
    worlds = there, back = World(), World()
    for world in worlds:
        world.run(
            echo("bad"),
            echo("slow"),
            {"id": "t", "type": "timer", "duration_ms": 3_600_000},
            on_failure=on_failure,
        )
        world.hold("slow")
        world.fail("bad")
    back.state = codec.decode_state(list(codec.encode_state(back.state.copy())))
    for world in worlds:
        world.do(SignalTask(RUN, "any", Data(b"1")))
        wait = world.task(RUN).wait
        assert wait is not None and wait.until_ms == 0
    assert state_hash(there.state) == state_hash(back.state)
