"""Runs inside of runs, and runs that end together, hold no entry for long by what they read and write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import Command, ExpireTask, FinishTask, PauseTask, ResumeTask, SetTenant
from coterie.core.machine import apply
from coterie.core.nouns import Data, ExpiryKind, TaskId, TaskState
from coterie.core.quotas import Tenant
from coterie.core.runs import walk
from coterie.core.runs.commands import AddNodes, RunWorkflow
from coterie.core.runs.run import WORKFLOW
from coterie.core.scheduler import plan
from coterie.core.state import Moment
from coterie.core.view import PlanPolicy, View
from tests.core.builders import submit_command
from tests.core.runs.test_large import raw_nodes
from tests.core.runs.test_large_values import Coder, coder, restore
from tests.core.runs.world import RUN, World, echo, raw

WORK = 1_000  # KiB that one entry may do here
BOUND = 2 * (WORK << 10)
BIG = "x" * 100_000
WASTED = [*["{{ big }}" * 4] * 2, "{{ big.gone }}"]  # 0.8 MB
MADE = ["{{ big }}" * 4] * 2

__all__ = ["coder"]


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "WORK_MAX", WORK)


def due(world: World) -> list[ExpireTask]:
    """What the leader proposes."""
    world.now_ms += 1
    return [one for one in plan(world.state, View(world.now_ms), PlanPolicy()) if isinstance(one, ExpireTask)]


def commit(world: World, commands: Sequence[Command]) -> None:
    """All of it as one entry."""
    world.index += 1
    for command in commands:
        apply(world.state, command, Moment(world.index, world.now_ms))
    world.state.outbox.clear()


@pytest.mark.parametrize("outputs", [WASTED, 1])
def test_few_runs_inside_of_a_run_are_begun_and_ended_in_one_entry(outputs: Any, coder: Coder) -> None:
    body = {
        "nodes": [{"id": "c", "type": "condition", "expr": "true"}],
        "inputs": [{"name": "big", "required": False, "default": BIG}],
        "outputs": outputs,
    }
    over = {"id": "m", "type": "map", "over": list(range(30)), "body": body, "window": 30}
    worlds = there, back = World(), World()
    for world in worlds:
        world.do(SetTenant(Tenant("default", pending_tasks_max=10_000)))
        coder.bytes = 0
        world.run({**over, "on_item_failure": "skip"}, max_parallel=30)
        assert coder.bytes <= BOUND
    while RUN in there.state.runs:
        restore(back)
        commands = due(there)
        assert commands and commands == due(back)
        coder.bytes = 0
        commit(there, commands)
        assert coder.bytes <= BOUND
        commit(back, commands)
        assert state_hash(there.state) == state_hash(back.state)
    assert there.result()["m"] == ([1] * 30 if outputs == 1 else [])


def together(*runs: str, deadline_ms: int = 0) -> tuple[World, list[FinishTask]]:
    """Runs that wait for one task each, and the ends of these. The last one has a deadline."""
    world = World()
    world.with_node("n1", capacity=100)
    undo = {"id": "ua", "type": "compensate", "skill": "echo", "compensates": "a"}
    graph = raw(
        {
            "nodes": [echo("a"), undo],
            "inputs": [{"name": "big"}],
            "outputs": MADE,
            "on_failure": "compensate",
        }
    )
    given = Data(json.dumps({"big": BIG}).encode())
    for run in runs:
        deadline = {"deadline_after_ms": deadline_ms} if run == runs[-1] else {}
        submit = submit_command(run, type=WORKFLOW, payload=given, **deadline)
        world.do(RunWorkflow(submit, graph))
        world.assign(f"{run}~a~0")
    return world, [FinishTask(TaskId(f"{run}~a~0"), 1, Data(b"1")) for run in runs]


def test_runs_that_end_in_one_entry_make_their_outputs_in_several(coder: Coder) -> None:
    names = [f"s{number}" for number in range(6)]
    there, ends = together(*names)
    back, _ = together(*names)
    commands: Sequence[Command] = ends
    while there.state.runs:
        assert commands
        restore(back)
        coder.bytes = 0
        commit(there, commands)
        assert coder.bytes <= BOUND
        commit(back, commands)
        assert state_hash(there.state) == state_hash(back.state)
        commands = due(there)
        assert commands == due(back)
    assert {there.task(name).state for name in names} == {TaskState.SUCCEEDED}


def test_outputs_that_had_to_wait_wait_for_the_end_of_a_pause_too() -> None:
    world, ends = together("s0", "s1")
    commit(world, ends)
    assert list(world.state.runs) == ["s1"]
    world.do(PauseTask(TaskId("s1"), ""))
    assert not due(world) and world.task("s1").state is TaskState.PAUSED
    world.do(ResumeTask(TaskId("s1")))
    assert world.task("s1").state is TaskState.SUCCEEDED


def test_nodes_may_be_added_while_outputs_wait() -> None:
    world, ends = together("s0", "s1")
    commit(world, ends)
    world.do(AddNodes(TaskId("s1"), raw_nodes(echo("b", "a"))))
    assert world.task("s1").state is TaskState.WAITING
    world.assign("s1~b~0")
    world.do(FinishTask(TaskId("s1~b~0"), 1, Data(b"2")))
    assert world.task("s1").state is TaskState.SUCCEEDED


def test_a_run_whose_outputs_have_to_wait_beyond_its_deadline_has_kept_it() -> None:
    """All its nodes ended in time: the work of other runs put the outputs off."""
    world, ends = together("s0", "s1", deadline_ms=1_000)
    commit(world, ends)
    world.now_ms += 2_000
    commands = due(world)
    assert [one.kind for one in commands if one.task_id == "s1"] == [ExpiryKind.DEADLINE]
    while commands:
        commit(world, commands)
        commands = due(world)
    assert world.task("s1").state is TaskState.SUCCEEDED and not world.open()
