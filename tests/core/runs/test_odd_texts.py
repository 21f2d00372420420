"""Texts that JSON can spell and Unicode does not have: half of a surrogate pair ends a node, no cluster."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.commands import Accepted
from coterie.core.graph.check import problems_of
from coterie.core.graph.evaluate import Values
from coterie.core.graph.reading import graph_bytes, read_graph
from coterie.core.graph.refs import Path, Ref, value_of
from coterie.core.graph.values import ValueFault
from coterie.core.nouns import Data, RetryPolicy, TaskState
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.run import WORKFLOW
from coterie.raft import codec
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, World, echo

HALF = r'{{ a["\ud800"] }}'
GIVEN = rb'{"a": {"\udfff": "\ud800", "k": "\ud800"}}'


def run_of(*nodes: dict[str, Any], **graph: Any) -> World:
    """A run as a node began it that did not look at references so closely."""
    world = World().with_node("n1")
    assert isinstance(world, World)
    found, problems = read_graph({"nodes": list(nodes), "inputs": [{"name": "a"}], **graph})
    assert problems == []
    submit = submit_command(RUN, type=WORKFLOW, payload=Data(GIVEN), retry=RetryPolicy(attempts_max=1))
    assert world.do(RunWorkflow(submit, graph_bytes(found))) == Accepted(RUN)
    return world


def is_kept(world: World) -> None:
    """The whole state can be written, and every event with it."""
    assert codec.decode_state(list(codec.encode_state(world.state))).finished == world.state.finished
    for event in world.events:
        event.detail.encode()


@pytest.mark.parametrize("input", [HALF, {"v": HALF}, f"so {HALF}"])
def test_half_of_a_character_in_a_path_is_found_at_the_edge(input: Any) -> None:
    graph, _ = read_graph({"nodes": [echo("b", input=input)], "inputs": [{"name": "a"}]})
    (problem,) = problems_of(graph)
    assert problem.code == "BAD_REFERENCE" and r'"\ud800"' in problem.text and "Unicode" in problem.text


@pytest.mark.parametrize("input", [HALF, {"v": HALF}, "{{ a.k }}", {"v": "so {{ a.k }}"}, "{{ a.no }}"])
def test_half_of_a_character_ends_the_node_that_would_be_given_it(input: Any) -> None:
    world = run_of(echo("b", input=input))
    assert world.table()["b"]["state"] == "FAILED"
    is_kept(world)


@pytest.mark.parametrize("outputs", [HALF, {"v": HALF}, "{{ a.k }}", "{{ a.no }}"])
def test_half_of_a_character_in_what_a_run_gives_fails_the_run(outputs: Any) -> None:
    world = run_of({"id": "c", "type": "condition", "expr": "true"}, outputs=outputs)
    assert world.ended().state is TaskState.FAILED
    is_kept(world)


@pytest.mark.parametrize(
    "node",
    [
        {"type": "condition", "expr": "a[a.k] == 1"},
        {"type": "condition", "expr": "a.k"},
        {"type": "condition", "expr": "{a.k: 1}.no"},
        {"type": "condition", "expr": "int(a.k) > 0"},
        {"type": "switch", "expr": "a.k", "cases": ["x"]},
        {"type": "switch", "expr": "a", "cases": ["x"]},
        {"type": "reduce", "over": ["{{ a.k }}"], "reducer": "list"},
        {"type": "reduce", "over": ["{{ a.k }}"], "reducer": "vote"},
        {"type": "reduce", "over": "{{ a }}", "reducer": "concat"},
        {"type": "reduce", "over": ["{{ a }}"], "reducer": "merge"},
        {"type": "map", "over": ["{{ a.k }}"], "skill": "echo"},
        {"type": "agent", "agents": ["x", "y"], "input": "{{ a }}"},
        {"type": "task", "skill": "echo", "when": "a.k == 'x' || a[a.k]"},
    ],
)
def test_half_of_a_character_in_a_value_ends_the_node(node: dict[str, Any]) -> None:
    world = run_of({"id": "n", **node})
    assert world.table()["n"]["state"] == "FAILED"
    is_kept(world)


@pytest.mark.parametrize("given", [b'"\\ud800"', b'{"k": "\\ud800", "\\udfff": 1}'])
def test_half_of_a_character_in_an_answer_ends_who_reads_it(given: bytes) -> None:
    world = World()
    world.run(
        {"id": "w", "type": "wait", "signal": "go", "timeout_ms": 1_000},
        echo("a"),
        echo("b", "a", input={"v": "{{ a.k }}"}),
        echo("c", "a"),
        on_failure="continue",
    )
    world.give("a", Data(given))
    world.pass_time(2_000)
    assert {name: row["state"] for name, row in world.table().items()} == {
        "a": "SUCCEEDED",
        "b": "FAILED",
        "c": "FAILED",
        "w": "FAILED",
    }
    is_kept(world)


def test_what_is_wrong_with_a_value_can_always_be_written() -> None:
    assert ValueFault("X", "a\ud800b").text == r"a\ud800b"
    with pytest.raises(ValueFault, match=r"there is no"):
        value_of(Ref((Path("a", ("\ud800",)),)), Values({"a": {}}))
