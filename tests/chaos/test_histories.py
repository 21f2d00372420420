"""The histories of bars are really judged: a wrong answer fails the bar, and so do too few reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.histories import NAME, judge_history, told
from tests.chaos.report import Report

SEEN = {
    "told": "ok",
    "task_id": "t1",
    "attempt": 1,
    "cancel_requested": False,
    "step_count": 0,
    "request_id": "r1",
}


def history(base_dir: Path, *states: str) -> None:
    """A submission, and reads one after the other that saw these states."""
    lines: list[dict[str, object]] = [
        {"n": 1, "at_us": 1, "call": "submit", "request_id": "r1"},
        {**SEEN, "n": 1, "at_us": 2, "state": "PENDING", "result": ""},
    ]
    for number, state in enumerate(states, 2):
        result = "x" if state == "SUCCEEDED" else ""
        lines.append({"n": number, "at_us": 10 * number, "call": "read", "task_id": "t1"})
        lines.append({**SEEN, "n": number, "at_us": 10 * number + 5, "state": state, "result": result})
    (base_dir / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


def judged(base_dir: Path, *states: str, reads_min: int = 0) -> Report:
    history(base_dir, *states)
    report = Report(3, "faults", text="faults")
    judge_history(base_dir, report, reads_min=reads_min)
    return report


def test_a_good_history_passes_and_is_counted(tmp_path: Path) -> None:
    report = judged(tmp_path, "RUNNING", "SUCCEEDED", "SUCCEEDED", reads_min=3)
    assert (report.verdict, told(report)) == ("passed", "4 calls on 1 tasks fit an order (3 reads)")


@pytest.mark.parametrize("states", [("SUCCEEDED", "RUNNING"), ("SUCCEEDED", "FAILED")])
def test_a_read_that_goes_back_fails_the_bar(tmp_path: Path, states: tuple[str, ...]) -> None:
    report = judged(tmp_path, *states)
    assert report.verdict == "failed"
    assert report.violations == ["history: task t1: its 3 calls fit no order"]


def test_too_few_reads_fail_the_bar(tmp_path: Path) -> None:
    report = judged(tmp_path, "RUNNING", reads_min=2)
    assert report.too_little == ["reads judged: 1 of at least 2"]
