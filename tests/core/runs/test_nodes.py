"""Runs of workflows in the state machine: what each type of node does."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.commands import (
    Accepted,
)
from coterie.core.nouns import Data, TaskState
from tests.core.runs.world import RUN, World, echo


def test_a_node_begins_in_the_entry_in_which_the_last_of_its_dependencies_ends() -> None:
    world = World()
    assert world.run(echo("a"), echo("b"), echo("c", "a"), echo("d", "a", "b")) == Accepted(RUN)
    assert world.open() == ["r~a~0", "r~b~0"]
    world.give("a", 1)
    assert world.open() == ["r~b~0", "r~c~0"]  # c does not wait for b: there are no stages
    world.give("b", 2)
    assert world.payload("d") == {"a": 1, "b": 2}
    world.give("d", {"x": 1})
    world.give("c", None)
    assert world.result() == {"c": None, "d": {"x": 1}}
    assert world.states() == dict.fromkeys("abcd", "SUCCEEDED")
    assert world.ended().percent_x100 == 10_000


def test_values_keep_their_types_and_code_in_them_is_text() -> None:
    world = World()
    hostile = "{{ a }} __import__('os').system('touch /tmp/x') ${x} {{ 1"
    world.run(
        echo("a", input={"all": "{{ given }}", "n": "{{ n }}", "said": "say {{ given[0] }}"}),
        echo("b", "a", input="{{ a }}"),
        echo("c", "b", input={"x": "{{ b.deep[1].k | 7 }}", "y": "{{ b.none | n }}"}),
        given={"given": [hostile, {"k": None}], "n": 3},
        inputs=[{"name": "given"}, {"name": "n"}],
    )
    assert world.payload("a") == {"all": [hostile, {"k": None}], "n": 3, "said": f"say {hostile}"}
    world.give("a", {"text": hostile})
    assert world.payload("b") == {"text": hostile}
    world.give("b", {"deep": [0, {"k": hostile}]})
    assert world.payload("c") == {"x": hostile, "y": 3}


def test_a_missing_value_fails_the_node_with_a_code() -> None:
    world = World()
    world.run(echo("a"), echo("b", "a", input="{{ a.title }}"))
    world.give("a", {"name": 1})
    assert world.ended().state is TaskState.FAILED
    assert world.table()["b"]["code"] == "MISSING_VALUE" and "'title'" in world.table()["b"]["message"]


def test_a_blob_is_handed_on_whole_and_never_opened() -> None:
    world = World()
    blob = Data(b"", "ab" * 32, 9_000_000)
    world.run(
        echo("a"),
        echo("b", "a", input="{{ a }}"),
        echo("c", "a", input={"x": "{{ a }}"}),
        on_failure="continue",
    )
    world.give("a", blob)
    assert world.task("r~b~0").payload == blob
    world.give("b", blob)
    assert world.table()["c"]["code"] == "BLOB_VALUE"
    described = {"blob": {"sha256": "ab" * 32, "size_bytes": 9_000_000}}
    assert world.result() == {"b": described}


BRANCH = (
    echo("a"),
    {"id": "c", "type": "condition", "expr": "a.score > 5", "depends_on": ["a"]},
    echo("high", ["c", "true"]),
    echo("low", ["c", "false"]),
    echo("after-low", "low"),
    echo("both", "high", "after-low", join="any", input="{{ high | after-low }}"),
)


def test_a_branch_that_is_not_taken_is_skipped_to_its_end() -> None:
    world = World()
    world.run(*BRANCH)
    world.give("a", {"score": 9})
    assert world.open() == ["r~high~0"]
    world.give("high", "H")
    assert world.payload("both") == "H"
    world.give("both")
    assert world.states() == {
        "a": "SUCCEEDED",
        "c": "SUCCEEDED",
        "high": "SUCCEEDED",
        "low": "SKIPPED",
        "after-low": "SKIPPED",
        "both": "SUCCEEDED",
    }
    assert world.table()["c"]["outcome"] == "true" and world.table()["after-low"]["code"] == "NOT_TAKEN"


@pytest.mark.parametrize("text", ["system('id')", "a; drop", "{{ a }}", "__class__"])
def test_what_a_condition_compares_is_never_code(text: str) -> None:
    world = World()
    world.run(echo("a"), {"id": "c", "type": "condition", "expr": "a == 'yes'", "depends_on": ["a"]})
    world.give("a", text)
    assert world.table()["c"]["outcome"] == "false"


def test_a_condition_that_has_no_answer_fails() -> None:
    world = World()
    world.run(echo("a"), {"id": "c", "type": "condition", "expr": "a.score > 5", "depends_on": ["a"]})
    world.give("a", {"score": "high"})
    assert world.table()["c"]["code"] == "TYPE_ERROR" and world.ended().state is TaskState.FAILED


def test_a_switch_takes_one_case_or_the_default() -> None:
    for value, taken in (("x", "x"), ("nothing known", "else")):
        world = World()
        world.run(
            echo("a"),
            {"id": "s", "type": "switch", "expr": "a", "cases": ["x", "y"], "depends_on": ["a"]},
            *(echo(case, ["s", case]) for case in ("x", "y")),
            echo("else", ["s", "default"]),
        )
        world.give("a", value)
        assert world.open() == [f"r~{taken}~0"]


POLICIES = [
    ("abort", "FAILED", {"b": "SKIPPED", "c": "CANCELLED", "d": "SKIPPED"}),
    ("skip-dependents", "FAILED", {"b": "SKIPPED", "c": "SUCCEEDED", "d": "SUCCEEDED"}),
    ("continue", "SUCCEEDED", {"b": "SUCCEEDED", "c": "SUCCEEDED", "d": "SUCCEEDED"}),
]


@pytest.mark.parametrize(("policy", "end", "others"), POLICIES, ids=[one[0] for one in POLICIES])
def test_policies_say_what_a_failure_does(policy: str, end: str, others: dict[str, str]) -> None:
    world = World()
    world.run(echo("a"), echo("b", "a"), echo("c"), echo("d", "c"), on_failure=policy)
    world.fail("a")
    for name in ("b", "c", "d"):
        if f"r~{name}~0" in world.state.tasks:
            world.give(name)
    assert world.ended().state is TaskState[end]
    assert world.states() == {"a": "FAILED", **others}
    if policy == "continue":
        assert "1 failed" in world.ended().progress_message


def test_a_critical_node_stops_a_run_that_would_go_on() -> None:
    world = World()
    world.run(echo("a", critical=True), echo("b"), on_failure="continue")
    world.fail("a")
    assert world.states() == {"a": "FAILED", "b": "CANCELLED"} and world.ended().error is not None


def test_a_failure_that_is_handled_is_none_of_the_run() -> None:
    world = World()
    world.run(echo("a"), echo("rescue", "a", when="failed()"), echo("not", "a", when="succeeded()"))
    world.fail("a")
    assert world.open() == ["r~rescue~0"]
    world.give("rescue", "saved")
    assert world.result() == {"rescue": "saved"} and world.states()["not"] == "SKIPPED"


def test_what_succeeded_is_undone_last_first() -> None:
    world = World()
    undo = [
        {"id": f"undo-{name}", "type": "compensate", "compensates": name, "skill": "echo"} for name in "abc"
    ]
    world.run(echo("a"), echo("b", "a"), echo("c", "b"), *undo, on_failure="compensate")
    world.give("a", "A")
    world.give("b", "B")
    world.fail("c")
    assert world.open() == ["r~undo-b~0"] and world.payload("undo-b") == {"undo": "B"}
    world.fail("undo-b")
    assert world.open() == ["r~undo-a~0"]
    world.give("undo-a")
    assert world.ended().state is TaskState.FAILED
    states = world.states()
    assert (states["undo-a"], states["undo-b"], states["undo-c"]) == ("SUCCEEDED", "FAILED", "SKIPPED")


def test_a_loop_counts_and_ends_when_it_is_good() -> None:
    world = World()
    body = {"nodes": [echo("draft", input={"i": "{{ iteration }}", "last": "{{ last | null }}"})]}
    world.run({"id": "l", "type": "loop", "expr": "output.draft.ok", "max_iterations": 3, "body": body})
    assert world.payload("r~l~0~draft~0") == {"i": 1, "last": None}
    world.give("r~l~0~draft~0", {"ok": False})
    assert world.payload("r~l~1~draft~0") == {"i": 2, "last": {"draft": {"ok": False}}}
    world.give("r~l~1~draft~0", {"ok": True})
    assert world.result() == {"l": {"draft": {"ok": True}}}
    assert world.table()["l"]["message"] == "after 2 iterations"


def test_a_loop_that_never_gets_good_fails() -> None:
    world = World()
    body = {"nodes": [{"id": "c", "type": "condition", "expr": "false"}]}
    world.run({"id": "l", "type": "loop", "expr": "output.c", "max_iterations": 200, "body": body})
    assert world.table()["l"]["code"] == "MAX_ITERATIONS" and world.table()["l"]["tasks"] == 200


def test_a_map_has_a_window_and_keeps_the_order() -> None:
    world = World()
    world.run(
        echo("a"),
        {"id": "m", "type": "map", "over": "{{ a }}", "skill": "echo", "input": "{{ item }}", "window": 2}
        | {"depends_on": ["a"]},
        {"id": "sum", "type": "reduce", "over": "{{ m }}", "reducer": "sum", "depends_on": ["m"]},
    )
    world.give("a", [10, 20, 30])
    assert world.open() == ["r~m~0", "r~m~1"]
    world.give("r~m~1", 2)
    assert world.open() == ["r~m~0", "r~m~2"] and world.payload("r~m~2") == 30
    world.give("r~m~2", 3)
    world.give("r~m~0", 1)
    assert world.result() == {"sum": 6}


def test_items_that_fail_are_told() -> None:
    world = World()
    node = {"id": "m", "type": "map", "over": [1, 2, 3], "skill": "echo"}
    world.run({**node, "on_item_failure": "skip"})
    world.give("r~m~0", "a")
    world.fail("r~m~1")
    world.give("r~m~2", "c")
    assert world.result() == {"m": ["a", "c"]}
    assert world.table()["m"]["message"] == "1 of 3 items failed and are left out"


def test_items_that_the_deadline_of_the_run_cut_short_are_no_items_that_failed() -> None:
    world = World()
    node = {"id": "m", "type": "map", "over": [1, 2], "skill": "echo", "on_item_failure": "skip"}
    world.run(node, more={"deadline_after_ms": 5_000})
    world.give("r~m~0", "a")
    world.pass_time(6_000)
    assert world.ended().state is TaskState.TIMED_OUT
    assert world.states() == {"m": "CANCELLED"}


@pytest.mark.parametrize(
    "parts",
    [
        {"type": "map", "over": [1, 2], "skill": "echo", "on_item_failure": "skip"},
        {"type": "agent", "agents": ["x", "y"], "join": "any"},
    ],
)
def test_what_the_end_of_the_run_cut_short_has_not_succeeded(parts: dict[str, Any]) -> None:
    """A repeated run would take over what is only a part of its result."""
    world = World()
    world.run({"id": "m", **parts}, echo("bad"))
    world.give("r~m~0", "a")
    world.fail("bad")
    assert world.ended().state is TaskState.FAILED
    assert world.states() == {"m": "CANCELLED", "bad": "FAILED"}
    assert "m" not in {step.key for step in world.events[-1].steps}


@pytest.mark.parametrize(
    ("join", "given", "result"),
    [
        ("all", ["x", "y", "z"], ["x", "y", "z"]),
        ("any", ["x", None, "z"], ["x", "z"]),
        ("first", [None, "y"], "y"),
        ("quorum(2)", ["x", None, "z"], ["x", "z"]),
    ],
)
def test_answers_of_several_agents_become_one(join: str, given: list[Any], result: Any) -> None:
    world = World()
    world.run({"id": "a", "type": "agent", "agents": ["x", "y", "z"], "join": join, "input": {"q": 1}})
    assert world.payload("r~a~1") == {"prompt": "a", "context": {"q": 1}} and world.task("r~a~1").agent == "y"
    for place, answer in enumerate(given):
        world.give(f"r~a~{place}", answer) if answer else world.fail(f"r~a~{place}")
    assert world.result() == {"a": result}


def test_a_judge_chooses_among_the_answers() -> None:
    world = World()
    world.run({"id": "a", "type": "agent", "agents": ["x", "y"], "join": "llm-judge", "judge": "echo"})
    world.give("r~a~1", "Y")
    world.give("r~a~0", "X")
    assert world.payload("r~a~2")["answers"] == ["X", "Y"]
    world.give("r~a~2", "Y is better")
    assert world.result() == {"a": "Y is better"}


@pytest.mark.parametrize(
    ("verdict", "result"),
    [
        ({"choice": 1, "why": "short"}, "Z"),
        ({"choice": 7}, {"choice": 7}),
        ({"choice": True}, {"choice": True}),
    ],
)
def test_a_judge_names_an_answer_by_its_place_among_those_it_was_shown(verdict: Any, result: Any) -> None:
    world = World()
    world.run({"id": "a", "type": "agent", "agents": ["x", "y", "z"], "join": "llm-judge", "judge": "echo"})
    world.give("r~a~0", "X")
    world.fail("r~a~1")
    world.give("r~a~2", "Z")
    assert world.payload("r~a~3")["answers"] == ["X", "Z"]
    world.give("r~a~3", verdict)
    assert world.result() == {"a": result}


@pytest.mark.parametrize(
    ("given", "payload"),
    [
        ({"input": "say hello"}, {"prompt": "say hello"}),
        ({"input": {"task": "sum up", "n": 1}}, {"prompt": "sum up", "context": {"n": 1}}),
        ({"input": {"prompt": "p", "schema": {}}}, {"prompt": "p", "schema": {}}),
        ({"name": "Review", "requires": ["s"]}, {"prompt": "Review", "context": {"skills": ["s"]}}),
    ],
)
def test_an_agent_is_given_a_prompt_and_what_it_needs_to_know(given: Any, payload: Any) -> None:
    world = World()
    world.run({"id": "a", "type": "agent", "agents": ["x"], **given})
    task = world.task("r~a~0")
    assert world.payload("a") == payload and (task.type, task.agent) == ("agent", "x")
