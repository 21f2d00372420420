from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coterie.client import Event
from coterie.node.demo.evidence import (
    Evidence,
    Execution,
    History,
    read_witness,
    resume_times,
    resumptions,
)
from coterie.node.demo.journal import Kill
from coterie.node.demo.probe import write_gap_s
from coterie.node.demo.proof import Check, judge, judge_readback, judge_steps
from coterie.v1 import tasks_pb2

STEPS = ("survey", "words")


def good_evidence() -> Evidence:
    """Two documents, the second of which lost its node with a step in the air."""
    rows = [("a", "SUCCEEDED"), ("b", "SUCCEEDED"), ("probe", "SUCCEEDED")]
    return Evidence(
        acked=frozenset({"a", "b"}),
        probes=frozenset({"probe"}),
        per_node={"node-1": list(rows), "node-2": list(rows)},
        hashes={"node-1": "9:abc", "node-2": "9:abc"},
        histories=[
            History("a", "SUCCEEDED", 1, dict.fromkeys(STEPS, 1), 1, (("survey", 1), ("words", 1))),
            History("b", "SUCCEEDED", 2, {"survey": 1, "words": 2}, 1, (("survey", 1), ("words", 2))),
        ],
        executions=[
            Execution("a", "survey", 1, 10),
            Execution("a", "words", 1, 10),
            Execution("b", "survey", 1, 11),
            Execution("b", "words", 1, 11),
            Execution("b", "words", 2, 12),
        ],
        with_results=frozenset({"a", "b"}),
    )


def broken(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if not check.kept}


def test_a_run_with_a_step_in_the_air_keeps_every_promise() -> None:
    checks = judge(good_evidence())
    assert broken(checks) == set()
    assert {check.name: check.value for check in checks}["steps in the air at a kill"] == "1"


def lose_a_task(found: Evidence) -> None:
    found.per_node["node-2"].remove(("a", "SUCCEEDED"))


def lose_a_probe(found: Evidence) -> None:
    found.per_node["node-2"].remove(("probe", "SUCCEEDED"))


def see_no_node(found: Evidence) -> None:
    found.per_node.clear()


def fail_a_task(found: Evidence) -> None:
    found.per_node["node-1"][0] = ("a", "FAILED")


def list_a_stranger(found: Evidence) -> None:
    found.per_node["node-1"].append(("c", "SUCCEEDED"))


def list_a_task_twice(found: Evidence) -> None:
    found.per_node["node-1"].append(("a", "SUCCEEDED"))


def end_a_task_twice(found: Evidence) -> None:
    found.histories[0] = replace(found.histories[0], terminal_events=2)


def forget_a_history(found: Evidence) -> None:
    found.histories.pop()


def miss_a_result(found: Evidence) -> None:
    found.with_results = frozenset({"a"})


def run_a_step_again(found: Evidence) -> None:
    found.executions.append(Execution("b", "survey", 2, 12))


def run_a_step_twice_in_one_attempt(found: Evidence) -> None:
    found.executions.append(Execution("a", "survey", 1, 10))


def damage_the_witness(found: Evidence) -> None:
    found.damaged_lines = 1


def record_what_nobody_ran(found: Evidence) -> None:
    found.executions.remove(Execution("a", "words", 1, 10))


def record_nothing(found: Evidence) -> None:
    found.histories = [replace(history, steps={}, completions=()) for history in found.histories]
    found.executions.clear()


def overwrite_a_step(found: Evidence) -> None:
    """The later attempt ran a completed step again, and the cluster took its record."""
    found.executions.append(Execution("b", "survey", 2, 12))
    steps = (("survey", 1), ("survey", 2), ("words", 2))
    found.histories[1] = replace(found.histories[1], steps={"survey": 2, "words": 2}, completions=steps)


def forget_a_step(found: Evidence) -> None:
    found.histories[0] = replace(found.histories[0], completions=(("survey", 1),))


def differ_in_state(found: Evidence) -> None:
    found.hashes["node-2"] = "9:abd"


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (lose_a_task, {"acknowledged tasks missing"}),
        (lose_a_probe, {"acknowledged tasks missing"}),
        (see_no_node, {"acknowledged tasks missing"}),
        (fail_a_task, {"not succeeded on some node"}),
        (list_a_stranger, {"duplicate tasks"}),
        (list_a_task_twice, {"duplicate tasks"}),
        (end_a_task_twice, {"ended exactly once"}),
        (forget_a_history, {"ended exactly once"}),
        (miss_a_result, {"results received"}),
        (run_a_step_again, {"steps run again after completion"}),
        (run_a_step_twice_in_one_attempt, {"steps run again after completion"}),
        (damage_the_witness, {"steps run again after completion"}),
        (record_what_nobody_ran, {"steps recorded"}),
        (record_nothing, {"steps recorded"}),
        (overwrite_a_step, {"steps recorded", "steps run again after completion"}),
        (forget_a_step, {"steps recorded"}),
        (differ_in_state, {"states of the nodes that differ"}),
    ],
)
def test_every_promise_can_be_seen_to_break(damage: Callable[[Evidence], None], names: set[str]) -> None:
    found = good_evidence()
    damage(found)
    assert broken(judge(found)) == names


def test_an_execution_of_a_step_nobody_recorded_was_in_the_air() -> None:
    found = judge_steps([Execution("a", "survey", 1, 1)], {})
    assert (found.in_the_air, found.again, found.twice) == (1, 0, 0)


def test_a_task_that_is_unfinished_on_a_node_is_not_missing() -> None:
    found = judge_readback(frozenset({"a"}), [("a", "RUNNING")])
    assert (found.missing, found.not_succeeded) == (0, 1)


def test_the_witness_file_is_read_with_its_damage(tmp_path: Path) -> None:
    path = tmp_path / "witness"
    assert read_witness(path) == ([], 0)
    path.write_text("t\tsurvey\t1\t10\nt\twords\tx\t10\nshort\nt\twords\t2\t11")
    assert read_witness(path) == ([Execution("t", "survey", 1, 10)], 3)
    path.write_text("t\tsurvey\t1\t10\nt\twords\t2\t11\n")
    assert read_witness(path)[1] == 0


def event(kind: str, node: str, attempt: int, seconds: float) -> Event:
    raw = tasks_pb2.TaskEvent(type=kind, node=node, attempt=attempt)
    raw.time.FromDatetime(datetime.fromtimestamp(seconds, UTC))
    return Event.of(raw)


def test_resumptions_name_the_lost_node_and_the_new_start() -> None:
    events = [
        event("submitted", "", 0, 1.0),
        event("assigned", "node-1", 1, 2.0),
        event("started", "node-1", 1, 3.0),
        event("released", "", 1, 5.0),
        event("assigned", "node-2", 2, 5.25),
        event("started", "node-2", 2, 5.5),
        event("succeeded", "node-2", 2, 6.0),
    ]
    assert resumptions(events) == (("node-1", 5.0, 5.5),)
    assert resumptions(events[:3]) == ()


def test_resume_times_belong_to_the_kill_that_caused_them() -> None:
    kill = Kill("node-1", "leader", at=0.0, wall=100.0, done=1, running=3, back_s=5.0)
    histories = [
        History("a", "SUCCEEDED", 2, {}, 1, (), (("node-1", 101.0, 101.5),)),
        History("b", "SUCCEEDED", 2, {}, 1, (), (("node-2", 101.0, 101.5),)),
        History("c", "SUCCEEDED", 2, {}, 1, (), (("node-1", 99.0, 99.5), ("node-1", 120.0, 121.0))),
        History("d", "SUCCEEDED", 2, {}, 1, (), (("node-1", 101.0, 101.25),)),
    ]
    assert resume_times(kill, histories) == [1.25, 1.5]
    kill.back_s = None
    assert resume_times(kill, histories) == [1.25, 1.5, 21.0]


def test_the_write_gap_counts_only_writes_begun_after_the_kill() -> None:
    kill = Kill("node-1", "leader", at=10.0, wall=0.0, done=1, running=3)
    assert write_gap_s(kill, [(9.0, 10.125), (10.5, 11.0), (10.25, 10.75)]) == 0.75
    assert write_gap_s(kill, [(9.0, 10.125)]) is None
