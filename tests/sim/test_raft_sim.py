"""The simulator itself: clean runs stay clean, a seed is a run, and planted bugs are found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.raft.__main__ import main
from tests.sim.raft.planted import PLANTED, simulate_planted
from tests.sim.raft.run import simulate

ROOT = Path(__file__).resolve().parents[2]
SIZES = [3, 5]
CAP = 120  # seeds until a planted bug must be found


@pytest.mark.parametrize("seed", range(60))
def test_a_run_keeps_every_promise(seed: int) -> None:
    report = simulate(seed, SIZES[seed % 2])
    assert report.violation == ""


def test_the_runs_do_some_work() -> None:
    reports = [simulate(seed, SIZES[seed % 2]) for seed in range(1_000, 1_010)]
    assert sum(report.committed for report in reports) > 500
    assert sum(report.faults for report in reports) > 100
    assert sum(report.reads for report in reports) > 100
    assert sum(report.terms for report in reports) > 20
    assert sum(report.snapshots for report in reports) > 10


def test_one_seed_is_one_run_whatever_the_hash_seed() -> None:
    paths = os.pathsep.join(str(ROOT / room) for room in ("proto", "consensus", "node", "skills", "."))
    outputs = {
        subprocess.run(
            [sys.executable, "-m", "tests.sim.raft", "--seed", "7"],
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


@pytest.mark.parametrize("plant", sorted(set(PLANTED) - {""}))
def test_a_planted_bug_is_found(plant: str) -> None:
    assert any(simulate_planted(SIZES, plant, seed).violation for seed in range(CAP))


def test_a_failure_is_printed_with_its_replay(capsys: pytest.CaptureFixture[str]) -> None:
    seed = next(seed for seed in range(CAP) if simulate_planted(SIZES, "hasty-retry", seed).violation)
    arguments = ["--first", str(seed), "--seeds", "1", "--jobs", "1", "--plant", "hasty-retry"]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert f"--seed {seed} --nodes 3,5 --plant hasty-retry" in printed
    assert "1 violations" in printed
    assert main(["--seed", str(seed), "--plant", "hasty-retry"]) == 1
