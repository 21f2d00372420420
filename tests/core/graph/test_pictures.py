"""What is said about a graph as a whole: its picture, its plan, what stands on what."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.graph import plan
from coterie.core.graph.flow import Flow
from coterie.core.graph.model import Graph
from coterie.core.graph.near import CANDIDATES_MAX, LENGTH_MAX, near
from coterie.core.graph.plan import mermaid_of, plan_of
from coterie.core.graph.reading import read_graph


def graph_of(*nodes: dict[str, Any]) -> Graph:
    graph, problems = read_graph({"nodes": list(nodes)})
    assert problems == []
    return graph


def echo(name: str, *depends_on: Any, **more: Any) -> dict[str, Any]:
    return {"id": name, "skill": "echo", "depends_on": list(depends_on), **more}


def test_a_picture_has_a_shape_for_each_kind_of_node_and_a_broken_line_to_what_undoes_it() -> None:
    picture = mermaid_of(
        graph_of(
            echo("a"),
            {"id": "c", "type": "condition", "expr": "true", "depends_on": ["a"]},
            {"id": "m", "type": "map", "over": "[1]", "skill": "echo", "depends_on": [["c", "true"]]},
            {"id": "t", "type": "timer", "duration_ms": 5},
            {"id": "u", "type": "compensate", "skill": "echo", "compensates": "a"},
        )
    )
    for line in ('n0["a"]', 'n1{"c"}', 'n2[["m"]]', 'n3(["t"])', 'n1 -->|"true"| n2', "n0 -.->|undo| n4"):
        assert f"    {line}" in picture.splitlines()


def test_a_picture_shows_so_many_nodes_and_says_how_many_more_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "MERMAID_NODES_MAX", 2)
    assert mermaid_of(graph_of(*map(echo, "abcde"))).splitlines()[-1] == '    more["… 3 more"]'


def test_a_timer_takes_its_time_in_the_plan() -> None:
    graph = graph_of(
        {"id": "t", "type": "timer", "duration_ms": 500}, echo("a", "t", timeout_ms=1_000), echo("b")
    )
    found = plan_of(graph)
    assert found.critical_ms == 1_500


def test_what_stands_on_a_node_directly_or_not() -> None:
    flow = Flow(graph_of(echo("a"), echo("b", "a"), echo("c", "b"), echo("d"), echo("e", "d", "c")))
    assert flow.from_here(["b"]) == {"b", "c", "e"}
    assert flow.from_here(["b", "c", "d"]) == {"b", "c", "d", "e"}
    assert flow.from_here([]) == set()


def test_the_nearest_name_is_looked_for_with_bounded_work() -> None:
    assert near("writter", ["editor", "writer"]) == "writer"
    assert near("writter", [*["x"] * CANDIDATES_MAX, "writer"]) == "", "beyond those that are looked at"
    long = "a" * (LENGTH_MAX + 1)
    assert near(long, [long + "b"]) == ""
