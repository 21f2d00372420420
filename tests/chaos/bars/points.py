"""Bar 5: a worker dies by kill -9 at each write to its disk, just before it and just after it.

A library before libc's fsync counts the syncs of the node's log from the moment a task of steps begins to run
there, and kills the node at one of them: those are the moments at which what the node knows and what the
cluster knows differ. The steps leave lines in a file of their own."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from coterie.client import Cluster, Job
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.bars.zombies import PATIENCE_S, lines_of, running_on
from tests.chaos.field import READY_S, Field, others
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report, spread
from tests.chaos.tools import needs
from tests.chaos.tools.machine import is_busy, patience
from tests.chaos.tools.shim import Shim

STEPS, STEP_MS = 24, 80
RESUMED_P95_S = 3.0


@dataclass(slots=True)
class Death:
    """One kill. repeated: completed steps that ran again; in_the_air: other steps that ran twice."""

    point: str
    resumed_s: float
    repeated: int
    in_the_air: int


async def run(setting: Setting, report: Report) -> None:
    """Each point in turn, on the leader and on followers."""
    syncs, repeats = (16, 3) if setting.full else (3, 1)
    points = [f"{when} sync {number}" for number in range(1, syncs + 1) for when in ("before", "after")]
    witness = setting.base_dir / "witness"
    shim = Shim(setting.base_dir / "shim", [f"node-{number}" for number in (1, 2, 3)])
    deaths: list[Death] = []
    with Field(setting.base_dir, nodes=3, env_of=shim.env) as nodes:
        await nodes.wait_ready(READY_S)
        async with Lookout(nodes) as lookout, nodes.client() as client:
            busy = is_busy()
            for turn, point in enumerate(points * repeats):
                leader = await lookout.known_leader()
                victim = leader if turn % 3 == 0 else others(nodes, leader)[turn % 2]
                death = await _die(nodes, client, shim, victim, point, witness)
                deaths += [death] if death is not None else []
                if not nodes.alive(victim):
                    nodes.start_node(victim)
                await nodes.wait_ready(READY_S)
    _conclude(report, deaths, patience(busy))
    report.require("points", len({death.point for death in deaths}), 2 * syncs - 2)
    report.require("deaths", len(deaths), (2 * syncs - 2) * repeats)


async def _die(
    nodes: Field, client: Cluster, shim: Shim, victim: str, point: str, witness: Path
) -> Death | None:
    """None: the task was done before the node came to that point."""
    async with nodes.client(*others(nodes, victim)) as rest:
        job = rest.job((await running_on(client, victim, witness, STEPS, STEP_MS)).id)
        when, _, number = point.split()
        shim.kill(victim, when, int(number), only="raft.journal")
        died = await _dead(nodes, job, victim)
        shim.well(victim)
        if died is None:
            return None
        resumed = await _resumed(job, died)
        await job.wait(timeout=PATIENCE_S)
        info = await job.get(include_steps=True)
    completed = {step.name: step.attempt for step in info.steps}
    rows = lines_of(witness, info.id)
    repeated = sum(attempt > completed[f"step-{step}"] for step, attempt in rows)
    twice = sum(count - 1 for count in Counter(step for step, _ in rows).values())
    return Death(point, resumed, repeated, twice - repeated)


async def _dead(nodes: Field, job: Job, victim: str) -> float | None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if not nodes.alive(victim):
            return time.monotonic()
        if (await job.get()).done:
            return None
        await asyncio.sleep(0.02)
    return None


async def _resumed(job: Job, died: float) -> float:
    """Seconds until another attempt ran."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        info = await job.get()
        if info.done or (info.attempt > 1 and info.state == "RUNNING"):
            break
        await asyncio.sleep(0.02)
    return time.monotonic() - died


def _conclude(report: Report, deaths: list[Death], factor: float) -> None:
    repeated = sum(death.repeated for death in deaths)
    most = max((death.in_the_air for death in deaths), default=0)
    times = sorted(death.resumed_s for death in deaths)
    p95 = times[int(0.95 * (len(times) - 1))] if times else 0.0
    report.figures |= {"deaths": len(deaths), "points": len({death.point for death in deaths})}
    report.figures |= {"repeated_steps": repeated, "in_the_air_max": most, "resumed_p95_s": round(p95, 2)}
    report.demand(repeated == 0, f"{repeated} completed steps ran again")
    report.demand(most <= 1, f"after one kill {most} steps that were not completed ran twice")
    report.demand(p95 <= RESUMED_P95_S * factor, f"resumed elsewhere after {p95:.1f} s (p95)")
    report.text = (
        f"{len(deaths)} kills of workers at {report.figures['points']} points; completed steps that ran "
        f"again {repeated}, others that ran twice at most {most} a kill; resumed elsewhere after "
        f"{spread(times)}, p95 {p95:.1f} s"
    )


BAR = Bar(5, "kill -9 of the worker at each point", run, needs.SHIM, limit_s=3_000)
