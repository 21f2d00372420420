"""What is foreseen of a run comes true, unless the run itself ends in that entry."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from coterie.core.commands import Accepted, AssignTask, FinishTask, PauseTask, ResumeTask
from coterie.core.nouns import NO_CONSTRAINTS, TaskId
from coterie.core.runs.foresee import after_success, at_the_beginning
from coterie.core.runs.run import NodeState, Phase
from tests.core.runs.world import RUN, World, echo
from tests.sim.workflows.drive import Drive
from tests.sim.workflows.graphs import random_graph


def names(world: World, of: str) -> list[str]:
    return [one.task_id for one in after_success(world.state, world.hold(of))]


def test_the_last_dependency_brings_the_next_task() -> None:
    world = World()
    wanted = {"id": "asked", "skill": "echo", "depends_on": ["a"], "when": "a.go"}
    world.run(echo("a"), echo("b"), echo("ab", "a", "b"), echo("after", "a"), wanted)
    assert names(world, "a") == ["r~after~0"]
    world.give("a", {"go": True})
    assert names(world, "b") == ["r~ab~0"]
    world.give("b")
    assert {"r~ab~0", "r~asked~0", "r~after~0"} == set(world.open())


def test_of_many_dependencies_each_of_the_last_few_may_be_the_last() -> None:
    world, many = World(), [f"n{at}" for at in range(30)]
    world.run(*(echo(name) for name in many), echo("all", *many))
    for name in many[:26]:
        world.give(name)
    assert names(world, "n26") == names(world, "n29") == ["r~all~0"]
    early = World()
    early.run(*(echo(name) for name in many), echo("all", *many))
    for name in many[:25]:
        early.give(name)
    assert names(early, "n26") == []


def test_nothing_is_foreseen_of_a_run_that_is_paused_or_full() -> None:
    world = World()
    world.run(echo("a"), echo("wide-1", "a"), echo("wide-2", "a"), max_parallel=1)
    assert names(world, "a") == ["r~wide-1~0"]
    world.do(PauseTask(RUN, ""))
    assert names(world, "a") == []
    world.do(ResumeTask(RUN))
    assert names(world, "a") == ["r~wide-1~0"]


def test_the_next_item_of_a_map_and_what_follows_the_last() -> None:
    world = World()
    each = {"id": "m", "type": "map", "over": [1, 2, 3], "skill": "echo", "window": 2}
    world.run(each, echo("end", "m"))
    assert names(world, "r~m~0") == ["r~m~2"]
    world.give("r~m~0")
    assert names(world, "r~m~1") == []
    world.give("r~m~1")
    assert names(world, "r~m~2") == ["r~end~0"]


class Foretold(Drive):
    """Compares what was foreseen with what each end brings."""

    seen: Counter[str]

    def do(self, command: Any) -> Any:
        foreseen = []
        if isinstance(command, FinishTask):
            foreseen = after_success(self.state, self.state.tasks[command.task_id])
        parent = self.state.tasks[command.task_id].parent_id if foreseen else TaskId("")
        outcome = super().do(command)
        run = self.state.runs.get(parent)
        if isinstance(outcome, Accepted) and run is not None and run.head.phase is Phase.GOING:
            for one in foreseen:
                task = self.state.task(one.task_id)
                record = run.nodes.get(one.task_id.rsplit("~", 2)[1])
                there = task is not None and (task.type, task.constraints) == (one.type, one.constraints)
                waits = record is not None and (record.code or record.state is NodeState.READY)
                assert there or waits, one
                FOUND["true" if there else "not now"] += 1
        return outcome


FOUND: Counter[str] = Counter()


@pytest.mark.parametrize("first", [0, 100])
def test_what_is_foreseen_comes_true_in_random_workflows(first: int) -> None:
    FOUND.clear()
    for seed in range(first, first + 100):
        graph = random_graph(seed)
        drive = Foretold(seed, graph)
        drive.go()
    assert FOUND["true"] > 10 * FOUND["not now"] > 0, FOUND


def test_the_first_tasks_of_a_run_can_be_assigned_in_its_own_entry() -> None:
    world = World()
    nodes = (
        echo("a"),
        echo("b", "a"),
        {"id": "c", "type": "condition", "expr": "true"},
        echo("d", when="true"),
    )
    world.run(*nodes)
    run = world.state.runs[RUN]
    assert run.book is not None
    found = at_the_beginning(world.state, RUN, run.book.graph, NO_CONSTRAINTS)
    assert [one.task_id for one in found] == ["r~a~0"]
    assert not isinstance(found[0], AssignTask)
