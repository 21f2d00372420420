"""The list a map goes over is the one it began with, whatever its alternatives would give later."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.core.commands import Accepted, ConfigureCluster, Rejected
from coterie.core.nouns import Data, Policy, Step, TaskState
from coterie.core.runs.commands import AddNodes
from coterie.core.steplog import StepLog
from coterie.raft import codec
from tests.core.runs.world import RUN, World, echo, raw

EITHER = {"id": "m", "type": "map", "over": "{{ b | a }}", "skill": "echo", "window": 1}
FIRST = {**EITHER, "depends_on": ["a", "b"], "join": "first"}
MORE = raw({"nodes": [echo("z")]})


def restored(world: World) -> None:
    world.state = codec.decode_state(list(codec.encode_state(world.state.copy())))


def begun(later: Any) -> World:
    """Its first item runs, and the alternative that counts before has come."""
    world = World()
    world.run(echo("a"), echo("b"), FIRST)
    world.give("a", [1, 2, 3])
    world.give("b", later)
    return world


@pytest.mark.parametrize("later", [[7], [7, 8, 9, 10], "no list"])
@pytest.mark.parametrize("happens", ["nothing", "a restore", "an addition"])
def test_the_list_stays_when_a_better_alternative_comes(later: Any, happens: str) -> None:
    world = begun(later)
    if happens == "a restore":
        restored(world)
    elif happens == "an addition":
        assert world.do(AddNodes(RUN, MORE)) == Accepted(RUN)
    for place in range(3):
        assert world.payload(f"r~m~{place}") == place + 1
        world.give(f"r~m~{place}", 10 * place)
    if happens == "an addition":
        world.give("z")
    assert world.result()["m"] == [0, 10, 20]


def test_the_list_stays_without_a_dependency_too() -> None:
    world = World()
    world.run(echo("b"), {**EITHER, "over": "{{ b | [1, 2] }}"})
    world.give("b", [])
    restored(world)
    world.give("m", "x")
    world.give("r~m~1", "y")
    assert world.result()["m"] == ["x", "y"]


def test_the_list_counts_as_a_step_and_is_taken_over() -> None:
    world = begun([7])
    assert world.task(RUN).step_count == 3 and world.state.steps[RUN].find("m~over") is not None
    again = World()
    steps = (Step("m~over", 1, Data(b"[1,2,3]"), 5), Step("m~0", 1, Data(b'"kept"'), 6))
    again.run(echo("a"), echo("b"), FIRST, more={"steps": steps})
    again.give("b", [7])
    assert again.open() == ["r~a~0", "r~m~1"] and again.payload("r~m~1") == 2
    again.give("a", 0)
    again.give("r~m~1", "one")
    again.give("r~m~2", "two")
    assert again.result() == {"m": ["kept", "one", "two"]}


def test_a_list_that_nothing_can_change_is_no_step() -> None:
    world = World()
    world.run(echo("a"), {**EITHER, "over": "{{ a }}", "depends_on": ["a"]})
    world.give("a", [1, 2])
    assert [step.key for step in world.state.steps[RUN]] == ["a"]


def test_a_run_that_can_keep_no_list_ends() -> None:
    world = World()
    world.do(ConfigureCluster("c", "test", Policy(steps_per_task_max=1)))
    world.run(echo("a"), echo("b"), FIRST)
    world.give("a", [1])
    task = world.ended()
    assert task.state is TaskState.FAILED and task.error is not None and task.error.code == "TASK_TOO_LARGE"
    assert world.states() == {"a": "SUCCEEDED", "b": "CANCELLED", "m": "CANCELLED"}


@pytest.mark.parametrize(("later", "ends"), [([7], "FAILED"), ([7, 8, 9, 10], "SUCCEEDED")])
def test_a_run_that_began_without_keeping_its_list_goes_on_alike_everywhere(later: Any, ends: str) -> None:
    """As earlier versions began it."""
    worlds = there, back = begun(later), begun(later)
    for world in worlds:
        kept = [step for step in world.state.steps[RUN] if step.key != "m~over"]
        assert len(kept) < len(world.state.steps[RUN])
        world.state.steps[RUN], world.state.runs[RUN].book = StepLog(kept), None
    for place in range(3 if ends == "SUCCEEDED" else 1):
        restored(back)
        for world in worlds:
            world.give(f"r~m~{place}", place)
        assert there.state == back.state
    assert there.states()["m"] == ends
    assert ends == "SUCCEEDED" or there.table()["m"]["code"] == "LIST_CHANGED"


def test_what_is_added_takes_no_name_that_the_run_has() -> None:
    world = World()
    world.run(
        echo("a", output_var="rows"),
        {"id": "m", "type": "map", "over": "{{ docs }}", "skill": "echo", "window": 1},
        inputs=[{"name": "docs"}],
        given={"docs": [1, 2]},
    )
    for node in (echo("docs"), echo("rows"), echo("x", output_var="rows"), echo("x", output_var="docs")):
        refused = world.do(AddNodes(RUN, json.dumps({"nodes": [node]}).encode()))
        assert isinstance(refused, Rejected) and refused.code == "BAD_WORKFLOW" and "rename" in refused.reason
    assert world.do(AddNodes(RUN, raw({"nodes": [echo("x", output_var="more")]}))) == Accepted(RUN)
