"""Simulated runs of the Raft engine. `--seed N` replays one run and writes what happened in it, line by line.

`--summary FILE` keeps the sums in FILE (JSON, and a page beside it) and goes on from there when it is started
again: for runs of hours."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from tests.sim.raft.planted import PLANTED, run_again, simulate_planted
from tests.sim.raft.processes import run_all
from tests.sim.raft.run import Report
from tests.sim.raft.totals import Totals, is_repeated

ROOT = Path(__file__).resolve().parents[3]
FAILURES_SHOWN = 5
SAVE_EVERY = 200


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.disable(logging.CRITICAL)  # the engine's own lines have no meaning without real time
    sizes = [int(size) for size in options.nodes.split(",")]
    if options.seed is not None:
        report = _replay(sizes, options.plant, options.seed, Path(options.traces))
        print(report)
        return 1 if report.violation else 0
    try:
        totals = _totals(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    _add_up(options, sizes, totals)
    print(totals.line())
    shortfalls = totals.shortfalls(options.seeds)
    for shortfall in shortfalls:
        print(f"too little was done: {shortfall}", file=sys.stderr)
    return 1 if totals.violated or shortfalls else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.raft", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--nodes", default="3,5", help="cluster sizes; the seeds take them in turn")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, help="replay this one run")
    parser.add_argument("--plant", default="", choices=sorted(PLANTED), help="run with a planted bug")
    parser.add_argument("--summary", help="a JSON file that keeps the sums; an earlier run goes on from it")
    parser.add_argument("--traces", default=str(ROOT / ".sim"), help="where traces of failures go")
    return parser


def _replay(sizes: list[int], plant: str, seed: int, traces: Path) -> Report:
    traces.mkdir(parents=True, exist_ok=True)
    path = traces / f"seed-{seed}{'-' + plant if plant else ''}.txt"
    with path.open("w") as file:
        report = simulate_planted(sizes, plant, seed, lambda line: print(line, file=file))
    print(f"trace: {path}")
    return report


def _totals(options: argparse.Namespace) -> Totals:
    """New ones, or those of the run that is to go on."""
    new = Totals(options.first, options.first, options.nodes, options.plant, _commit())
    path = Path(options.summary) if options.summary else None
    if path is None or not path.exists():
        return new
    old = Totals.load(path)
    for name in ("first", "nodes", "plant", "commit"):
        if getattr(old, name) != getattr(new, name):
            raise ValueError(
                f"{path} is of {name} {getattr(old, name)!r}, this run has {getattr(new, name)!r}: "
                "its sums would mix two things. Name another file, or remove it"
            )
    return old


def _commit() -> str:
    """What is simulated: the commit, and whether files differ from it."""
    try:
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.decode().strip() + (" with changes" if dirty.stdout.strip() else "")


def _add_up(options: argparse.Namespace, sizes: list[int], totals: Totals) -> None:
    began, before = time.monotonic(), totals.seconds
    path = Path(options.summary) if options.summary else None
    seeds = range(totals.next_seed, options.first + options.seeds)
    for report in run_all(seeds, options.jobs, partial(simulate_planted, sizes, options.plant)):
        if is_repeated(report.seed) and not report.violation:
            report = run_again(report, sizes, options.plant)
        totals.add(report)
        totals.seconds = before + time.monotonic() - began
        if report.violation and totals.violated <= FAILURES_SHOWN:
            _show(report, options, sizes)
        if path is not None and totals.runs % SAVE_EVERY == 0:
            totals.save(path)
    if path is not None:
        totals.save(path)


def _show(report: Report, options: argparse.Namespace, sizes: list[int]) -> None:
    print(f"seed {report.seed}, {report.count} nodes, {report.violation}")
    print(
        f"  replay: python -m tests.sim.raft --seed {report.seed} --nodes {options.nodes}"
        + (f" --plant {options.plant}" if options.plant else "")
    )
    _replay(sizes, options.plant, report.seed, Path(options.traces))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
