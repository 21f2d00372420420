"""Runs keep the revision they began with: python -m tests.chaos.skills --runs 100.

Many runs of revision A are under way when revision B becomes live, and then every node is killed in turn.
Each run says at each of its steps which files it runs: those of A to its end. Those submitted after B
became live say B. A recorded step is never said again by another attempt."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from coterie.client import Cluster, Job
from coterie.node.localcluster import LocalCluster
from tests.chaos.field import KILLED_BY_US
from tests.cluster.conftest import READY_S, client_of, new_cluster
from tests.cluster.guest import REVISION_A, REVISION_B, A, B, make_live

END_S = 600.0
UNDER_WAY_S = 120.0
DOWN_S = 2.0


@dataclass
class Figures:
    """What came out."""

    runs: int
    kills: int = 0
    under_way: int = 0  # runs of A that had recorded a step when B became live
    moved: int = 0  # runs of A that ended in another attempt than their first
    said: dict[str, int] = field(default_factory=dict)  # revision -> steps, of the runs that began with A
    said_later: dict[str, int] = field(default_factory=dict)  # the same of those that began with B
    faults: list[str] = field(default_factory=list)


async def keep_revisions(
    nodes: LocalCluster, client: Cluster, *, runs: int, steps: int, pause_s: float
) -> Figures:
    """One run of it all, on a cluster that is ready."""
    figures = Figures(runs)
    await make_live(client, A)
    payload = {"steps": steps, "pause": pause_s}
    old = list(
        await asyncio.gather(*(client.submit_task(type="guest", payload=payload) for _ in range(runs)))
    )
    figures.under_way = await _under_way(client, old)
    await make_live(client, B)
    later = [await client.submit_task(type="guest", payload={"steps": 2}) for _ in range(max(1, runs // 2))]
    for node_id in list(nodes.addresses):
        nodes.kill_node(node_id)
        figures.kills += 1
        await asyncio.sleep(DOWN_S)
        nodes.start_node(node_id)
        await nodes.wait_ready(READY_S)
    figures.said = await _said(old, steps, figures)
    figures.said_later = await _said(later, 2, figures)
    figures.moved = sum([(await job.get()).attempt > 1 for job in old])
    if set(figures.said) != {REVISION_A}:
        figures.faults.append(f"runs of {REVISION_A[:12]} said {figures.said}")
    if set(figures.said_later) != {REVISION_B}:
        figures.faults.append(f"runs of {REVISION_B[:12]} said {figures.said_later}")
    return figures


async def _under_way(client: Cluster, jobs: list[Job]) -> int:
    """Until the first of them have recorded a step, as many as run at once."""
    wanted = min(len(jobs), 6)
    async with asyncio.timeout(UNDER_WAY_S):
        while True:
            begun = sum([(await job.get()).step_count > 0 for job in jobs])
            if begun >= wanted:
                return begun
            await asyncio.sleep(0.2)


async def _said(jobs: list[Job], steps: int, figures: Figures) -> dict[str, int]:
    """By revision, how many steps were said by it."""
    said: Counter[str] = Counter()
    for job in jobs:
        result: dict[str, Any] = await job.wait(timeout=END_S)
        lines = result["said"]
        said.update(revision for _, revision, _ in lines)
        attempts = [attempt for _, _, attempt in lines]
        if len(lines) != steps or attempts != sorted(attempts):
            figures.faults.append(f"{job.id} said {len(lines)} steps, by the attempts {attempts}")
    return dict(said)


async def run(runs: int, steps: int, pause_s: float) -> Figures:
    """On a cluster of its own."""
    with new_cluster(options=KILLED_BY_US, patient=False) as nodes:
        await nodes.wait_ready(READY_S)
        async with client_of(nodes) as client:
            return await keep_revisions(nodes, client, runs=runs, steps=steps, pause_s=pause_s)


def main() -> int:
    """Print the figures; 1 when a run did not keep its revision, or none was moved."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.skills", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.4, help="seconds between two steps")
    options = parser.parse_args()
    figures = asyncio.run(run(options.runs, options.steps, options.pause))
    print(json.dumps(asdict(figures), indent=2))
    wrong = {name: count for name, count in figures.said.items() if name != REVISION_A}
    print(
        f"pins: {figures.runs} runs, {figures.kills} kills, {figures.moved} moved to another node,"
        f" steps by another revision {sum(wrong.values())}"
    )
    return 1 if figures.faults or not figures.moved else 0


if __name__ == "__main__":
    sys.exit(main())
