"""The search for a broken promise of the cluster: whatever goes wrong names its seed, and too little is no
proof."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from coterie.core.commands import FinishTask
from coterie.core.machine import RULES
from tests.sim.cluster import __main__ as command
from tests.sim.cluster import run
from tests.sim.cluster.__main__ import WORK_MIN, main, too_little
from tests.sim.cluster.clients import SimClient
from tests.sim.cluster.coordinator import SimCoordinator
from tests.sim.cluster.process import Process
from tests.sim.cluster.run import Report, simulate
from tests.sim.raft import __main__ as raft
from tests.sim.scheduler import __main__ as scheduler
from tests.sim.workflows import __main__ as workflows

SEARCH = ["--first", "4", "--seeds", "2", "--jobs", "1"]


def broken(*args: Any) -> Any:
    raise KeyError("t1")


def careless(*args: Any) -> Any:
    assert not args, "the product's own check"


@pytest.mark.parametrize(
    ("where", "name"),
    [(SimCoordinator, "look"), (Process, "_report"), (run, "_judge")],
)
@pytest.mark.parametrize(
    ("bug", "said"), [(broken, "KeyError: 't1'"), (careless, "AssertionError: the prod")]
)
def test_an_exception_is_a_violation(where: Any, name: str, bug: Callable[..., Any], said: str) -> None:
    """Also one at the very beginning, when the nodes are made."""
    with patch.object(where, name, bug):
        report = simulate(4, 3)
    assert report.violation.startswith("at ") and "test_cluster_search.py line" in report.violation
    assert said in report.violation
    assert "Traceback" in report.trace


def test_an_exception_in_a_rule_is_a_violation() -> None:
    with patch.dict(RULES, {FinishTask: broken}):
        report = simulate(4, 3)
    assert "KeyError" in report.violation


def test_the_search_goes_on_after_an_exception_and_says_how_to_see_it_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with patch.object(SimCoordinator, "look", broken):
        assert main(SEARCH) == 1
        printed = capsys.readouterr().out
        assert "seed 4, 3 nodes" in printed and "seed 5, 5 nodes" in printed and "raised KeyError" in printed
        assert "replay: python -m tests.sim.cluster --seed 5 --nodes 3,5" in printed
        assert "2 runs, 2 violations" in printed
        assert main(["--seed", "5"]) == 1
    assert "Traceback" in capsys.readouterr().out


def test_what_the_checker_could_not_decide_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    with patch.object(run, "_judge", lambda world: 2):
        assert main(SEARCH) == 1
        printed = capsys.readouterr().out
        assert "seed 4, 3 nodes, the histories of 2 tasks could not be decided" in printed
        assert "--seed 5 --nodes 3,5" in printed and "2 runs, 0 violations, 4 undecided" in printed
        assert main(["--seed", "5"]) == 1


def test_no_run_at_all_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0", "--jobs", "1"]) == 1
    assert "TOO LITTLE WORK" in capsys.readouterr().out


@pytest.mark.parametrize("other", [raft, scheduler, workflows], ids=lambda module: module.__package__)
def test_nor_is_it_of_another_simulation(other: Any) -> None:
    assert other.main(["--seeds", "0"]) == 1


def test_runs_in_which_nobody_asks_for_anything_are_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    with patch.object(SimClient, "start", lambda client: None):
        assert main(SEARCH) == 1
    printed = capsys.readouterr().out
    assert "2 runs, 0 violations" in printed
    assert "TOO LITTLE WORK: calls: 0 of at least 1" in printed


def test_a_search_that_works_succeeds() -> None:
    assert main(SEARCH) == 0


REPORT = Report(1, 3, calls=50, faults=50, tasks=50, attempts=50, effects=50)


def test_much_work_is_wanted_of_many_runs_and_some_of_a_few() -> None:
    scant = dataclasses.replace(REPORT, tasks=1)
    assert too_little([REPORT] * 100) == [] and too_little([scant]) == []
    assert too_little([scant] * 100) == [f"tasks: 100 of at least {WORK_MIN['tasks'] * (100 - command.FEW)}"]
    assert [line.split(":")[0] for line in too_little([])] == list(WORK_MIN)
