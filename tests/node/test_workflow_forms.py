"""Every form in which workflows come maps to the one graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.core.graph.model import NODES_MAX, JoinKind, NodeType, OnFailure
from coterie.core.graph.plan import plan_of
from coterie.node.workflows import Known, Loaded, load, native

STEPS = Path(__file__).parent / "fixtures" / "workflows" / "steps.yaml"
RULES = Path(__file__).parent / "fixtures" / "workflows" / "routing-rules.yaml"


def good(text: str, **more: object) -> Loaded:
    loaded = load(text, **more)  # type: ignore[arg-type]
    assert loaded.problems == ()
    return loaded


def test_a_routing_rule_with_a_workflow() -> None:
    graph = good(RULES.read_text(encoding="utf-8")).graph
    assert [node.node_id for node in graph.nodes] == ["step-1", "step-2", "step-3"]
    assert [node.agents for node in graph.nodes] == [
        ("agent-pm-002",),
        ("agent-arch-003",),
        ("agent-ai-001",),
    ]
    assert [node.timeout_ms for node in graph.nodes] == [1_800_000, 2_400_000, 3_600_000]
    assert graph.timeout_ms == 7_800_000 and graph.nodes[1].depends_on[0].node == "step-1"
    assert json.loads(graph.nodes[0].input) == {"task": "分析需求和用户研究"}


def test_steps_with_inputs_outputs_and_a_cross_review() -> None:
    loaded = good(STEPS.read_text(encoding="utf-8"))
    graph = loaded.graph
    assert graph.name == "end-to-end-delivery" and graph.timeout_ms == 8_700_000
    assert loaded.needs == ("market_research", "training_data", "user_feedback")
    assert graph.nodes[3].agents == ("agent-pm-002", "agent-arch-003", "agent-ai-001")
    assert graph.nodes[3].join.kind is JoinKind.ALL and graph.nodes[0].output_var == "product_spec"
    assert json.loads(graph.nodes[1].input)["product_spec"] == "{{ product_spec }}"
    plan = plan_of(graph)
    assert plan.critical_ms == 8_700_000 and len(plan.stages) == 4


def test_dag_nodes_with_conditions_never_paste_values() -> None:
    text = json.dumps(
        {
            "workflow_id": "tickets",
            "name": "ignored",
            "entry_points": ["ask"],
            "nodes": [
                {
                    "node_id": "ask",
                    "node_type": "llm",
                    "config": {"prompt": "rate {{ ticket }}", "model": "m"},
                    "output_var": "score",
                },
                {
                    "node_id": "is_high",
                    "node_type": "condition",
                    "config": {"condition": "{{score}} > 5"},
                    "depends_on": ["ask"],
                },
                {
                    "node_id": "call",
                    "node_type": "tool",
                    "config": {"tool_name": "page", "args": {"who": "{{ score }}"}},
                    "depends_on": ["is_high[true]"],
                },
            ],
        }
    )
    loaded = good(text)
    graph = loaded.graph
    assert graph.nodes[1].expr == "score > 5" and graph.nodes[2].depends_on[0].when == "true"
    assert graph.nodes[2].skill == "page" and loaded.needs == ("ticket",)
    assert json.loads(graph.nodes[0].input) == {"prompt": "rate {{ ticket }}", "model": "m"}


def test_a_decomposition_and_its_hints() -> None:
    tasks: list[dict[str, Any]] = [
        {"id": "task_1", "name": "K8s", "skill": "k8s-deploy", "description": "deploy", "dependencies": []},
        {"id": "task_2", "name": "tell", "skill": "message", "dependencies": ["task_1"], "parallel": False},
    ]
    text = json.dumps({"tasks": tasks, "execution_order": ["task_1", "task_2"], "estimated_time": 10})
    graph = good(text).graph
    assert graph.nodes[1].depends_on[0].node == "task_1" and graph.nodes[0].skill == "k8s-deploy"
    assert json.loads(graph.nodes[0].input) == {"task": "deploy"}
    exact = good(json.dumps({"tasks": [{**tasks[0], "input": {"namespace": "web"}}]})).graph
    assert json.loads(exact.nodes[0].input) == {"namespace": "web"}
    wrong = json.dumps({"tasks": tasks, "execution_order": ["task_2", "task_1"]})
    assert [one.code for one in load(wrong).problems] == ["CONTRADICTION"]


def test_subtasks_that_name_each_other() -> None:
    one = {"name": "find", "description": "look", "role": "researcher", "dependencies": []}
    two = {"name": "write", "description": "write", "role": "writer", "dependencies": ["find"]}
    graph = good(json.dumps({"subtasks": [one, two]})).graph
    assert graph.nodes[1].depends_on[0].node == "task_1" and graph.nodes[1].agents == ("writer",)
    unknown = json.dumps({"subtasks": [one, {**two, "dependencies": ["fnd"]}]})
    assert [problem.code for problem in load(unknown).problems] == ["UNKNOWN_DEPENDENCY"]
    twice = json.dumps({"subtasks": [one, one]})
    assert [problem.code for problem in load(twice).problems] == ["DUPLICATE_ID"]


NATIVE = """
name: everything
inputs: {topic: null, style: {default: plain}}
on_failure: skip_dependents
timeout: 1h
nodes:
  start: {skill: echo, input: "{{ topic }}", timeout: 30s, retry: {max_attempts: 2, backoff: 1s}}
  check: {condition: "start.ok == true", depends_on: start}
  pick: {switch: start.kind, cases: [a, b], depends_on: start}
  yes: {skill: echo, depends_on: [{node: check, when: true}], priority: high, critical: true}
  review: {agents: [x, y], join: {quorum: 2}, depends_on: "check[false]", input: hello}
  again:
    max_iterations: 3
    until: output.draft.good
    depends_on: {node: pick, when: default}
    body: {nodes: {draft: {skill: echo, input: "{{ last | null }}"}}}
  each: {over: "{{ start.items }}", skill: echo, input: "{{ item }}", depends_on: start, window: 4}
  sum: {over: "{{ each }}", reduce: sum, depends_on: each}
  pause: {duration: 5m, depends_on: sum}
  answer: {signal: answer, timeout: 1d, depends_on: sum}
  ok: {type: approval, depends_on: sum}
  inner: {workflow: other, depends_on: sum, input: {who: "{{ topic }}"}}
  undo: {compensate: "yes", skill: echo}
outputs: {total: "{{ sum }}"}
"""
OTHER = "inputs: [who]\nnodes: {only: {skill: echo, input: '{{ who }}'}}"


def test_the_native_form_shows_types_by_their_keys() -> None:
    graph = good(NATIVE, known=Known({"echo", "agent"}, {"other": OTHER})).graph
    kinds = {node.node_id: node.type for node in graph.nodes}
    assert kinds == {
        "start": NodeType.TASK,
        "check": NodeType.CONDITION,
        "pick": NodeType.SWITCH,
        "yes": NodeType.TASK,
        "review": NodeType.AGENT,
        "again": NodeType.LOOP,
        "each": NodeType.MAP,
        "sum": NodeType.REDUCE,
        "pause": NodeType.TIMER,
        "answer": NodeType.WAIT,
        "ok": NodeType.APPROVAL,
        "inner": NodeType.WORKFLOW,
        "undo": NodeType.COMPENSATE,
    }
    assert graph.on_failure is OnFailure.SKIP_DEPENDENTS and graph.timeout_ms == 3_600_000
    assert graph.nodes[0].retry.backoff_initial_ms == 1_000 and graph.nodes[3].priority == 3
    assert [one.required for one in graph.inputs] == [True, False]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nodes: [", "NOT_READABLE"),
        ("- a list", "NOT_READABLE"),
        ("{broken", "NOT_READABLE"),
        ("nodes: {a: {skill: echo, timeout: soon}}", "BAD_FIELD"),
        ("nodes: {a: {skill: echo, colour: red}}", "BAD_FIELD"),
        ("nodes: {a: {workflow: nowhere}}", "UNKNOWN_WORKFLOW"),
        ("nodes: {a: {skill: echo, depends_on: 7}}", "BAD_FIELD"),
        ("nodes: {a: {skill: echo, retry: often}}", "BAD_FIELD"),
        ("nodes: {a: {skill: echo, priority: urgent}}", "BAD_FIELD"),
        ("steps: [{id: a, edback: 1, agent: x}]", "BAD_FIELD"),
        ("tasks: 7", "BAD_FIELD"),
        ("tasks:", "BAD_FIELD"),
        ("steps:", "BAD_FIELD"),
        ("subtasks:", "BAD_FIELD"),
        ("workflow_id: a", "BAD_FIELD"),
        ("routing_rules: [{name: a, workflow: []}, {name: b, workflow: []}]", "BAD_FIELD"),
        ("nodes: {}", "EMPTY"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, code: str) -> None:
    assert code in [one.code for one in load(text).problems]


def test_workflows_that_name_each_other_many_times_are_refused_before_they_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three short texts, which together stand for very many nodes."""
    texts = {
        name: "\n".join(["nodes:", *(f"  n{number}: {does}" for number in range(40))])
        for name, does in (("a", "{workflow: b}"), ("b", "{workflow: c}"), ("c", "{skill: echo}"))
    }
    read, node = [], native._Writer.node
    monkeypatch.setattr(native._Writer, "node", lambda *given: read.append(1) or node(*given))  # type: ignore[func-returns-value]
    loaded = load("nodes: {one: {workflow: a}}", Known(workflows=texts))
    assert [(one.code, one.where) for one in loaded.problems] == [("TOO_LARGE", "workflow")]
    assert len(read) <= NODES_MAX + 40 < 40**3


def test_a_workflow_that_is_named_many_times_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(native, "read_source", lambda text, name, _: read.append(name) or {"nodes": []})  # type: ignore[func-returns-value]
    load("nodes: {a: {workflow: x}, b: {workflow: x}}", Known(workflows={"x": ""}))
    assert read == ["x"]


def test_a_file_that_is_no_json_is_told_where() -> None:
    (problem,) = (one for one in load('{"nodes": {}\n "name": 1}').problems if one.code == "NOT_READABLE")
    assert problem.text.startswith("not JSON: ") and "line 2" in problem.text


def test_a_key_that_is_not_known_is_told_in_the_words_of_the_file() -> None:
    text = "nodes:\n  a: {skill: echo, timout: 5s}\n  b: {skill: echo, wait: 3, condtion: 'true'}"
    found = {(one.where, one.text) for one in load(text).problems}
    assert {where for where, _ in found} == {"a", "b"} and len(found) == 3
    assert ("a", "unknown key 'timout'; did you mean 'timeout'?") in found
    assert ("b", "unknown key 'condtion'; did you mean 'condition'?") in found
    [known] = [text for where, text in found if "'wait'" in text]
    assert "duration" in known and "duration_ms" not in known


def test_a_workflow_that_contains_itself_is_refused() -> None:
    text = "nodes: {a: {workflow: me}}"
    found = load(text, Known(workflows={"me": text}))
    assert "TOO_LARGE" in [one.code for one in found.problems]


@pytest.mark.parametrize(
    ("node", "where", "says"),
    [
        ({"max_iterations": 0, "until": "true", "body": {"nodes": {"x": {"skill": "e"}}}}, "n", "1 to 10000"),
        ({"switch": "1", "cases": []}, "n", "a switch node needs cases"),
        ({"agents": []}, "n", "an agent node needs an agent"),
        ({"duration": 0}, "n", "a timer node needs a duration"),
        ({"over": "{{ xs }}", "skill": "e", "window": 0}, "n", "window: 0 is not a whole number from 1"),
        ({"skill": "e", "retry": 0}, "n", "retry.max_attempts: 0 is not a whole number from 1"),
        (
            {"skill": "e", "retry": {"max_attempts": "x"}},
            "n",
            "retry.max_attempts: 'x' is not a whole number",
        ),
        ({"skill": "e", "retry": {"maxRetries": 2}}, "n", "known: max_attempts, backoff, max_backoff"),
        ({"type": "tsak", "skill": "e"}, "n.type", "'tsak' is not one of"),
        ({"body": {"nodes": {"x": {"skill": "e", "critical": 1}}}}, "n.x.critical", "1 is not true or false"),
    ],
)
def test_nothing_that_was_written_is_passed_over(node: dict[str, Any], where: str, says: str) -> None:
    """A zero is no default, an empty list no reason to be of another type."""
    problems = load(json.dumps({"nodes": {"n": node}})).problems
    assert [(one.where, says in one.text) for one in problems] == [(where, True)]


def test_a_declaration_is_no_default() -> None:
    nodes = {"n": {"skill": "e"}}
    declared = load(json.dumps({"inputs": {"q": {"type": "string"}}, "nodes": nodes})).problems
    assert [one.text.split(";")[0] for one in declared] == ["inputs.q: unknown key 'type'"]
    inputs = {"q": {"a": 1}, "r": {"default": {"type": 2}}}
    graph = good(json.dumps({"inputs": inputs, "nodes": nodes})).graph
    assert [one.default for one in graph.inputs] == ['{"a":1}', '{"type":2}']
    [problem] = load(json.dumps({"max_parallel": 0, "nodes": nodes})).problems
    assert problem.text.startswith("max_parallel: 0")
