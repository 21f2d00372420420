"""`python -m tests.sim.cluster --seeds 400 --nodes 3,5 --jobs 2`; `--seed N` replays one run, `--plant NAME`
puts a bug in; `--bugs` looks for every planted bug and fails unless all are found."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from functools import partial

from tests.sim.cluster.planted import PLANTED, find, simulate_planted
from tests.sim.cluster.run import Report
from tests.sim.raft.processes import run_all

FAILURES_SHOWN = 5
CAP = 1500  # seeds until a planted bug must be found
# Of one run, on the average: about a quarter of what they do.
WORK_MIN = {"calls": 40, "faults": 5, "tasks": 5, "attempts": 6, "effects": 12}
FEW = 10  # runs whose average may be low by chance


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.disable(logging.CRITICAL)  # the engine's own lines have no meaning without real time
    sizes = [int(size) for size in options.nodes.split(",")]
    if options.bugs:
        return _bugs(options)
    if options.seed is not None:
        report = simulate_planted(sizes, options.plant, options.seed)
        print(report, report.trace, sep="\n")
        return 1 if _wrong(report) else 0
    began = time.monotonic()
    reports = list(_run(options, sizes))
    failed = [report for report in reports if _wrong(report)]
    for report in failed[:FAILURES_SHOWN]:
        print(f"seed {report.seed}, {report.count} nodes, {_wrong(report)}")
        print(
            f"  replay: python -m tests.sim.cluster --seed {report.seed} --nodes {options.nodes}"
            + (f" --plant {options.plant}" if options.plant else "")
        )
    print(_summary(reports, time.monotonic() - began))
    scant = too_little(reports)
    if scant:
        print(f"TOO LITTLE WORK: {', '.join(scant)}")
    return 1 if failed or scant else 0


def _wrong(report: Report) -> str:
    """Empty: every promise was kept. The checker may look at 200,000 configurations of a task's calls, and
    these runs need fewer than 100 of any: whatever leaves it undecided is to be looked at too."""
    if report.violation or not report.undecided:
        return report.violation
    return f"the histories of {report.undecided} tasks could not be decided"


def too_little(reports: list[Report]) -> list[str]:
    """What was done less of than proves anything. Some runs do very little, by chance; all of a few may, but
    for nothing at all."""
    found = []
    for name, each in WORK_MIN.items():
        done, minimum = _total(reports, name), max(1, each * (len(reports) - FEW))
        if done < minimum:
            found.append(f"{name}: {done:,} of at least {minimum:,}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.cluster", description=__doc__)
    parser.add_argument("--seeds", type=int, default=400, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--nodes", default="3,5", help="cluster sizes; the seeds take them in turn")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, help="replay this one run")
    parser.add_argument("--plant", default="", choices=["", *sorted(PLANTED)], help="run with a planted bug")
    parser.add_argument("--bugs", action="store_true", help="find every planted bug")
    return parser


def _run(options: argparse.Namespace, sizes: list[int]) -> Iterator[Report]:
    seeds = range(options.first, options.first + options.seeds)
    return run_all(seeds, options.jobs, partial(simulate_planted, sizes, options.plant))


def _bugs(options: argparse.Namespace) -> int:
    names = sorted(PLANTED)
    missed = 0
    for name, seed in zip(names, run_all(names, options.jobs, partial(find, cap=CAP), chunk=1), strict=True):
        where = f"seed {seed}" if seed is not None else f"NOT FOUND in {CAP} seeds"
        print(f"{name:20} {PLANTED[name].what:52} {where}", flush=True)
        missed += seed is None
    print(f"sim cluster: {len(names) - missed} of {len(names)} planted bugs found")
    return 1 if missed else 0


def _total(reports: list[Report], name: str) -> int:
    return sum(int(getattr(report, name)) for report in reports)


def _summary(reports: list[Report], seconds: float) -> str:
    total, violated = partial(_total, reports), sum(bool(report.violation) for report in reports)
    return (
        f"sim cluster: {len(reports)} runs, {violated} violations, {total('undecided')} undecided, "
        f"{total('faults')} faults, {total('calls')} calls ({total('unknown')} unknown), "
        f"{total('tasks')} tasks acked, {total('attempts')} attempts, {total('effects')} effects, "
        f"{total('terms')} terms, "
        f"{total('virtual_ms') // 1000} virtual s, {seconds:.1f} s, "
        f"{len(reports) / seconds * 60:.0f} runs/min"
    )


if __name__ == "__main__":
    sys.exit(main())
