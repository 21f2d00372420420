"""`python -m tests.sim.raft.bugs`: every planted bug must be found, by random runs or by its directed test.

Prints a table; ends with 1 when one was not found."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.sim.raft.planted import FAULTS, PLANTED, simulate_planted
from tests.sim.raft.processes import run_all

ROOT = Path(__file__).resolve().parents[3]
CAP = 600  # random runs until a bug must be found
SIZES = [3, 5]
# A test that fails like this has not found the bug, but a mistake in how it was planted.
MISTAKES = (AttributeError, ImportError, NameError, TypeError, KeyError)


@dataclass(frozen=True, slots=True)
class Hunt:
    """How one bug was looked for."""

    plant: str
    found: bool
    how: str


def hunt(plant: str) -> Hunt:
    test = PLANTED[plant].found_by
    if test:
        return Hunt(plant, _fails(plant, test), test)
    for seed in range(CAP):
        violation = simulate_planted(SIZES, plant, seed).violation
        if any(f" raised {mistake.__name__}: " in violation for mistake in MISTAKES):
            raise RuntimeError(f"{plant} is planted wrongly: seed {seed}: {violation}")
        if violation:
            return Hunt(plant, True, f"random runs, {seed + 1}: {violation.split(':')[-1].strip()[:60]}")
    return Hunt(plant, False, f"not by {CAP} random runs")


class _Planting:
    """A pytest plugin: the bug is there while a test runs."""

    def __init__(self, plant: str) -> None:
        self._plant = PLANTED[plant]
        self.failures: list[BaseException] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        with self._plant.everywhere():
            return (yield)

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.excinfo is not None:
            self.failures.append(call.excinfo.value)


def _fails(plant: str, test: str) -> bool:
    planting = _Planting(plant)
    arguments = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), f"{ROOT}/tests/raft/{test}"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = pytest.main(arguments, plugins=[planting])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"{test} could not be run: {printed.getvalue()}")
    if code == pytest.ExitCode.TESTS_FAILED and all(isinstance(e, MISTAKES) for e in planting.failures):
        raise RuntimeError(f"{plant} is planted wrongly: {planting.failures}")
    return code == pytest.ExitCode.TESTS_FAILED


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.raft.bugs", description=__doc__)
    parser.add_argument("plants", nargs="*", help="only these")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    plants = options.plants or sorted(set(PLANTED) - {""})
    fault_of = {plant: fault.split()[0] for fault, switches in FAULTS.items() for plant in switches}
    began = time.monotonic()
    missed = 0
    for found in run_all(plants, options.jobs, partial(hunt), chunk=1):
        missed += not found.found
        mark = "found " if found.found else "MISSED"
        print(f"{mark} {fault_of.get(found.plant, '-'):>3} {found.plant:28} {found.how}", flush=True)
    print(f"sim bugs: {len(plants) - missed} of {len(plants)} found, {time.monotonic() - began:.1f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
