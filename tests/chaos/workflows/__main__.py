"""Runs of the five shipped workflows while a node is killed every 2 s, each ending as it must:

python -m tests.chaos.workflows --runs 100 --kills 40

Where starting a node takes long, more runs are made until as many nodes have been killed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from coterie.client import Cluster
from coterie.node.localcluster import LocalCluster
from tests.chaos.workflows import field as place
from tests.chaos.workflows.cases import CASES
from tests.chaos.workflows.strikes import Strikes
from tests.cluster.conftest import READY_S, client_of

RUN_S = 240.0


@dataclass
class Figures:
    """What came out."""

    runs: int = 0
    kills: int = 0
    unsafe: int = 0  # kills that left no majority
    passed: int = 0  # beats without a kill, because a node was still starting
    seconds: float = 0.0
    slowest_s: float = 0.0
    until: float = float("inf")  # monotonic; no run begins after it
    faults: list[str] = field(default_factory=list)

    def told(self) -> str:
        """One line."""
        kills = f"{self.kills} kills ({self.unsafe} left no majority, {self.passed} beats passed without one)"
        kills += f" in {self.seconds:.0f} s"
        what = f"{self.runs} runs, {kills}, slowest {self.slowest_s:.1f} s"
        return f"{what}, {len(self.faults)} faults"


async def chaos(
    cluster: LocalCluster,
    witness: Path,
    runs: int,
    *,
    width: int,
    every_s: float,
    sparing: bool = False,
    for_s: float = 1e9,
    kills: int = 0,
) -> Figures:
    """`runs` runs or more, `width` at a time, until `kills` nodes have died: see Strikes."""
    began = time.monotonic()
    figures = Figures(until=began + for_s)
    strikes = Strikes(cluster, every_s, seed=runs, sparing=sparing)
    striking = asyncio.create_task(strikes.run())
    numbers = itertools.count()

    async def one_after_the_other() -> None:
        while (number := next(numbers)) < runs or strikes.kills < kills:
            if time.monotonic() > figures.until:
                return
            await _one(client, number, figures)

    try:
        async with client_of(cluster) as client:
            await asyncio.gather(*(one_after_the_other() for _ in range(width)))
            striking.cancel()
            figures.kills, figures.unsafe, figures.passed = strikes.kills, strikes.unsafe, strikes.passed
            figures.faults += strikes.faults
            await cluster.wait_ready(READY_S)
            figures.faults += await place.ran_again(client, witness)
    finally:
        striking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await striking
    figures.seconds = time.monotonic() - began
    return figures


async def _one(client: Cluster, number: int, figures: Figures) -> None:
    case = CASES[number % len(CASES)]
    began = time.monotonic()
    job = await place.begun(client, case)
    found = await place.faults_of(client, job, case, RUN_S)
    figures.slowest_s = max(figures.slowest_s, time.monotonic() - began)
    figures.runs += 1
    figures.faults += [f"{case.workflow} ({case.title}) {job.id}: {fault}" for fault in found]


async def _main(options: argparse.Namespace) -> Figures:
    with (
        tempfile.TemporaryDirectory() as directory,
        place.field(Path(directory), options.nodes) as (cluster, witness),
    ):
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            await place.prepared(client)
        return await chaos(
            cluster,
            witness,
            options.runs,
            width=options.width,
            every_s=options.every,
            sparing=not options.fierce,
            for_s=options.seconds,
            kills=options.kills,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.workflows", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--kills", type=int, default=40, help="no end before so many")
    parser.add_argument("--width", type=int, default=2, help="runs at a time")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--fierce", action="store_true", help="also while others are still starting")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no run after so many")
    options = parser.parse_args()
    figures = asyncio.run(_main(options))
    for fault in figures.faults:
        print(fault)
    print(figures.told())
    short = figures.runs < options.runs or figures.kills < options.kills
    return 1 if figures.faults or short else 0


if __name__ == "__main__":
    sys.exit(main())
