"""Thousands of seeds: `python -m tests.sim.workflows --seeds 5000`, or one: `--seed 17`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.sim.workflows.drive import RUN, check


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    seeds = (
        [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    )
    began, failed, killed, ends = time.monotonic(), 0, 0, Counter[str]()
    for seed in seeds:
        try:
            drive = check(seed)
            ends[drive.ended[RUN].state.name] += 1
            killed += drive.killed
        except AssertionError as error:
            failed += 1
            print(f"{error}\n  again: python -m tests.sim.workflows --seed {seed}", flush=True)
    what = f"{len(seeds)} seeds, {failed} failed, {dict(ends)}, {killed} nodes killed with tasks"
    print(f"{what}, {time.monotonic() - began:.1f} s")
    return 1 if failed or not seeds else 0


if __name__ == "__main__":
    sys.exit(main())
