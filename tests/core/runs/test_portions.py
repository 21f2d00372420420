"""One entry decides only so many conditions: the run goes on with the next, and ends as it would have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import CancelTask, FinishTask, PauseTask, ResumeTask
from coterie.core.graph.evaluate import STEPS_MAX, _Evaluation
from coterie.core.nouns import Data, TaskState
from coterie.core.runs.commands import AddNodes
from coterie.core.runs.run import UNDECIDED, NodeState
from coterie.core.runs.walk import STEPS_PER_WORK_BITS, WORK_MAX
from coterie.raft import codec
from tests.core.runs.test_large import raw_nodes
from tests.core.runs.world import RUN, World, echo

NODES = 300
PLAN = [f"x{number}" for number in range(8_998)] + ["n7", "n250"]
STEPS_OF_ENTRY = (WORK_MAX << STEPS_PER_WORK_BITS) + STEPS_MAX


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The steps of each evaluation since the list was cleared."""
    paid: list[int] = []
    pay = _Evaluation._pay

    def counting(self: _Evaluation, count: int = 1) -> None:
        paid.append(count)
        pay(self, count)

    monkeypatch.setattr(_Evaluation, "_pay", counting)
    yield paid


def planned(**graph: Any) -> World:
    """A run in which one answer is what 300 conditions wait for."""
    world = World()
    wanted = [echo(f"n{number}", "plan", when=f'"n{number}" in plan') for number in range(NODES)]
    world.run(
        echo("plan"), *wanted, echo("late", *[f"n{number}" for number in range(NODES)], join="any"), **graph
    )
    return world


def finish_plan(world: World) -> None:
    task = world.hold("plan")
    world.do(FinishTask(task.task_id, task.attempt, Data(json.dumps(PLAN).encode())))


def undecided(world: World) -> int:
    run = world.state.runs.get(RUN)
    return sum(record.code == UNDECIDED for record in run.nodes.values()) if run is not None else 0


def test_an_entry_decides_only_so_much(steps: list[int]) -> None:
    world, entries = planned(), 0
    steps.clear()
    finish_plan(world)
    assert 0 < undecided(world) < NODES
    while undecided(world):
        assert sum(steps) <= STEPS_OF_ENTRY
        entries += 1
        steps.clear()
        world.pass_time_once()
    assert sum(steps) <= STEPS_OF_ENTRY and entries > 2
    assert world.open() == ["r~n250~0", "r~n7~0"]
    world.give("n7", 7)
    world.give("n250", 250)
    world.give("late")
    states = world.states()
    assert states.pop("late") == states.pop("plan") == states["n7"] == states["n250"] == "SUCCEEDED"
    assert sum(state == "SKIPPED" for state in states.values()) == NODES - 2
    assert not any(row.get("code") == UNDECIDED for row in world.table().values())


def restored(world: World) -> World:
    world.state = codec.decode_state(list(codec.encode_state(world.state.copy())))
    return world


@pytest.mark.parametrize("bound", [1, 2, 1_000])
def test_a_node_that_is_restored_between_two_portions_goes_on_alike(bound: int) -> None:
    there, back = planned(max_parallel=bound), planned(max_parallel=bound)
    for world in (there, back):
        finish_plan(world)
    while undecided(there):
        restored(back)
        for world in (there, back):
            world.pass_time_once()
        assert state_hash(there.state) == state_hash(back.state)
    for _ in range(3):
        assert there.open() == back.open()
        for name in there.open():
            there.give(name, 1)
            restored(back).give(name, 1)
            assert state_hash(there.state) == state_hash(back.state)
    assert there.ended().state is TaskState.SUCCEEDED


def test_what_is_undecided_waits_for_the_end_of_a_pause() -> None:
    world = planned()
    world.do(PauseTask(RUN, ""))
    finish_plan(world)
    count = undecided(world)
    world.pass_time(1_000)
    assert undecided(world) == count > 0
    world.do(ResumeTask(RUN))
    world.pass_time(1_000)
    assert undecided(world) == 0 and len(world.open()) == 2


def test_what_is_undecided_is_skipped_when_the_run_ends() -> None:
    world = planned()
    finish_plan(world)
    world.do(CancelTask(RUN, "enough"))
    assert world.ended().state is TaskState.CANCELLED
    assert world.table()["n299"]["code"] == "NOT_BEGUN"


def test_nodes_may_be_added_while_some_are_undecided() -> None:
    world = planned()
    finish_plan(world)
    world.do(AddNodes(RUN, raw_nodes(echo("more", "plan"))))
    world.pass_time(1_000)
    assert undecided(world) == 0 and world.open() == ["r~more~0", "r~n250~0", "r~n7~0"]


def test_a_condition_that_fails_later_fails_its_node() -> None:
    world = World()
    nodes = [echo(f"n{number}", "plan", when=f'"n{number}" in plan') for number in range(100)]
    world.run(echo("plan"), *nodes, echo("odd", "plan", when="size(plan)"), on_failure="continue")
    finish_plan(world)
    assert world.state.runs[RUN].nodes["odd"].state is NodeState.READY
    world.pass_time(1_000)
    record = world.state.runs[RUN].nodes["odd"]
    assert (record.state, record.code) == (NodeState.FAILED, "TYPE_ERROR")


@pytest.mark.parametrize(
    "node",
    [
        {"type": "condition", "expr": "'no' in plan"},
        {"type": "switch", "expr": "'no' in plan ? 'a' : 'b'", "cases": ["a", "b"]},
        {"type": "switch", "expr": "plan", "cases": ["a"]},
    ],
)
def test_branches_count_likewise(node: dict[str, Any], steps: list[int]) -> None:
    world = World()
    branches = ({"id": f"b{place}", "depends_on": ["plan"], **node} for place in range(120))
    world.run(echo("plan"), *branches, outputs="all")
    steps.clear()
    finish_plan(world)
    assert sum(steps) <= STEPS_OF_ENTRY
    assert any(record.state is NodeState.READY for record in world.state.runs[RUN].nodes.values())
    world.pass_time(1_000)
    assert world.ended().state is TaskState.SUCCEEDED
