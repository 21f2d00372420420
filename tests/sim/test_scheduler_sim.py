"""The simulation of scheduler and state machine: clean runs, a seed is a run, planted bugs are found."""

from __future__ import annotations

import pytest

from tests.sim.scheduler.__main__ import main, summary
from tests.sim.scheduler.planted import PLANTED, simulate_planted
from tests.sim.scheduler.run import simulate

HUNT_MAX = 120  # seeds within which every planted bug shows


SHORT_TASKS_GOT_LESS = 6150  # a tenant of tasks of 40 ms had 11 % less than its share


@pytest.mark.parametrize("seed", [*range(60), SHORT_TASKS_GOT_LESS])
def test_a_run_keeps_every_promise(seed: int) -> None:
    assert simulate(seed).violation == ""


def test_a_seed_is_a_run_and_runs_do_some_work() -> None:
    reports = [simulate(seed) for seed in range(1, 8)]
    assert reports == [simulate(seed) for seed in range(1, 8)]
    assert sum(report.assignments for report in reports) > 200
    assert "7 runs, 0 with a violation" in summary(reports, 1.0)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    assert any(simulate_planted(name, seed).violation for seed in range(HUNT_MAX))


def test_a_violation_is_reported_with_the_command_that_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--jobs", "1", "--plant", "capacity is not counted"]) == 1
    shown = capsys.readouterr().out
    assert "replay: python -m tests.sim.scheduler --seed" in shown
    assert main(["--seed", "1"]) == 0
