"""A run grows within what can be kept of it when it ends, and ends whatever was added to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.core.commands import Accepted, CancelTask, Rejected
from coterie.core.graph.check import problems_of
from coterie.core.graph.model import GRAPH_BYTES_MAX
from coterie.core.graph.reading import graph_bytes, read_graph, small_graph_of
from coterie.core.nouns import Data, Step, TaskState, evolve
from coterie.core.runs import rules
from coterie.core.runs.commands import AddNodes, RunWorkflow
from coterie.core.runs.outline import whole_graph
from coterie.core.runs.run import WORKFLOW
from tests.core.builders import submit_command
from tests.core.runs.test_odd_ends import unchecked
from tests.core.runs.world import RUN, World, echo, raw

CACHED = small_graph_of.cache_parameters()["maxsize"] or 0
MANY_DIGITS = r"\u0031" * 401  # a text of more digits than a number may have


def large(at: int) -> bytes:
    """An addition that is nearly as large as one may be."""
    return raw({"nodes": [echo(f"n{at}", input="x" * 120_000)]})


def until_refused(world: World) -> tuple[int, Rejected]:
    for at in range(100):
        outcome = world.do(AddNodes(RUN, large(at)))
        if isinstance(outcome, Rejected):
            return at, outcome
    raise AssertionError("it grows without end")


def test_a_run_grows_no_larger_than_a_graph_may_be_and_ends() -> None:
    world = World()
    world.run(echo("a"))
    count, refused = until_refused(world)
    assert refused.code == "TOO_LARGE" and str(GRAPH_BYTES_MAX) in refused.reason
    assert count == GRAPH_BYTES_MAX // len(large(0)), "and no smaller"
    head = world.state.runs[RUN].head
    small = raw({"nodes": [echo("small")]})
    left = GRAPH_BYTES_MAX - len(head.graph) - sum(map(len, head.grown))
    assert left > len(small) and world.do(AddNodes(RUN, small)) == Accepted(RUN)
    world.do(CancelTask(RUN))
    assert world.ended().state is TaskState.CANCELLED
    assert set(world.states()) == {"a", "small", *(f"n{at}" for at in range(count))}


@pytest.mark.parametrize("first", [{}, {"outputs": "{{ a }}", "inputs": [{"name": "i"}], "max_parallel": 7}])
def test_what_grew_is_written_in_no_more_bytes_than_its_pieces(first: dict[str, Any]) -> None:
    world = World()
    world.run(echo("a"), given={"i": 1} if "inputs" in first else None, **first)
    for at in range(5):
        more = echo(f"n{at}", "a", input={"at": at, "s": "é"})
        assert world.do(AddNodes(RUN, unchecked(more))) == Accepted(RUN)
    run = world.state.runs[RUN]
    assert len(graph_bytes(whole_graph(run))) <= len(run.head.graph) + sum(map(len, run.head.grown))


def test_a_run_that_has_grown_beyond_it_already_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions let it."""
    world = World()
    world.run(echo("a"))
    with monkeypatch.context() as patch:
        patch.setattr(rules, "GRAPH_BYTES_MAX", 2 * GRAPH_BYTES_MAX)
        count, _ = until_refused(world)
    assert isinstance(world.do(AddNodes(RUN, large(count))), Rejected)
    world.do(CancelTask(RUN))
    left = json.loads(world.ended().checkpoint.inline)
    assert len(left["nodes"]) == len(left["workflow"]["nodes"]) == count + 1 > 30


@pytest.mark.parametrize("node", [rb'"name":"\ud800"', b'"input":"' + MANY_DIGITS.encode() + b'"'])
def test_what_cannot_be_written_again_is_not_added(node: bytes) -> None:
    world = World()
    world.run(echo("a"))
    refused = world.do(AddNodes(RUN, b'{"nodes":[{"depends_on":["a"],"id":"b","skill":"echo",%s}]}' % node))
    assert isinstance(refused, Rejected) and refused.code == "BAD_WORKFLOW"
    assert world.state.runs[RUN].head.grown == ()


@pytest.mark.parametrize(
    ("node", "kept"),
    [(rb'"name":"\ud800"', ["a", "b"]), (b'"input":"' + MANY_DIGITS.encode() + b'"', ["a"])],
)
def test_a_run_to_which_it_was_added_ends_too(node: bytes, kept: list[str]) -> None:
    world = World()
    world.run(echo("a"))
    run = world.state.runs[RUN]
    more = b'{"nodes":[{"depends_on":["a"],"id":"b","skill":"echo",%s}]}' % node
    run.head, run.book = evolve(run.head, grown=(more,)), None
    world.do(CancelTask(RUN))
    left = json.loads(world.ended().checkpoint.inline)
    assert [one["id"] for one in left["nodes"]] == ["a", "b"]
    assert [one["id"] for one in left["workflow"]["nodes"]] == kept


def test_a_default_that_cannot_be_read_begins_no_run() -> None:
    world = World().with_node("n1")
    inputs = b'"inputs":[{"default":"%s","name":"i","required":false}]' % MANY_DIGITS.encode()
    graph = b'{%s,"nodes":[{"id":"a","skill":"echo"}]}' % inputs
    refused = world.do(RunWorkflow(submit_command(RUN, type=WORKFLOW), graph))
    assert isinstance(refused, Rejected) and refused.code == "BAD_WORKFLOW" and "400 digits" in refused.reason


def test_a_body_that_cannot_be_written_fails_its_node_and_holds_up_nothing() -> None:
    world = World()
    world.with_node("n1")
    body = b'{"nodes":[{"id":"x","input":"%s","skill":"echo"}]}' % MANY_DIGITS.encode()
    graph = b'{"nodes":[{"body":%s,"id":"s","type":"workflow"}]}' % body
    assert world.do(RunWorkflow(submit_command(RUN, type=WORKFLOW), graph)) == Accepted(RUN)
    assert world.table()["s"]["code"] == "NOT_JSON"


def test_an_input_of_a_body_that_cannot_be_read_gives_it_no_names() -> None:
    body = {"nodes": [echo("x", input="{{ text }}")]}
    node = {"id": "s", "type": "workflow", "body": body, "input": {"text": "1" * 401}}
    graph, problems = read_graph({"nodes": [node]})
    assert problems == [] and [one.where for one in problems_of(graph)] == ["s.x"]


@pytest.mark.parametrize("edge", ["undo", ["undo", "true"]])
def test_nothing_is_added_that_stands_on_an_undo_of_the_run(edge: Any) -> None:
    world = World()
    undo = {"id": "undo", "type": "compensate", "skill": "echo", "compensates": "a"}
    world.run(echo("a"), undo, on_failure="compensate")
    refused = world.do(AddNodes(RUN, unchecked(echo("s", "a", edge))))
    assert isinstance(refused, Rejected) and refused.code == "BAD_WORKFLOW"
    assert refused.reason == "s: stands on undo, which runs only when the run has failed"
    world.give("a", 1)
    assert world.result() == {"a": 1}


def test_a_branch_that_cannot_be_taken_over_is_none() -> None:
    """Handed in as the result of an earlier run: no case can be told from it."""
    world = World()
    switch = {"id": "s", "type": "switch", "expr": "'1'", "cases": ["1"]}
    steps = (Step("s", 1, Data(b'["\\ud800"]'), 5),)
    world.run(
        switch, echo("one", ["s", "1"]), echo("other", ["s", "default"]), echo("c"), more={"steps": steps}
    )
    assert world.open() == ["r~c~0"] and world.state.runs[RUN].nodes["s"].outcome == ""


def test_of_a_run_that_grows_often_only_what_is_new_is_read() -> None:
    world = World()
    world.run(echo("a"))
    small_graph_of.cache_clear()
    for at in range(2 * CACHED):
        assert world.do(AddNodes(RUN, unchecked(echo(f"n{at}", "a")))) == Accepted(RUN)
    assert small_graph_of.cache_info().misses == 1 + 2 * CACHED, "the first plan, and each addition once"
    run = world.state.runs[RUN]
    assert [node.node_id for node in whole_graph(run).nodes] == ["a", *(f"n{at}" for at in range(2 * CACHED))]
    other = world.state.copy().runs[RUN]
    misses = small_graph_of.cache_info().misses
    assert whole_graph(other) is whole_graph(run) and small_graph_of.cache_info().misses == misses
