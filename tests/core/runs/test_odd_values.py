"""Runs of workflows that are given what does not fit: each says so at the node, with a code, and ends."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.commands import Accepted, CancelTask, Rejected
from coterie.core.graph.check import problems_of
from coterie.core.graph.evaluate import Meter
from coterie.core.graph.reading import graph_bytes, read_graph
from coterie.core.nouns import Data, RetryPolicy, TaskId, TaskState
from coterie.core.runs import rules
from coterie.core.runs.asking import chosen
from coterie.core.runs.commands import AddNodes, RunWorkflow
from coterie.core.runs.run import WORKFLOW
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, World, echo, raw

DEEP = "(" * 13 + "1" + ("+1" * 38 + ")") * 13 + " > 0"
GIVEN = {"inputs": [{"name": "over"}]}


@pytest.mark.parametrize(
    ("items", "code"), [("text", "TYPE_ERROR"), ({"a": 1}, "TYPE_ERROR"), ([0] * 10_001, "TOO_MANY_ITEMS")]
)
def test_a_map_goes_over_a_list_of_a_bounded_length(items: Any, code: str) -> None:
    world = World()
    node = {"id": "m", "type": "map", "over": "{{ over }}", "skill": "echo", "input": "{{ item }}"}
    world.run(node, given={"over": items}, **GIVEN)
    assert world.table()["m"]["code"] == code
    assert world.ended().state is TaskState.FAILED


def test_the_workflow_says_what_its_outputs_are() -> None:
    world = World()
    world.run(echo("a"), outputs={"title": "{{ a.title }}", "run": "{{ run.id }}"})
    world.give("a", {"title": "x", "more": 1})
    assert world.result() == {"title": "x", "run": "r"}


def test_outputs_that_are_not_there_fail_the_run() -> None:
    world = World()
    world.run(echo("a"), outputs={"title": "{{ a.title }}"})
    world.give("a", {"name": "x"})
    task = world.ended()
    assert task.state is TaskState.FAILED and task.error is not None
    assert task.error.code == "MISSING_VALUE" and task.error.message.startswith("outputs: ")


def test_a_condition_of_beginning_that_has_no_answer_fails_the_node() -> None:
    world = World()
    world.run(echo("a"), echo("b", "a", when="a.score > 5"))
    world.give("a", {"score": "high"})
    assert world.table()["b"]["code"] == "TYPE_ERROR"
    assert world.table()["b"]["message"].startswith("when: ")


def test_a_reduction_may_be_the_work_of_a_skill() -> None:
    world = World()
    world.run(
        {"id": "r1", "type": "reduce", "over": "{{ over }}", "skill": "echo", "input": "sum up"},
        given={"over": [1, 2]},
        **GIVEN,
    )
    assert world.payload("r1") == {"items": [1, 2], "input": "sum up"}
    world.give("r1", 3)
    assert world.result() == {"r1": 3}


def test_bytes_that_are_no_json_are_told_by_their_size() -> None:
    world = World()
    world.run(echo("a"))
    world.give("a", Data(b"\xff\xfe"))
    assert world.result() == {"a": {"bytes": 2}}


def test_nodes_are_added_to_runs_only_that_go_on() -> None:
    more = b'{"nodes":[{"id":"x","skill":"echo"}]}'
    world = World()
    world.run(echo("a"))
    world.do(submit_command("plain"))
    refused = world.do(AddNodes(TaskId("plain"), more))
    assert isinstance(refused, Rejected) and refused.code == "NOT_A_RUN"
    refused = world.do(AddNodes(RUN, b'{"nodes":7}'))
    assert isinstance(refused, Rejected) and refused.code == "BAD_WORKFLOW"
    world.hold("a")
    world.do(CancelTask(RUN))
    refused = world.do(AddNodes(RUN, more))
    assert isinstance(refused, Rejected) and refused.code == "CANCELLED"


def test_a_run_grows_within_the_bounds_of_tasks_and_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    more = b'{"nodes":[{"id":"x","skill":"echo"}]}'
    for limit, code in (("ADDITIONS_MAX", "TOO_LARGE"), ("NODES_MAX", "TOO_LARGE")):
        world = World()
        world.run(echo("a"))
        with monkeypatch.context() as patch:
            patch.setattr(rules, limit, 0)
            refused = world.do(AddNodes(RUN, more))
        assert isinstance(refused, Rejected) and refused.code == code
        assert world.do(AddNodes(RUN, more)) == Accepted(RUN), "nothing was taken in"


@pytest.mark.parametrize(
    ("count", "pad", "told"),
    [
        (rules.ADDED_NODES_MAX + 1, "", f"nodes: {rules.ADDED_NODES_MAX + 1} nodes"),
        (1, "x" * rules.ADDED_BYTES_MAX, f"the limit is {rules.ADDED_BYTES_MAX}"),
    ],
)
def test_one_addition_is_no_larger_than_an_entry_can_look_at(count: int, pad: str, told: str) -> None:
    world = World()
    world.run(echo("a"))
    refused = world.do(AddNodes(RUN, raw({"nodes": [echo(f"n{at}", input=pad) for at in range(count)]})))
    assert isinstance(refused, Rejected) and refused.code == "TOO_LARGE" and told in refused.reason
    assert "in several additions" in refused.reason
    full = raw({"nodes": [echo(f"n{at}") for at in range(rules.ADDED_NODES_MAX)]})
    assert world.do(AddNodes(RUN, full)) == Accepted(RUN)


def test_a_verdict_that_is_no_json_is_the_answer_itself() -> None:
    verdict, answers = Data(b"\xff"), [Data(b"1"), Data(b"2")]
    assert chosen(verdict, answers, Meter()) is verdict
    assert chosen(Data(b'{"choice": 1}'), answers, Meter()) is answers[1]


def test_a_run_begins_at_once_or_not_at_all() -> None:
    world = World()
    answer = world.run(echo("a"), more={"start_delay_ms": 5})
    assert isinstance(answer, Rejected) and answer.code == "BAD_WORKFLOW" and "timer" in answer.reason
    assert world.run(echo("a")) == Accepted(RUN)


@pytest.mark.parametrize("node", [{"type": "condition", "expr": DEEP}, echo("n", when=DEEP)])
def test_an_expression_that_is_too_deep_fails_its_node(node: dict[str, Any]) -> None:
    """Nodes of version 0.1 let it pass: it may stand in a log."""
    world = World().with_node("n1")
    found, problems = read_graph({"nodes": [echo("first"), {**node, "id": "n", "depends_on": ["first"]}]})
    assert problems == [] and {one.code for one in problems_of(found)} == {"BAD_EXPRESSION"}
    submit = submit_command(RUN, type=WORKFLOW, retry=RetryPolicy(attempts_max=1))
    assert world.do(RunWorkflow(submit, graph_bytes(found))) == Accepted(RUN)
    assert isinstance(world, World)
    world.give("first")
    assert world.table()["n"]["code"] == "BAD_EXPRESSION"
