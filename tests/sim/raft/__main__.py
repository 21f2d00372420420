"""`python -m tests.sim.raft --seeds 2000 --nodes 3,5 --jobs 2`; `--seed N` replays one run."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections.abc import Iterator
from functools import partial

from tests.sim.raft.planted import PLANTED, simulate_planted
from tests.sim.raft.run import Report

FAILURES_SHOWN = 5


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.disable(logging.CRITICAL)  # the engine's own lines have no meaning without real time
    sizes = [int(size) for size in options.nodes.split(",")]
    if options.seed is not None:
        report = simulate_planted(sizes, options.plant, options.seed)
        print(report)
        return 1 if report.violation else 0
    began = time.monotonic()
    reports = list(_run(options, sizes))
    failed = [report for report in reports if report.violation]
    for report in failed[:FAILURES_SHOWN]:
        print(f"seed {report.seed}, {report.count} nodes, {report.violation}")
        print(
            f"  replay: python -m tests.sim.raft --seed {report.seed} --nodes {options.nodes}"
            + (f" --plant {options.plant}" if options.plant else "")
        )
    print(_summary(reports, len(failed), time.monotonic() - began))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.raft", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--nodes", default="3,5", help="cluster sizes; the seeds take them in turn")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, help="replay this one run")
    parser.add_argument("--plant", default="", choices=sorted(PLANTED), help="run with a planted bug")
    return parser


def _run(options: argparse.Namespace, sizes: list[int]) -> Iterator[Report]:
    seeds = range(options.first, options.first + options.seeds)
    one = partial(simulate_planted, sizes, options.plant)
    if options.jobs <= 1:
        yield from map(one, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.jobs, initializer=logging.disable, initargs=(logging.CRITICAL,)) as pool:
        yield from pool.imap_unordered(one, seeds, chunksize=8)


def _summary(reports: list[Report], failed: int, seconds: float) -> str:
    def total(name: str) -> int:
        return sum(int(getattr(report, name)) for report in reports)

    return (
        f"sim raft: {len(reports)} runs, {failed} violations, {total('faults')} faults, "
        f"{total('asked')} proposals, {total('committed')} committed, {total('reads')} reads, "
        f"{total('terms')} terms, {total('steps')} steps, {seconds:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
