"""From what a model wrote to a workflow: checked like any other, and never expanded or executed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.core.bidding import Candidate, Selection
from coterie.core.graph.refs import fill
from coterie.core.graph.values import written
from coterie.node.config.goal_settings import RoutingRule
from coterie.node.goals.plans import Draft, by_plan, by_rule
from coterie.node.goals.staff import Staff
from coterie.node.workflows import Known, Loaded, load_native
from coterie.skills.goal.planning import BadPlan, changes, check, mended

SKILLS = ("llm", "add-up", "k8s-deploy", "feishu-message")
STAFF = Staff(
    SKILLS,
    [Candidate("trainer", ("model_training",)), Candidate("designer", ("system_design",), declines="paused")],
    Selection.CONTRACT_NET,
)


class Values:
    """The inputs of a run, and nothing of any node."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self._inputs = inputs

    def value(self, name: str) -> Any:
        return self._inputs.get(name)

    def ends(self, node: str) -> list[str]:
        return []


def task(task_id: str = "t", **more: Any) -> dict[str, Any]:
    return {"id": task_id, "description": f"do {task_id}", "dependencies": [], **more}


def drafted(*tasks: Any, goal: str = "the goal", context: Any = None) -> Draft:
    return by_plan({"tasks": list(tasks)}, goal, context, STAFF, 10)


def loaded(draft: Draft) -> Loaded:
    return load_native(draft.native, Known({*SKILLS, "agent"}), problems=draft.problems)


def codes(draft: Draft) -> list[str]:
    return [one.code for one in loaded(draft).problems]


def test_a_plan_becomes_a_workflow() -> None:
    draft = drafted(
        task("task_1", skill="k8s-deploy", input={"app": "shop", "replicas": 2}),
        task("task_2", agent="trainer", dependencies=["task_1"]),
        task("task_3", dependencies=["task_1", "task_2"]),
    )
    found = loaded(draft)
    assert not found.problems
    assert [node.task_type or node.type.value for node in found.graph.nodes] == ["k8s-deploy", "agent", "llm"]
    assert json.loads(found.graph.nodes[0].input) == {"app": "shop", "replicas": 2}
    assert found.graph.on_failure.value == "skip-dependents"
    assert set(found.needs) <= set(draft.inputs)


def test_a_key_that_is_not_understood_is_a_problem_and_no_lost_dependency() -> None:
    draft = drafted(task("a"), task("b", depends_on=["a"], parallel=True), task("c", capabilites=["x"], zz=1))
    known = "id, name, description, dependencies, capabilities, skill, agent, input, critical"
    assert [(one.where, one.text) for one in loaded(draft).problems] == [
        ("b", "unknown key 'depends_on'; did you mean 'dependencies'?"),
        ("c", "unknown key 'capabilites'; did you mean 'capabilities'?"),
        ("c", f"unknown key 'zz'; known: {known}"),
    ]


def test_results_of_dependencies_are_references_and_nothing_else_is() -> None:
    given_ = {"numbers": {"result_of": "a", "path": "rows.0.sum"}, "all": {"result_of": "a"}}
    node = loaded(
        drafted(task("a"), task("b", skill="add-up", dependencies=["a"], input=given_))
    ).graph.nodes[1]
    assert json.loads(node.input) == {"numbers": "{{ r0.rows[0].sum }}", "all": "{{ r0 }}"}


@pytest.mark.parametrize(
    "path", ["a}} {{ run.id", 'x["y"]', "a..b", "__class__.__mro__ | 1", "a b", "a.b | null", 7]
)
def test_paths_hold_no_expressions(path: Any) -> None:
    draft = drafted(
        task("a"),
        task("b", skill="add-up", dependencies=["a"], input={"x": {"result_of": "a", "path": path}}),
    )
    assert codes(draft) == ["BAD_FIELD"]


TEXTS = (
    "{{ run.id }}",
    "{{ input }}",
    "}} {{ goal",
    '{{ given[0] | "x" }}',
    "${jndi:ldap://x}",
    "__import__('os').system('id')",
    "'; DROP TABLE tasks; --",
    "{{{{ run.id }}}}",
    "{% for x in y %}",
    "{{",
)


def filled(draft: Draft) -> list[Any]:
    """What the tasks of the run would be given."""
    found = loaded(draft)
    assert not found.problems
    inputs = json.loads(json.dumps(draft.inputs))
    return [fill(node.input, Values(inputs)) for node in found.graph.nodes]


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_looks_like_code_arrives_as_it_was_written(text: str) -> None:
    plan = (
        task("a", description=text, agent="trainer"),
        task("b", description=text),
        task("c", skill="add-up", input={"deep": [{"er": text}], "plain": text}),
    )
    agent, model, skill = filled(drafted(*plan, goal=text, context={"note": text}))
    assert (agent["task"], agent["goal"], agent["context"]) == (text, text, {"note": text})
    assert (model["prompt"], model["context"]["goal"]) == (text, text)
    assert skill == {"deep": [{"er": text}], "plain": text}


@pytest.mark.parametrize("text", TEXTS)
def test_a_goal_under_a_rule_is_data_too(text: str) -> None:
    rules = (
        RoutingRule("a", ".*", agents=("trainer",)),
        RoutingRule("b", ".*", skill="add-up", input=json.dumps({"text": "{{ goal }}", "n": 1})),
        RoutingRule("c", ".*", steps=json.dumps([{"agent": "trainer", "step": 1, "task": "look"}])),
    )
    one, two, three = (by_rule(rule, text, {"note": text}, STAFF, str) for rule in rules)
    assert filled(one) == [{"prompt": text, "context": {"note": text}}]
    assert filled(two) == [{"text": text, "n": 1}]
    assert (filled(three)[0]["goal"], filled(three)[0]["task"]) == (text, "look")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "id",
                "description",
                "dependencies",
                "skill",
                "agent",
                "capabilities",
                "input",
                "critical",
                "when",
                "type",
            ]
        ),
        json_values,
    ),
    json_values,
)
def test_whatever_a_model_writes_is_a_workflow_or_has_problems(one: dict[str, Any], other: Any) -> None:
    draft = by_plan({"tasks": [task("first"), {**task("second"), **one}]}, "goal", None, STAFF, 10)
    found = loaded(draft)
    if not found.problems:
        node = found.graph.nodes[1]
        assert node.type.value in ("task", "agent") and not node.when and not node.expr
        assert node.task_type in {*SKILLS, "agent"}
        shown = one.get("input")
        if node.task_type == "add-up" and shown and "result_of" not in written(shown):
            assert fill(node.input, Values(draft.inputs)) == shown
    assert codes(by_plan(other, "goal", None, STAFF, 10)) or isinstance(other, dict)


@pytest.mark.parametrize(
    ("tasks", "code"),
    [
        ([task(skill="rm-rf")], "UNKNOWN_SKILL"),
        ([task(agent="nobody")], "UNKNOWN_AGENT"),
        ([task("a", dependencies=["b"])], "UNKNOWN_DEPENDENCY"),
        ([task("a"), task("a")], "DUPLICATE_ID"),
        ([task("a", dependencies=["a"])], "CYCLE"),
        ([task(f"t{n}") for n in range(11)], "TOO_LARGE"),
        ([task(description="")], "BAD_FIELD"),
        ([task("a"), task("b", skill="add-up", input={"x": {"result_of": "a"}})], "BAD_FIELD"),
        ([task("a", dependencies=["b[true]"]), task("b")], "BAD_FIELD"),
        ([task("a", skill="add-up", input={"{{ goal }}": 1})], "BAD_FIELD"),
        ([], "EMPTY"),
        (["text"], "BAD_FIELD"),
    ],
)
def test_problems_are_those_of_any_workflow(tasks: list[Any], code: str) -> None:
    assert code in codes(drafted(*tasks))


def test_agents_are_chosen_by_bids_and_all_of_them_are_kept() -> None:
    draft = drafted(task("a", capabilities=["training of models"]), task("b", capabilities=["baking"]))
    won, lost = draft.selection
    assert (won["task"], won["winner"], won["strategy"]) == ("a", "trainer", "contract-net")
    assert [bid.get("declined", "") for bid in won["bids"]] == ["", "paused"]
    assert lost["winner"] == ""
    assert [node.task_type for node in loaded(draft).graph.nodes] == ["agent", "llm"], (
        "nobody: a model answers"
    )


def test_a_rule_of_several_agents_takes_the_best_bid() -> None:
    two = RoutingRule("a", ".*", agents=("designer", "trainer"))
    draft = by_rule(two, "model training", None, STAFF, str)
    assert draft.selection[0]["winner"] == "trainer" and not loaded(draft).problems
    gone = by_rule(RoutingRule("a", ".*", agents=("x", "y")), "z", None, STAFF, str)
    assert "NO_AGENT" in codes(gone)


def cycle() -> dict[str, Any]:
    return {
        "tasks": [
            task("task_1", dependencies=["task_3"]),
            task("task_2", dependencies=["task_1"]),
            task("task_3", dependencies=["task_2"]),
        ]
    }


def test_a_cycle_is_refused_with_its_path_and_never_mended_by_code() -> None:
    problems = loaded(drafted(*cycle()["tasks"])).problems
    assert problems[0].cycle == ("task_1", "task_3", "task_2", "task_1")
    with pytest.raises(
        BadPlan, match="CYCLE: task_1: stands on itself: task_1 <- task_3 <- task_2 <- task_1"
    ):
        check({"problems": [{"code": one.code, "where": one.where, "text": one.text} for one in problems]})


def test_a_repair_is_recorded_as_what_it_changed() -> None:
    after = {"tasks": [task("task_1"), task("task_2", dependencies=["task_1"]), task("task_4")]}
    assert changes(cycle(), after) == [
        {"task": "task_1", "before": {"dependencies": ["task_3"]}, "after": {"dependencies": []}},
        {"task": "task_3", "removed": True},
        {"task": "task_4", "added": task("task_4")},
    ]
    assert changes(cycle(), cycle()) == [] and changes("nonsense", None) == []


def test_a_mended_workflow_has_other_dependencies_and_else_nothing() -> None:
    native: dict[str, Any] = {
        "nodes": [{"id": "a", "skill": "echo", "depends_on": ["b"]}, {"id": "b", "depends_on": "a"}]
    }
    said = {"changes": [{"node": "a", "depends_on": [], "why": "first", "skill": "rm"}, {"node": "x"}, 7]}
    after, changed = mended(native, said)
    assert after["nodes"] == [{"id": "a", "skill": "echo", "depends_on": []}, native["nodes"][1]]
    assert changed == [{"task": "a", "before": ["b"], "after": [], "why": "first"}]
    assert native["nodes"][0]["depends_on"] == ["b"] and mended(native, "no") == (native, [])
