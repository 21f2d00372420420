"""What is wrong with a graph is said all at once, and how one would run."""

from __future__ import annotations

import random
from typing import Any

import networkx
import pytest

from coterie.core.graph.check import Surroundings, problems_of
from coterie.core.graph.flow import Flow
from coterie.core.graph.model import Graph, GraphError, NodeType, Problem
from coterie.core.graph.plan import mermaid_of, plan_of, text_of
from coterie.core.graph.reading import graph_bytes, graph_of, read_graph, write_graph


def graph(*nodes: dict[str, Any], **more: Any) -> Graph:
    found, problems = read_graph({"nodes": [{"skill": "echo", **node} for node in nodes], **more})
    assert problems == []
    return found


def bare(*nodes: dict[str, Any], **more: Any) -> Graph:
    """Nodes that have no skill of their own."""
    found, problems = read_graph({"nodes": list(nodes), **more})
    assert problems == []
    return found


def codes(found: list[Problem]) -> list[tuple[str, str]]:
    return [(one.code, one.where) for one in found]


CYCLE = (
    {"id": "task_1", "depends_on": ["task_3"]},
    {"id": "task_2", "depends_on": ["task_1"]},
    {"id": "task_3", "depends_on": ["task_2"]},
)


N = [{"name": "n"}]


def test_a_cycle_is_refused_with_its_path_and_stays_as_it_is() -> None:
    given = graph(*CYCLE)
    before = write_graph(given)
    [problem] = problems_of(given)
    assert problem.code == "CYCLE" and problem.cycle == ("task_1", "task_3", "task_2", "task_1")
    assert "task_1 <- task_3 <- task_2 <- task_1" in problem.text
    assert write_graph(given) == before


def test_a_cycle_hides_nothing_else_that_is_wrong() -> None:
    given = graph(
        *CYCLE, {"id": "x", "input": "{{ task_1 }} {{ n }} {{ nothing }}", "depends_on": ["gone"]}, inputs=N
    )
    found = problems_of(given)
    assert ("CYCLE", "task_1") in codes(found) and ("UNKNOWN_DEPENDENCY", "x") in codes(found)
    [unknown] = [one for one in found if one.code == "UNKNOWN_VARIABLE"]
    assert unknown.where == "x" and "'nothing'" in unknown.text


def test_every_cycle_is_reported_and_what_stands_on_one() -> None:
    given = graph(
        {"id": "self", "depends_on": ["self"]},
        {"id": "a", "depends_on": ["b"]},
        {"id": "b", "depends_on": ["a", "c"]},
        {"id": "c", "depends_on": ["b"]},
        {"id": "after", "depends_on": ["c"]},
        {"id": "free"},
    )
    found = problems_of(given)
    assert [one.cycle for one in found if one.code == "CYCLE"] == [
        ("self", "self"),
        ("a", "b", "a"),
        ("b", "c", "b"),
    ]
    assert codes(found)[-1] == ("UNREACHABLE", "after")


def test_a_long_cycle_is_found_too() -> None:
    given = graph(*({"id": f"n{at}", "depends_on": [f"n{(at + 1) % 500}"]} for at in range(500)))
    [problem] = problems_of(given)
    assert len(problem.cycle) == 501


def test_everything_wrong_is_said_at_once() -> None:
    given = bare(
        {"id": "a", "skill": "echo"},
        {"id": "a", "skill": "echo"},
        {"id": "b", "skill": "ecko", "depends_on": ["aa"]},
        {"id": "no skill"},
        {"id": "c", "type": "condition", "expr": "1 +", "depends_on": ["a"]},
        {"id": "d", "skill": "echo", "depends_on": [["c", "maybe"]], "input": "{{ nobody }}"},
        {"id": "e", "skill": "echo", "depends_on": [["a", "true"]], "join": "quorum(3)"},
        {"id": "f", "type": "loop", "expr": "true", "max_iterations": 0},
        {"id": "g", "type": "code", "input": "print(1)"},
        max_parallel=99_999,
        inputs=[{"name": "topic"}],
        entry_points=["ghost"],
    )
    found = set(codes(problems_of(given, Surroundings(skills={"echo", "code"}))))
    assert {
        ("DUPLICATE_ID", "a"),
        ("UNKNOWN_SKILL", "b"),
        ("UNKNOWN_DEPENDENCY", "b"),
        ("BAD_FIELD", "no skill"),
        ("BAD_EXPRESSION", "c"),
        ("BAD_FIELD", "d"),
        ("UNKNOWN_VARIABLE", "d"),
        ("BAD_FIELD", "e"),
        ("BAD_FIELD", "f"),
        ("BAD_FIELD", "g"),
        ("BAD_FIELD", "workflow"),
        ("UNKNOWN_DEPENDENCY", "workflow"),
    } <= found


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"type": "agent"}, "needs an agent"),
        ({"type": "switch", "expr": "1"}, "needs cases"),
        ({"type": "loop", "expr": "true", "max_iterations": 3}, "needs a body"),
        ({"type": "map", "over": [1]}, "a skill or a body"),
        ({"type": "map", "skill": "echo"}, "needs `over`"),
        ({"type": "reduce", "over": [1]}, "a reducer or a skill"),
        ({"type": "wait"}, "name of a signal"),
        ({"type": "timer"}, "needs a duration"),
        ({"type": "compensate", "skill": "undo"}, "the node it compensates"),
        ({"type": "task", "skill": "echo", "join": "llm-judge"}, "several agents"),
        ({"type": "agent", "agents": ["x", "x"]}, "twice"),
        ({"type": "task", "skill": "echo", "retry": {"attempts_max": 101}}, "attempts_max"),
        ({"type": "task", "skill": "echo", "priority": 5}, "priority"),
        ({"type": "map", "skill": "echo", "over": [1], "on_item_failure": "pray"}, "fail or skip"),
    ],
)
def test_each_type_says_what_it_needs(node: dict[str, Any], words: str) -> None:
    assert any(words in one.text for one in problems_of(bare({"id": "x", **node})))


def test_a_form_that_cannot_be_read_is_a_problem_for_each_place() -> None:
    _, found = read_graph(
        {
            "nodes": [
                {"id": 7, "typ": "task", "type": "dream", "timeout_ms": -1, "depends_on": "a"},
                "no node",
            ],
            "on_failure": "panic",
            "colour": 1,
        }
    )
    assert [one.where for one in found] == [
        "workflow",
        "nodes[0]",
        "nodes[0].id",
        "nodes[0].type",
        "nodes[0].timeout_ms",
        "nodes[0].depends_on",
        "nodes[1]",
        "on_failure",
    ]
    assert "did you mean 'type'" in found[1].text
    with pytest.raises(GraphError):
        graph_of(b"[]")


def test_a_name_must_be_provided_by_what_comes_before() -> None:
    given = graph(
        {"id": "a", "output_var": "spec"},
        {"id": "b", "depends_on": ["a"], "input": {"x": "{{ spec.title }} {{ topic }} {{ a }}"}},
        {"id": "c", "input": "{{ spec }}"},
        {"id": "d", "when": "default(later, 1) == 1 && spek == 2", "depends_on": ["a"]},
        inputs=[{"name": "topic"}],
    )
    found = problems_of(given)
    assert codes(found) == [("UNKNOWN_VARIABLE", "c"), ("UNKNOWN_VARIABLE", "d")]
    assert "add it to depends_on" in found[0].text and "did you mean 'spec'" in found[1].text


def test_a_body_sees_what_its_node_gives_it() -> None:
    body = {"nodes": [{"id": "in", "skill": "echo", "input": "{{ item }} {{ who }} {{ outside }}"}]}
    node = {"id": "m", "type": "map", "over": [1], "body": body, "input": {"who": "me"}}
    found = problems_of(bare({"id": "outside", "skill": "echo"}, {**node, "depends_on": ["outside"]}))
    assert codes(found) == [("UNKNOWN_VARIABLE", "m.in")] and "'outside'" in found[0].text


def test_what_needs_two_outcomes_at_once_can_never_run() -> None:
    nodes: list[dict[str, Any]] = [
        {"id": "c", "type": "condition", "expr": "true"},
        {"id": "yes", "skill": "echo", "depends_on": [["c", "true"]]},
        {"id": "no", "skill": "echo", "depends_on": [["c", "false"]]},
        {"id": "both", "skill": "echo", "depends_on": ["yes", "no"]},
        {"id": "after", "skill": "echo", "depends_on": ["both"]},
    ]
    assert codes(problems_of(bare(*nodes))) == [("UNREACHABLE", "both")]
    nodes[3]["join"] = "any"
    assert problems_of(bare(*nodes)) == []


def test_hints_that_contradict_the_dependencies_are_problems() -> None:
    nodes = ({"id": "a", "depends_on": ["b"]}, {"id": "b"})
    assert codes(problems_of(graph(*nodes, execution_order=["a", "b"]))) == [("CONTRADICTION", "a")]
    assert problems_of(graph(*nodes, execution_order=["b", "a"])) == []
    assert codes(problems_of(graph(*nodes, {"id": "c"}, entry_points=["b"]))) == [("UNREACHABLE", "c")]


def test_the_plan_is_a_view_of_generations_with_the_longest_path() -> None:
    given = graph(
        {"id": "a", "timeout_ms": 1_000},
        {"id": "slow", "timeout_ms": 9_000, "depends_on": ["a"]},
        {"id": "b", "timeout_ms": 1_000, "depends_on": ["a"]},
        {"id": "c", "timeout_ms": 1_000, "depends_on": ["b"]},
        {"id": "end", "timeout_ms": 500, "depends_on": ["c", "slow"]},
    )
    plan = plan_of(given)
    assert plan.stages == (("a",), ("slow", "b"), ("c",), ("end",)) and plan.widest == 2
    assert plan.critical_path == ("a", "slow", "end") and plan.critical_ms == 10_500
    text = text_of(given, plan)
    assert "critical path: a -> slow -> end (10.5 s by its timeouts)" in text


def test_a_picture_holds_no_markup_of_strangers() -> None:
    given = graph(
        {"id": "a", "name": '"]; click a "javascript:alert(1)" <script>'}, {"id": "b", "depends_on": ["a"]}
    )
    picture = mermaid_of(given)
    assert picture.startswith("flowchart TD") and "n0 --> n1" in picture
    assert "<script>" not in picture and '"]; click' not in picture


def test_a_graph_is_written_and_read_again() -> None:
    given = bare(
        {"id": "a", "type": "agent", "agents": ["x", "y"], "join": "quorum(2)", "retry": {"attempts_max": 2}},
        {"id": "l", "type": "loop", "expr": "output.a > 1", "max_iterations": 3, "critical": True}
        | {"body": {"nodes": [{"id": "a", "skill": "echo"}], "outputs": {"a": "{{ a }}"}}},
        {"id": "r", "type": "reduce", "over": "{{ a }}", "reducer": "sum", "depends_on": ["a", ["l", ""]]},
        inputs=[{"name": "x", "required": False, "default": {"y": 1}}],
        on_failure="skip-dependents",
    )
    assert graph_of(graph_bytes(given)) == given
    assert given.nodes[1].type is NodeType.LOOP and given.nodes[1].body is not None


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_agree_with_a_plain_search(seed: int) -> None:
    dice = random.Random(seed)
    count = dice.randrange(2, 12)
    chance = dice.choice((0.1, 0.25))
    nodes = [
        {"id": f"n{at}", "depends_on": [f"n{other}" for other in range(count) if dice.random() < chance]}
        for at in range(count)
    ]
    given = graph(*nodes)
    plain = networkx.DiGraph((edge.node, node.node_id) for node in given.nodes for edge in node.depends_on)
    cyclic = bool(plain) and not networkx.is_directed_acyclic_graph(plain)
    found = [one for one in problems_of(given) if one.code == "CYCLE"]
    assert bool(found) is cyclic
    for one in found:
        pairs = zip(one.cycle, one.cycle[1:], strict=False)
        assert all(plain.has_edge(before, after) for after, before in pairs)
    if not cyclic:
        flow = Flow(given)
        assert all(
            flow.is_before(one, other) == (one in plain and other in networkx.descendants(plain, one))
            for one in flow.nodes
            for other in flow.nodes
        )
