"""A text that is no graph: everything in its form that cannot be read is named with its place."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.graph.model import DEPTH_MAX, Edge, GraphError, Join, JoinKind
from coterie.core.graph.reading import graph_of, read_graph, read_nodes

NODE = {"id": "a", "skill": "echo"}


def found_in(value: Any) -> list[tuple[str, str]]:
    """(place, text) of every problem."""
    problems = read_graph(value)[1]
    assert {problem.code for problem in problems} <= {"BAD_FIELD"}
    return [(problem.where, problem.text) for problem in problems]


@pytest.mark.parametrize(
    ("value", "where", "why"),
    [
        ([], "workflow", "is a mapping"),
        ({"nodes": {}}, "nodes", "is a list of nodes"),
        ({"nodes": [NODE, "b"]}, "nodes[1]", "a node is a mapping"),
        ({"nodes": [], "max_paralel": 3}, "workflow", "did you mean 'max_parallel'?"),
        ({"nodes": [], "q": 3}, "workflow", "known: "),
        ({"nodes": [], "name": 3}, "name", "3 is not a text"),
        ({"nodes": [], "timeout_ms": -1}, "timeout_ms", "not a whole number from 0"),
        ({"nodes": [], "timeout_ms": True}, "timeout_ms", "not a whole number from 0"),
        ({"nodes": [], "entry_points": ["a", 1]}, "entry_points", "not a list of texts"),
        ({"nodes": [], "open_inputs": "yes"}, "open_inputs", "not true or false"),
        ({"nodes": [], "outputs": {"a": {1, 2}}}, "outputs", ""),
        ({"nodes": [], "on_failure": "shrug"}, "on_failure", "'shrug' is not one of"),
        ({"nodes": [], "inputs": {}}, "inputs", "is a list of {name, required, default}"),
        ({"nodes": [], "inputs": [{"name": "a"}, {"required": True}]}, "inputs[1]", "needs a name"),
        ({"nodes": [], "inputs": [{"name": "a", "defualt": 1}]}, "inputs[0]", "did you mean 'default'?"),
    ],
)
def test_what_is_wrong_with_a_graph(value: Any, where: str, why: str) -> None:
    [(at, text)] = found_in(value)
    assert at == where and why in text


@pytest.mark.parametrize(
    ("fields", "where", "why"),
    [
        ({"type": "skil"}, "a.type", "is not one of"),
        ({"type": 3}, "a.type", "is not one of"),
        ({"depends_on": "b"}, "a.depends_on", "is a list of node ids"),
        ({"depends_on": [["b"]]}, "a.depends_on", "neither a node id nor [id, outcome]"),
        ({"join": "quorum"}, "a.join", "quorum(k)"),
        ({"join": "quorum(two)"}, "a.join", "quorum(k)"),
        ({"join": 3}, "a.join", "quorum(k)"),
        ({"join": "any(2)"}, "a.join", "quorum(k)"),
        ({"join": "most"}, "a.join", "'most' is not one of"),
        ({"retry": 3}, "a.retry", "is a mapping of attempts_max"),
        ({"retry": {"attempts": 3}}, "a.retry", "unknown key 'attempts'"),
        ({"retry": {"attempts_max": "3"}}, "a.retry.attempts_max", "not a whole number"),
        ({"reducer": "mean"}, "a.reducer", "'mean' is not one of"),
        ({"body": []}, "a.body", "is a mapping"),
    ],
)
def test_what_is_wrong_with_a_node(fields: dict[str, Any], where: str, why: str) -> None:
    [(at, text)] = found_in({"nodes": [NODE | fields]})
    assert at == where and why in text


def test_everything_that_is_wrong_is_said_at_once() -> None:
    places = [at for at, _ in found_in({"nodes": [{"id": 1}, {"id": 2, "retry": 3}, 4], "name": 5})]
    assert places == ["nodes[0].id", "nodes[1].id", "nodes[1].retry", "nodes[2]", "name"]


def test_graphs_inside_graphs_end_somewhere() -> None:
    value: dict[str, Any] = {"nodes": []}
    for _ in range(DEPTH_MAX):
        value = {"nodes": [{"id": "a", "type": "map", "body": value}]}
    [(at, text)] = found_in(value)
    assert at == "a.a.a.a.body" and f"at most {DEPTH_MAX} deep" in text


def test_what_is_said_in_short_is_read() -> None:
    short = [
        NODE | {"join": "quorum(2)", "depends_on": ["b", ["c", "yes"], "b"], "reducer": "", "input": None}
    ]
    [node], problems = read_nodes(short)
    assert problems == []
    assert node.join == Join(JoinKind.QUORUM, 2)
    assert node.depends_on == (Edge("b"), Edge("c", "yes"))
    assert node.reducer is None and node.input == ""


@pytest.mark.parametrize(("raw", "where"), [(b"{", "workflow"), (b'{"nodes": 3}', "nodes")])
def test_a_run_without_a_graph_says_so(raw: bytes, where: str) -> None:
    with pytest.raises(GraphError) as caught:
        graph_of(raw)
    assert [problem.where for problem in caught.value.problems] == [where]
