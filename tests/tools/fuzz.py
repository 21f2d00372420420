"""`python -m tests.tools.fuzz --minutes 5`: bytes of strangers for every decoder; prints what came of it.

`--seed` repeats a run; `--target` takes one decoder alone."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time

from tests.fuzz.run import Tally, fuzz
from tests.fuzz.targets import TARGETS

SLICE_S = 1.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="in all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--target", choices=sorted(TARGETS), help="this decoder only")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    names = [options.target] if options.target else list(TARGETS)
    tallies = asyncio.run(_run(names, options.seed, options.minutes * 60))
    for tally in tallies.values():
        print(f"{tally.name:16} {tally.executions:9} executions, {tally.refused:9} refused", flush=True)
        for failure in tally.failures:
            print(f"  FAILED: {failure}")
    failed = sum(len(tally.failures) for tally in tallies.values())
    total = sum(tally.executions for tally in tallies.values())
    print(f"fuzz: {total} executions, {failed} failures, seed {options.seed}")
    return 1 if failed else 0


async def _run(names: list[str], seed: int, seconds: float) -> dict[str, Tally]:
    """All targets in turn, a slice of time each, so that a short run meets all of them."""
    tallies = {name: Tally(name) for name in names}
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for name in names:
            part = min(SLICE_S, seconds / len(names))
            got = fuzz(name, seed + turn, until=time.monotonic() + part)
            tally = tallies[name]
            tally.executions += got.executions
            tally.refused += got.refused
            tally.failures += got.failures
            turn += 1
            await asyncio.sleep(0)  # timers of links that were dropped
    return tallies


if __name__ == "__main__":
    sys.exit(main())
