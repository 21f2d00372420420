"""Runs of workflows in the state machine: what can be done to a run, and what happens to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import (
    Accepted,
    AssignTask,
    CancelTask,
    ExpireTask,
    FinishTask,
    PauseTask,
    Rejected,
    ReplayTask,
    ResumeTask,
    SignalTask,
)
from coterie.core.graph.values import written
from coterie.core.nouns import Data, ExpiryKind, Step, TaskId, TaskState, evolve
from coterie.core.runs.commands import AddNodes, RunWorkflow
from coterie.core.runs.run import NodeRun, NodeState, child_id, place_of
from coterie.core.runs.table import row_of, row_text
from coterie.raft import codec
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, World, echo, raw

BRANCH = (
    echo("a"),
    {"id": "c", "type": "condition", "expr": "a.score > 5", "depends_on": ["a"]},
    echo("high", ["c", "true"]),
    echo("low", ["c", "false"]),
    echo("after-low", "low"),
    echo("both", "high", "after-low", join="any", input="{{ high | after-low }}"),
)


def test_a_timer_and_a_signal_and_an_approval() -> None:
    world = World()
    world.run(
        {"id": "t", "type": "timer", "duration_ms": 5_000},
        {"id": "w", "type": "wait", "signal": "answer", "timeout_ms": 60_000},
        {"id": "ok", "type": "approval", "depends_on": ["w"]},
        echo("end", "t", ["ok", "true"], input="{{ w }}"),
        echo("no", ["ok", "false"]),
    )
    world.do(SignalTask(RUN, "answer", Data(b'{"text": "yes"}')))
    world.do(SignalTask(RUN, "approval.ok", Data(b'{"approved": true}')))
    assert world.open() == []
    world.pass_time(4_000)
    assert world.open() == []
    world.pass_time(2_000)
    assert world.payload("end") == {"text": "yes"}
    world.give("end", 1)
    assert world.result() == {"end": 1} and world.states()["no"] == "SKIPPED"


def test_a_wait_runs_out_and_a_rejection_fails() -> None:
    world = World()
    world.run({"id": "w", "type": "wait", "signal": "x", "timeout_ms": 1_000}, on_failure="skip-dependents")
    world.pass_time(2_000)
    assert world.table()["w"]["code"] == "WAIT_TIMEOUT"
    other = World()
    other.run({"id": "ok", "type": "approval"})
    other.do(SignalTask(RUN, "approval.ok", Data(b'{"approved": false}')))
    assert other.table()["ok"]["code"] == "REJECTED"


def test_signals_of_a_name_go_one_to_each_node() -> None:
    world = World()
    world.run(*({"id": name, "type": "wait", "signal": "s"} for name in "ab"))
    world.do(SignalTask(RUN, "s", Data(b"1")))
    assert sorted(record.state.name for record in world.state.runs[RUN].nodes.values()) == [
        "SUCCEEDED",
        "WAITING",
    ]
    world.do(SignalTask(RUN, "s", Data(b"2")))
    assert world.result() == {"a": 1, "b": 2}


def test_a_run_has_so_many_tasks_at_once() -> None:
    world = World()
    world.run(*(echo(name) for name in "abcd"), max_parallel=2)
    assert world.open() == ["r~a~0", "r~b~0"]
    world.give("b")
    assert world.open() == ["r~a~0", "r~c~0"]


def test_a_paused_run_begins_nothing_until_it_is_resumed() -> None:
    world = World()
    world.run(echo("a"), echo("b", "a"))
    world.do(PauseTask(RUN, "wait"))
    world.give("a")
    assert world.open() == [] and world.task(RUN).state is TaskState.PAUSED
    world.do(ResumeTask(RUN))
    assert world.open() == ["r~b~0"]
    world.do(PauseTask(RUN))
    world.give("b", 1)
    assert world.task(RUN).state is TaskState.PAUSED
    world.do(ResumeTask(RUN))
    assert world.result() == {"b": 1}


def test_a_cancelled_run_ends_when_its_tasks_have() -> None:
    world = World()
    body = {"nodes": [echo("in")]}
    world.run(echo("a"), echo("b", "a"), {"id": "sub", "type": "workflow", "body": body})
    world.hold("a")
    world.do(CancelTask(RUN, "enough"))
    assert world.task(RUN).cancel_requested and world.open() == ["r~a~0"]
    held = world.task("r~a~0")
    assert held.cancel_requested
    assert world.do(FinishTask(held.task_id, held.attempt, Data(b"1"))) != Accepted(held.task_id)
    assert world.ended().state is TaskState.CANCELLED
    assert world.states() == {"a": "CANCELLED", "b": "SKIPPED", "sub": "CANCELLED"}


def test_a_run_that_is_out_of_time_ends_as_timed_out() -> None:
    world = World()
    world.run(
        echo("a"), {"id": "t", "type": "timer", "duration_ms": 60_000}, more={"deadline_after_ms": 5_000}
    )
    assert world.task("r~a~0").deadline_at_ms == world.task(RUN).deadline_at_ms
    world.pass_time(6_000)
    assert world.ended().state is TaskState.TIMED_OUT
    assert world.states() == {"a": "FAILED", "t": "CANCELLED"}


def test_a_run_that_waits_only_ends_at_its_deadline_too() -> None:
    world = World()
    world.run({"id": "w", "type": "wait", "signal": "never"}, more={"deadline_after_ms": 5_000})
    world.pass_time(6_000)
    assert world.ended().state is TaskState.TIMED_OUT and world.states() == {"w": "CANCELLED"}


def test_a_run_that_repeats_another_takes_over_what_was_done() -> None:
    world = World()
    steps = (
        Step("a", 1, Data(b'{"score": 7}'), 5),
        Step("c", 1, Data(b"true"), 6),
        Step("m~0", 1, Data(b'"item"'), 7),
    )
    world.run(
        *BRANCH[:4],
        {"id": "m", "type": "map", "over": [1, 2], "skill": "echo"},
        more={"steps": steps},
    )
    assert world.open() == ["r~high~0", "r~m~1"]
    world.give("high", "H")
    world.give("r~m~1", "new")
    assert world.result() == {"high": "H", "m": ["item", "new"]}
    assert world.states()["low"] == "SKIPPED"


def test_a_planner_adds_nodes_which_are_checked_like_the_first() -> None:
    world = World()
    world.run(echo("a"), {"id": "w", "type": "wait", "signal": "go on"})
    more = b'{"nodes":[{"depends_on":["a"],"id":"b","skill":"echo"}]}'
    assert world.do(AddNodes(RUN, more)) == Accepted(RUN)
    assert world.do(AddNodes(RUN, more)) == Accepted(RUN, duplicate=True)
    world.give("a", 1)
    assert world.payload("b") == {"a": 1}
    for nodes in (
        [{"id": "a", "skill": "echo"}],
        [{"id": "x", "skill": "echo", "depends_on": ["nobody"]}],
        [
            {"id": "x", "skill": "echo", "depends_on": ["y"]},
            {"id": "y", "skill": "echo", "depends_on": ["x"]},
        ],
        [{"id": "x", "type": "code", "input": "import os"}],
    ):
        refused = world.do(AddNodes(RUN, json.dumps({"nodes": nodes}).encode()))
        assert isinstance(refused, Rejected) and refused.code == "BAD_WORKFLOW"
    late = b'{"nodes":[{"depends_on":["a","b"],"id":"z","skill":"echo"}]}'
    world.give("b", 2)
    assert world.do(AddNodes(RUN, late)) == Accepted(RUN)
    assert world.payload("z") == {"a": 1, "b": 2}
    world.give("z", 3)
    world.do(SignalTask(RUN, "go on"))
    assert world.result() == {"w": None, "z": 3}
    assert isinstance(world.do(AddNodes(RUN, more)), Rejected)


def test_only_the_attempt_that_holds_a_node_adds_others_in_its_name() -> None:
    world = World()
    world.run(echo("a"), {"id": "w", "type": "wait", "signal": "go on"})
    held = world.hold("a")
    world.running("stranger")
    more = b'{"nodes":[{"depends_on":["a"],"id":"b","skill":"echo"}]}'
    for by, attempt, code in (
        (held.task_id, held.attempt - 1, "FENCED"),
        (held.task_id, held.attempt + 1, "FENCED"),
        (TaskId("stranger"), world.task("stranger").attempt, "NOT_IN_A_RUN"),
    ):
        refused = world.do(AddNodes(RUN, more, by, attempt))
        assert isinstance(refused, Rejected) and refused.code == code
    assert world.do(AddNodes(RUN, more, held.task_id, held.attempt)) == Accepted(RUN)
    world.give("a", 1)
    late = world.do(AddNodes(RUN, more, held.task_id, held.attempt))
    assert isinstance(late, Rejected), "it has ended"


def test_what_is_refused_changes_nothing() -> None:
    world = World()
    world.with_node()
    before = state_hash(world.state)
    for graph, payload in ((b"[]", b"{}"), (raw({"nodes": [echo("a")], "inputs": [{"name": "x"}]}), b"{}")):
        refused = world.do(RunWorkflow(submit_command(RUN, payload=Data(payload)), graph))
        assert isinstance(refused, Rejected) and refused.code == "BAD_WORKFLOW"
    world.state.meta = world.state.meta.__class__(**{**world.state.meta.__dict__, "clock_ms": 1_001})
    assert state_hash(world.state) == before


def test_the_same_request_is_the_same_run() -> None:
    world = World()
    more = {"request_id": "q", "digest": b"d"}
    assert world.run(echo("a"), more=more) == Accepted(RUN)
    assert world.run(echo("a"), more=more) == Accepted(RUN, duplicate=True)


def test_a_run_is_not_replayed_as_a_task() -> None:
    world = World()
    world.run(echo("a"))
    world.fail("a")
    refused = world.do(ReplayTask(RUN, TaskId("again")))
    assert isinstance(refused, Rejected) and refused.code == "IS_A_RUN"


def test_an_entry_does_only_so_much_for_runs_and_the_next_goes_on() -> None:
    world = World()
    inner = {"nodes": [{"id": f"c{at}", "type": "condition", "expr": "true"} for at in range(200)]}
    world.run({"id": "l", "type": "loop", "expr": "iteration == 150", "max_iterations": 150, "body": inner})
    assert world.task(RUN).state is TaskState.WAITING  # 30,000 nodes are not begun in one entry
    world.pass_time(1)
    assert world.table()["l"]["message"] == "after 150 iterations"


def test_somebody_elses_task_in_the_place_of_a_nodes_fails_the_node() -> None:
    world = World()
    world.with_node()
    world.do(submit_command("r~a~0"))
    world.run(echo("a"))
    assert world.table()["a"]["code"] == "TASK_EXISTS"


def test_a_child_that_is_none_of_its_nodes_is_nothing_to_a_run() -> None:
    world = World()
    world.run(echo("a"))
    world.do(submit_command("stranger", parent_id=RUN))
    world.assign("stranger")
    world.do(FinishTask(TaskId("stranger"), 1, Data(b"1")))
    world.give("a", 1)
    assert world.result() == {"a": 1}


def test_ids_of_tasks_are_told_apart_and_do_not_grow() -> None:
    deep = child_id(child_id(child_id(TaskId("x" * 56), "n" * 64, 9_999), "n" * 64, 9_999), "m", 0)
    assert len(deep) < 128 and place_of(RUN, child_id(RUN, "a.b-c", 12)) == ("a.b-c", 12)
    assert place_of(RUN, TaskId("other~a~0")) is None and place_of(RUN, TaskId("r~a~x")) is None


def test_a_run_survives_in_a_snapshot_wherever_it_stands() -> None:
    world = World()
    world.run(*BRANCH, {"id": "m", "type": "map", "over": [1, 2, 3], "skill": "echo", "window": 1})
    for name, value in (("a", {"score": 1}), ("r~m~0", 1), ("low", 2), ("r~m~1", 2), ("after-low", 3)):
        world.state = codec.decode_state(list(codec.encode_state(world.state.copy())))
        world.give(name, value)
    copy = world.state.copy()
    kept = state_hash(copy)
    world.give("both", 4)
    assert state_hash(copy) == kept
    world.give("r~m~2", 3)
    assert world.result() == {"both": 4, "m": [1, 2, 3]}


def test_a_lost_assignment_does_not_disturb_a_run() -> None:
    world = World()
    world.run(echo("a"))
    node = world.state.nodes[next(iter(world.state.nodes))]
    world.do(AssignTask(TaskId("r~a~0"), node.node_id, node.incarnation, 1))
    assert isinstance(world.do(ExpireTask(RUN, 0, ExpiryKind.WAIT)), Rejected)
    world.give("a", 1)
    assert world.result() == {"a": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"node_id": 'a"\u00e9\\\n'},
        {"since_ms": 0},
        {"issued": 0},
        {"outcome": "true"},
        {"message": "it broke"},
    ],
)
def test_a_row_is_written_the_same_whichever_way(changes: dict[str, Any]) -> None:
    record = evolve(NodeRun(RUN, "a", NodeState.SUCCEEDED, issued=1, since_ms=5, ended_at_ms=9), **changes)
    assert row_text(record) == written(row_of(record))
