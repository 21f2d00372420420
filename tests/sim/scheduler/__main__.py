"""Simulated runs of scheduler and state machine. `--seed N` replays one run."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import get_context

from tests.sim.scheduler.planted import PLANTED, simulate_planted
from tests.sim.scheduler.run import Report

CHUNK = 20
FAILURES_SHOWN = 5


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.seed is not None:
        report = simulate_planted(options.plant, options.seed)
        print(report)
        return 1 if report.violation else 0
    began = time.monotonic()
    reports = []
    seeds = range(options.first, options.first + options.seeds)
    with suppress(KeyboardInterrupt):  # what was run until then counts
        for report in _all(options.plant, seeds, options.jobs):
            reports.append(report)
            if report.violation and sum(bool(r.violation) for r in reports) <= FAILURES_SHOWN:
                plant = f" --plant '{options.plant}'" if options.plant else ""
                replay = f"python -m tests.sim.scheduler --seed {report.seed}{plant}"
                print(f"{report.violation}\n  replay: {replay}", flush=True)
    if not reports:
        return 1
    print(summary(reports, time.monotonic() - began))
    return 1 if any(report.violation for report in reports) else 0


def summary(reports: list[Report], seconds: float) -> str:
    """One line about many runs."""
    bad = sum(bool(report.violation) for report in reports)
    return (
        f"{len(reports)} runs, {bad} with a violation; {sum(r.submitted for r in reports):,} tasks, "
        f"{sum(r.assignments for r in reports):,} assignments, "
        f"{sum(r.moves for r in reports)} moves; longest wait "
        f"{max(r.waits_longest_ms for r in reports) / 1000:.1f} s of virtual time; "
        f"largest deviation from a share {max(r.unfairness for r in reports):.1%}; {seconds:.0f} s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.scheduler", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, help="replay this one run")
    parser.add_argument("--plant", default="", choices=["", *PLANTED], help="run with a planted bug")
    return parser


def _all(plant: str, seeds: Iterable[int], jobs: int) -> Iterator[Report]:
    if jobs <= 1:
        yield from map(partial(simulate_planted, plant), seeds)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(partial(simulate_planted, plant), seeds, CHUNK)


if __name__ == "__main__":
    sys.exit(main())
