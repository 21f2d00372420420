"""Runs at their edges: parts that fail late, judges of paused runs, what is full, what was taken over, what
strangers hand in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.core.access import Origin
from coterie.core.commands import (
    Accepted,
    AdvanceClock,
    Called,
    CancelTask,
    ConfigureCluster,
    FinishTask,
    PauseTask,
    Rejected,
    ResumeTask,
)
from coterie.core.graph.reading import graph_bytes, read_graph
from coterie.core.nouns import Data, Policy, RetryPolicy, Step, TaskId, TaskState, evolve
from coterie.core.runs.commands import AddNodes, RunWorkflow
from coterie.core.runs.foresee import after_success
from coterie.core.runs.run import WORKFLOW, NodeState
from coterie.core.skill_commands import SetSkillPolicy
from coterie.core.skillbook import SkillPolicy
from coterie.raft import codec
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, World, echo, raw

LOOP = {
    "id": "l",
    "type": "loop",
    "expr": "output.draft.ok",
    "max_iterations": 3,
    "body": {"nodes": [echo("draft", input={"i": "{{ iteration }}", "last": "{{ last | null }}"})]},
}
JUDGED = {"id": "a", "type": "agent", "agents": ["x", "y"], "join": "llm-judge", "judge": "echo"}


def step(key: str, result: bytes) -> Step:
    return Step(key, 1, Data(result), 5)


def unchecked(*nodes: dict[str, Any], **graph: Any) -> bytes:
    """As a node would write it that does not check what it proposes."""
    found, problems = read_graph({"nodes": list(nodes), **graph})
    assert problems == []
    return graph_bytes(found)


# --- parts that fail


def test_an_item_without_a_value_fails_its_map_and_ends_the_items_that_run() -> None:
    world = World()
    world.run(
        {"id": "m", "type": "map", "over": [{"x": 1}, {"y": 2}], "skill": "echo", "input": "{{ item.x }}"},
        on_failure="skip-dependents",
    )
    row = world.table()["m"]
    assert (row["state"], row["code"]) == ("FAILED", "MISSING_VALUE")
    first = world.task("r~m~0")
    assert (first.state, first.cancel_reason) == (TaskState.CANCELLED, "another part of its node failed")


def test_a_loop_whose_condition_has_no_answer_fails() -> None:
    world = World()
    world.run(LOOP)
    world.give("r~l~0~draft~0", {"good": True})
    assert world.table()["l"]["code"] == "MISSING_VALUE" and world.open() == []


def test_a_skill_that_may_not_be_used_fails_the_node_with_its_reason() -> None:
    world = World()
    world.do(SetSkillPolicy("echo", SkillPolicy("mine", private=True, owner="ann")))
    world.run(echo("a"))
    row = world.table()["a"]
    assert row["code"] == "SKILL_PRIVATE" and "private to agent ann" in row["message"]


def test_a_run_in_the_place_of_a_nodes_own_fails_the_node() -> None:
    world = World()
    world.with_node()
    world.do(submit_command("r~sub~0"))
    world.run({"id": "sub", "type": "workflow", "body": {"nodes": [echo("in")]}})
    assert world.table()["sub"]["code"] == "TASK_EXISTS"


def test_tasks_of_a_node_have_its_own_retries_and_the_rest_of_the_runs() -> None:
    world = World()
    retry = {"attempts_max": 7, "backoff_initial_ms": 5_000}
    graph = raw({"nodes": [echo("own", retry=retry), echo("other")]})
    of_run = RetryPolicy(2, 10, 1_000, ("BAD",), True)
    assert world.do(RunWorkflow(submit_command(RUN, retry=of_run), graph)) == Accepted(RUN)
    assert world.task("r~own~0").retry == RetryPolicy(7, 5_000, 5_000, ("BAD",), True)
    assert world.task("r~other~0").retry == of_run


def test_agents_that_were_asked_end_with_a_node_that_may_not_ask_all() -> None:
    world = World()
    world.do(SetSkillPolicy("agent", SkillPolicy("mine", private=True, owner="x")))
    world.run({"id": "a", "type": "agent", "agents": ["x", "y"]}, echo("b"), on_failure="continue")
    assert world.state.runs[RUN].nodes["a"].code == "SKILL_PRIVATE"
    assert world.task("r~a~0").state is TaskState.CANCELLED and world.open() == ["r~b~0"]


# --- judges and pauses


def test_the_judge_of_a_paused_run_is_asked_when_it_goes_on() -> None:
    world = World()
    world.run(JUDGED)
    world.hold("r~a~0")
    world.hold("r~a~1")
    world.do(PauseTask(RUN))
    world.give("r~a~0", "X")
    world.give("r~a~1", "Y")
    assert world.open() == [], "nothing begins while it is paused"
    world.do(ResumeTask(RUN))
    assert world.payload("r~a~2")["answers"] == ["X", "Y"]
    world.give("r~a~2", {"choice": 1})
    assert world.result() == {"a": "Y"}


def test_the_first_reason_to_end_stands() -> None:
    world = World()
    world.run(echo("a"), echo("b"))
    held = world.hold("a")
    world.fail("b", "BROKEN")
    world.do(CancelTask(RUN, "enough"))
    assert world.task(RUN).state is TaskState.WAITING, "until what runs has ended"
    world.do(FinishTask(held.task_id, held.attempt, Data(b"1")))
    task = world.ended()
    assert task.state is TaskState.FAILED and task.error is not None and task.error.code == "BROKEN"


# --- what is full


def test_a_run_that_holds_too_much_ends_and_says_so() -> None:
    world = World()
    world.do(ConfigureCluster("c", "test", Policy(steps_per_task_max=1)))
    world.run(echo("a"), echo("b"), echo("c"))
    world.hold("c")
    world.give("a", 1)
    world.give("b", 2)
    held = world.task("r~c~0")
    assert held.cancel_requested, "what still runs is of no use any more"
    world.do(FinishTask(held.task_id, held.attempt, Data(b"3")))
    task = world.ended()
    assert task.state is TaskState.FAILED and task.error is not None
    assert task.error.code == "TASK_TOO_LARGE" and "it holds 1 results" in task.error.message


def test_a_run_grows_no_larger_than_a_task_may_be() -> None:
    world = World()
    world.run(echo("a"))
    more = b'{"nodes":[{"id":"x","skill":"echo"}]}'
    held = world.task(RUN).bytes_held
    world.do(ConfigureCluster("c", "test", Policy(task_bytes_max=held + len(more) - 1)))
    refused = world.do(AddNodes(RUN, more))
    assert isinstance(refused, Rejected) and refused.code == "TASK_TOO_LARGE"
    world.do(ConfigureCluster("c", "test", Policy(task_bytes_max=held + len(more))))
    assert world.do(AddNodes(RUN, more)) == Accepted(RUN)


# --- what an earlier run has left


def test_iterations_that_were_done_are_taken_over() -> None:
    world = World()
    before = b'{"draft": {"ok": false, "n": 1}}'
    world.run(LOOP, more={"steps": (step("l~0", before),)})
    assert world.open() == ["r~l~1~draft~0"]
    assert world.payload("r~l~1~draft~0") == {"i": 2, "last": {"draft": {"ok": False, "n": 1}}}
    world.give("r~l~1~draft~0", {"ok": True})
    assert world.result() == {"l": {"draft": {"ok": True}}}
    again = World()
    again.run(LOOP, more={"steps": (step("l~0", before), step("l~1", b'{"draft": {"ok": true}}'))})
    assert again.result() == {"l": {"draft": {"ok": True}}}, "nothing is left to be done"


@pytest.mark.parametrize(
    ("join", "kept", "asked", "result"),
    [
        ("all", {0: "X"}, ["r~a~1", "r~a~2"], ["X", "new 1", "new 2"]),
        ("all", {0: "X", 1: "Y", 2: "Z"}, [], ["X", "Y", "Z"]),
        ("quorum(2)", {2: "Z"}, ["r~a~0", "r~a~1"], ["new 0", "Z"]),
        ("first", {1: "Y"}, [], "Y"),
    ],
)
def test_agents_that_have_answered_are_not_asked_again(
    join: str, kept: dict[int, str], asked: list[str], result: Any
) -> None:
    world = World()
    steps = tuple(step(f"a~{place}", f'"{text}"'.encode()) for place, text in kept.items())
    node = {"id": "a", "type": "agent", "agents": ["x", "y", "z"], "join": join}
    world.run(node, echo("b"), more={"steps": steps})
    assert world.open() == [*asked, "r~b~0"]
    for name in asked:
        if world.task(name).state is TaskState.PENDING:
            world.give(name, f"new {name[-1]}")
    world.give("b", 1)
    assert world.result() == {"a": result, "b": 1}


def test_a_judge_is_shown_answers_that_were_given_before() -> None:
    world = World()
    world.run(JUDGED, more={"steps": (step("a~0", b'"X"'), step("a~1", b'"Y"'))})
    assert world.open() == ["r~a~2"] and world.payload("r~a~2")["answers"] == ["X", "Y"]
    world.give("r~a~2", {"choice": 0})
    assert world.result() == {"a": "X"}


@pytest.mark.parametrize(
    ("kind", "result", "taken"),
    [
        ({"type": "condition", "expr": "true"}, b"false", "false"),
        ({"type": "switch", "expr": "'x'", "cases": ["false", "2"]}, b"2", "2"),
        ({"type": "switch", "expr": "'x'", "cases": ["false", "2"]}, b'"other"', "default"),
        ({"type": "approval"}, b'{"approved": true}', "true"),
        ({"type": "approval"}, b'{"approved": "true"}', "false"),
        ({"type": "condition", "expr": "true"}, b"\xff", ""),
    ],
)
def test_a_branch_that_was_taken_stays_taken(kind: dict[str, Any], result: bytes, taken: str) -> None:
    world = World()
    outcomes = ["true", "false"] if kind["type"] != "switch" else ["false", "2", "default"]
    world.run(
        {"id": "c", **kind},
        *(echo(f"on-{name}", ["c", name]) for name in outcomes),
        echo("last"),
        more={"steps": (step("c", result),)},
    )
    assert world.open() == sorted(["r~last~0", *([f"r~on-{taken}~0"] if taken else [])])
    assert world.state.runs[RUN].nodes["c"].message == "taken over from an earlier run"


def test_an_undo_is_made_anew_whatever_an_earlier_run_has_left() -> None:
    world = World()
    world.run(
        echo("a"),
        echo("b"),
        {"id": "undo", "type": "compensate", "compensates": "a", "skill": "echo"},
        more={"steps": (step("a", b"1"), step("undo", b'"before"'))},
        on_failure="compensate",
    )
    world.fail("b")
    assert world.open() == ["r~undo~0"]
    world.give("undo", "anew")
    assert world.states() == {"a": "SUCCEEDED", "b": "FAILED", "undo": "SUCCEEDED"}
    assert [one.result.inline for one in world.events[-1].steps if one.key == "undo"] == [b'"before"']


def test_nodes_that_are_added_again_are_taken_over_too() -> None:
    world = World()
    world.run(echo("plan"), echo("other"), more={"steps": (step("plan", b"1"), step("b", b'"B"'))})
    more = json.dumps({"nodes": [echo("b", "plan"), echo("c", "b")]}).encode()
    assert world.do(AddNodes(RUN, more)) == Accepted(RUN)
    assert world.open() == ["r~c~0", "r~other~0"] and world.payload("c") == {"b": "B"}
    world.give("c", "C")
    world.give("other", 2)
    assert world.result() == {"c": "C", "other": 2}


def test_a_timer_goes_on_after_a_restore() -> None:
    world = World()
    world.run({"id": "t", "type": "timer", "duration_ms": 5_000}, echo("a", "t"))
    world.state = codec.decode_state(list(codec.encode_state(world.state.copy())))
    world.pass_time(4_000)
    assert world.open() == []
    world.pass_time(2_000)
    assert world.open() == ["r~a~0"]


def test_a_view_of_a_run_stays_and_compares_with_it() -> None:
    world = World()
    world.run(echo("a"), echo("b", "a"))
    run = world.state.runs[RUN]
    kept = run.view()
    assert kept == run
    world.give("a", 1)
    assert kept != run and kept.nodes["a"].state is NodeState.RUNNING
    assert run != run.head, "a run is no other thing"


# --- what strangers hand in


def test_nobody_else_makes_a_task_under_the_ids_of_a_run() -> None:
    """Its end would be the answer of a node that never asked."""
    world = World()
    world.run(echo("a"), {"id": "m", "type": "map", "over": [1, 2], "skill": "echo", "window": 1})
    for name in ("r~a~1", "r~m~1", "r~later~0"):
        refused = world.do(submit_command(name, parent_id=RUN))
        assert isinstance(refused, Rejected) and refused.code == "TASK_EXISTS" and name in refused.reason
    assert world.do(submit_command("r~own", parent_id=RUN)) == Accepted(TaskId("r~own"))
    assert world.do(submit_command("plain~m~1", parent_id=TaskId("r~own"))) == Accepted(TaskId("plain~m~1"))


def test_the_end_of_a_task_that_no_node_has_begun_is_nothing_to_the_run() -> None:
    world = World()
    world.run(echo("a"), echo("b", "a"), echo("c", "b"))
    before = world.state.runs[RUN].view()
    for name in ("r~b~0", "r~a~1"):
        stray = evolve(world.hold("a"), task_id=TaskId(name), state=TaskState.SUCCEEDED)
        assert name != "r~b~0" or after_success(world.state, stray) == []
        world.state.note_run(RUN, "ended", stray)
        world.do(AdvanceClock(world.now_ms))
    assert world.state.runs[RUN] == before and world.open() == ["r~a~0"]


def test_input_that_is_no_json_is_as_good_as_none() -> None:
    world = World()
    world.with_node()
    graph = raw(
        {"nodes": [echo("a", input="{{ x }}")], "inputs": [{"name": "x", "required": False, "default": 3}]}
    )
    assert world.do(RunWorkflow(submit_command(RUN, payload=Data(b"\xff")), graph)) == Accepted(RUN)
    assert world.payload("a") == 3


def test_a_node_may_be_given_everything_that_the_run_was_given() -> None:
    world = World()
    world.run(echo("a", input="{{ input }}"), given={"x": 1}, inputs=[{"name": "x"}])
    assert world.payload("a") == {"x": 1}


def test_a_value_that_no_check_has_seen_missing_fails_the_node() -> None:
    world = World()
    world.with_node()
    graph = unchecked(echo("a", input="{{ nobody }}"))
    assert world.do(RunWorkflow(submit_command(RUN), graph)) == Accepted(RUN)
    row = world.table()["a"]
    assert row["code"] == "MISSING_VALUE" and "there is no value 'nobody' in this run" in row["message"]


def test_a_caller_of_another_tenant_begins_no_run() -> None:
    world = World()
    command = RunWorkflow(submit_command(RUN, tenant="b", type=WORKFLOW), raw({"nodes": [echo("a")]}))
    refused = world.do(Called(command, Origin("user:ann", "Workflows/RunWorkflow", "a")))
    assert isinstance(refused, Rejected) and refused.code == "TENANT_DENIED" and not world.state.tasks
    assert world.do(Called(command, Origin("user:bob", "Workflows/RunWorkflow", "b"))) == Accepted(RUN)
