"""Limits, names, outcomes and variables of a graph: each mistake has its code, its place and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.graph import check
from coterie.core.graph.check import NOTHING_KNOWN, Surroundings, problems_of
from coterie.core.graph.model import DEPTH_MAX, PARALLEL_MAX, Problem
from coterie.core.graph.needs import DURATION_MS_MAX, TEMPLATE_MAX
from coterie.core.graph.reading import read_graph

A, B = {"id": "a", "skill": "echo"}, {"id": "b", "skill": "echo"}
UNDO = {"id": "undo", "skill": "echo", "type": "compensate", "compensates": "a"}


def found_in(around: Surroundings, *nodes: dict[str, Any], **more: Any) -> list[Problem]:
    graph, problems = read_graph({"nodes": list(nodes), **more})
    assert problems == []
    return problems_of(graph, around)


@pytest.mark.parametrize(
    ("nodes", "more", "code", "where", "why"),
    [
        ([], {}, "EMPTY", "workflow", "at least one"),
        ([A], {"max_parallel": PARALLEL_MAX + 1}, "BAD_FIELD", "workflow", "max_parallel"),
        ([A], {"timeout_ms": DURATION_MS_MAX + 1}, "BAD_FIELD", "workflow", "timeout_ms"),
        ([A], {"inputs": [{"name": "1st"}]}, "BAD_FIELD", "workflow", "the input '1st' is not a name"),
        ([A | {"id": "-a"}], {}, "BAD_FIELD", "-a", "is not an id"),
        ([A, A], {}, "DUPLICATE_ID", "a", "two nodes"),
        ([A | {"output_var": "1st"}], {}, "BAD_FIELD", "a", "output_var '1st' is not a name"),
        (
            [A | {"output_var": "x"}, B | {"output_var": "x"}],
            {},
            "DUPLICATE_VARIABLE",
            "b",
            "that of node a too",
        ),
        (
            [A | {"output_var": "x"}],
            {"inputs": [{"name": "x"}]},
            "DUPLICATE_VARIABLE",
            "a",
            "that of an input too",
        ),
        ([A, UNDO | {"compensates": "c"}], {}, "UNKNOWN_DEPENDENCY", "undo", "compensates 'c'"),
        ([A, UNDO, UNDO | {"id": "again"}], {}, "BAD_FIELD", "again", "compensates a, as undo does"),
        (
            [A, UNDO, UNDO | {"id": "b", "compensates": "undo"}],
            {},
            "BAD_FIELD",
            "b",
            "undoes something itself",
        ),
        ([A | {"join": "any"}], {}, "BAD_FIELD", "a", "join any of nothing: it would never run"),
        ([A | {"join": "first"}], {}, "BAD_FIELD", "a", "join first of nothing"),
        ([A | {"join": "quorum(1)"}], {}, "BAD_FIELD", "a", "join quorum of nothing"),
        ([A, UNDO, B | {"depends_on": ["undo"]}], {}, "UNREACHABLE", "b", "only when the run has failed"),
        ([A, B | {"depends_on": [["a", "yes"]]}], {}, "BAD_FIELD", "b", "it has no outcomes"),
        ([A], {"entry_points": ["a", "c"]}, "UNKNOWN_DEPENDENCY", "workflow", "entry point 'c'"),
        ([A], {"outputs": "{{ nobody }}"}, "UNKNOWN_VARIABLE", "workflow", "there is no 'nobody'"),
        ([A], {"outputs": "{{ a | }}"}, "BAD_REFERENCE", "workflow", "outputs: "),
        ([A | {"input": "{{ nobody }}"}], {}, "UNKNOWN_VARIABLE", "a", "which nothing provides"),
        ([A], {"execution_order": ["a", "c"]}, "UNKNOWN_DEPENDENCY", "workflow", "execution_order names 'c'"),
        (
            [A, B | {"depends_on": ["a"]}],
            {"entry_points": ["a", "b"]},
            "BAD_FIELD",
            "b",
            "is an entry point, and has dependencies",
        ),
        ([A | {"when": "failed('nobody')"}], {}, "UNKNOWN_DEPENDENCY", "a", "asks how 'nobody' ended"),
        ([A, B | {"when": "failed('a')"}], {}, "BAD_FIELD", "b", "asks how a ended; add it to depends_on"),
        ([A | {"when": "1 +"}], {}, "BAD_EXPRESSION", "a", "when: "),
        ([A | {"input": "{{ x | }}"}], {}, "BAD_REFERENCE", "a", "input: "),
        ([A | {"timeout_ms": DURATION_MS_MAX + 1}], {}, "BAD_FIELD", "a", "has a time that is not in 0.."),
        ([A | {"priority": 5}], {}, "BAD_FIELD", "a", "priority 5 is not in 0..4"),
        ([A | {"retry": {"attempts_max": 101}}], {}, "BAD_FIELD", "a", "retry.attempts_max 101 is not in"),
        (
            [{"id": "m", "type": "map", "over": [1], "skill": "echo", "window": PARALLEL_MAX + 1}],
            {},
            "BAD_FIELD",
            "m",
            f"window {PARALLEL_MAX + 1} is not in 0..{PARALLEL_MAX}",
        ),
        (
            [A | {"input": "x" * (TEMPLATE_MAX + 1)}],
            {},
            "BAD_FIELD",
            "a",
            f"more than {TEMPLATE_MAX} characters",
        ),
    ],
)
def test_one_mistake_one_problem(
    nodes: list[dict[str, Any]], more: dict[str, Any], code: str, where: str, why: str
) -> None:
    [problem] = found_in(NOTHING_KNOWN, *nodes, **more)
    assert (problem.code, problem.where) == (code, where), problem
    assert why in problem.text


def test_an_agent_that_nobody_knows_is_named_with_the_nearest() -> None:
    node = {"id": "a", "type": "agent", "agents": ["writter"], "input": "write"}
    for known, hint in (("writer", "did you mean"), ("somebody", "known: somebody")):
        [problem] = found_in(Surroundings(agents=frozenset({known})), node)
        assert (problem.code, problem.where) == ("UNKNOWN_AGENT", "a")
        assert "'writter'" in problem.text and hint in problem.text


@pytest.mark.parametrize(("limit", "why"), [("NODES_MAX", "2 nodes"), ("EDGES_MAX", "1 dependencies")])
def test_a_graph_has_room_for_so_much(limit: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = (A, B | {"depends_on": ["a"]})
    assert found_in(NOTHING_KNOWN, *nodes) == []
    monkeypatch.setattr(check, limit, {"NODES_MAX": 1, "EDGES_MAX": 0}[limit])
    [problem] = found_in(NOTHING_KNOWN, *nodes)
    assert problem.code == "TOO_LARGE" and why in problem.text


def test_graphs_inside_graphs_go_so_deep() -> None:
    [problem] = found_in(Surroundings(depth=DEPTH_MAX + 1, at="a.b"), A)
    assert (problem.code, problem.where) == ("TOO_LARGE", "a.b")


def test_what_is_there_already_may_be_stood_on_and_not_be_named_again() -> None:
    around = Surroundings(nodes=frozenset({"before"}))
    assert found_in(around, A | {"depends_on": ["before"]}) == []
    [problem] = found_in(around, A | {"id": "before"})
    assert problem.code == "DUPLICATE_ID"


def test_an_open_graph_may_read_what_nobody_here_provides() -> None:
    node, outputs = A | {"input": "{{ x }}"}, "{{ x }} {{ y | 1 }}"
    assert found_in(NOTHING_KNOWN, node, open_inputs=True, outputs=outputs) == []
    [problem] = found_in(NOTHING_KNOWN, node, open_inputs=True, outputs="{{ aa }}")
    assert problem.text == "outputs: there is no 'aa'; did you mean 'a'?"


BODY = {"nodes": [B]}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"agents": ["x"]}, "agents means nothing to a task node"),
        ({"cases": ["x"]}, "cases means nothing to a task node"),
        ({"body": BODY}, "body means nothing to a task node"),
        ({"window": 3}, "window means nothing to a task node"),
        ({"signal": "go"}, "signal means nothing to a task node"),
        ({"type": "condition", "expr": "true"}, "skill means nothing to a condition node"),
        ({"type": "timer", "duration_ms": 5}, "skill means nothing to a timer node"),
        ({"type": "workflow", "body": BODY}, "skill means nothing to a workflow node"),
        ({"type": "agent", "agents": ["x"], "over": "[1]"}, "over means nothing to an agent node"),
        ({"type": "map", "over": 5}, "over: 5 is not a list"),
        ({"type": "map", "over": "docs"}, 'over: "docs" is not a list, or a reference'),
        ({"type": "map", "over": {"a": 1}}, "is not a list"),
    ],
)
def test_what_a_type_has_no_use_for_is_not_ignored(fields: dict[str, Any], says: str) -> None:
    assert any(says in one.text for one in found_in(NOTHING_KNOWN, A | fields))


def test_a_case_stands_once_and_a_node_does_not_read_itself() -> None:
    node = {"id": "a", "type": "switch", "expr": "a.x", "cases": ["b", "b"]}
    texts = [one.text for one in found_in(NOTHING_KNOWN, node)]
    assert texts[0] == "cases: b, b: one of them stands twice"
    assert texts[1:] == ["expr reads 'a', what the node itself will give"]
