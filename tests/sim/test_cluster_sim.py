"""The cluster simulation: clean runs stay clean, a seed is a run, planted bugs are found."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.cluster.__main__ import main
from tests.sim.cluster.planted import PLANTED, simulate_planted
from tests.sim.cluster.run import simulate

ROOT = Path(__file__).resolve().parents[2]
SIZES = [3, 5]
# Bugs that a few seeds show; `make sim-bugs` looks for all.
QUICK = ("ack-at-once", "dropped-checkpoint", "no-dedupe", "stale-read")


@pytest.fixture(autouse=True)
def logs_go_on() -> Iterator[None]:
    """The simulation turns logging off."""
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", range(16))
def test_a_run_keeps_every_promise(seed: int) -> None:
    report = simulate(seed, SIZES[seed % 2])
    assert report.violation == ""
    assert report.undecided == 0


@pytest.mark.parametrize("seed", [136, 346])
def test_nodes_that_all_have_just_started_are_no_end(seed: int) -> None:
    """None has applied anything before a leader says what is committed: that was once taken for the end."""
    assert simulate(seed, 3).violation == ""


def test_the_runs_do_some_work() -> None:
    reports = [simulate(seed, SIZES[seed % 2]) for seed in range(1_000, 1_010)]
    assert sum(report.tasks for report in reports) > 120
    assert sum(report.calls for report in reports) > 800
    assert sum(report.faults for report in reports) > 80
    assert sum(report.attempts for report in reports) > sum(report.tasks for report in reports)
    assert sum(report.starts for report in reports) > 60


def test_one_seed_is_one_run_whatever_the_hash_seed() -> None:
    paths = os.pathsep.join(str(ROOT / room) for room in ("proto", "consensus", "node", "skills", "."))
    outputs = {
        subprocess.run(
            [sys.executable, "-m", "tests.sim.cluster", "--seed", "7"],
            cwd=ROOT,
            env={"PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(outputs) == 1
    assert simulate(7, 5).digest in outputs.pop()


@pytest.mark.parametrize("plant", QUICK)
def test_a_planted_bug_is_found(plant: str) -> None:
    assert any(simulate_planted(SIZES, plant, seed).violation for seed in range(10))


def test_there_are_enough_planted_bugs() -> None:
    assert len(PLANTED) >= 14
    for plant in PLANTED.values():
        assert plant.what
        with plant.planted():
            """What they replace is still there."""


def test_a_failure_is_printed_with_its_replay(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--first", "0", "--seeds", "2", "--jobs", "1", "--plant", "ack-at-once"]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "--nodes 3,5 --plant ack-at-once" in printed
    assert main(["--seed", "0", "--plant", "ack-at-once"]) == 1
