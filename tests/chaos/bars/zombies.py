"""Bar 6: a worker is stopped for longer than its lease and wakes up when its task is somebody else's."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from coterie.client import Cluster, Job, TaskInfo
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field, others
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report, spread
from tests.chaos.tools.family import freeze, thaw
from tests.chaos.tools.machine import is_busy, patience

STEPS, STEP_MS = 40, 100
STOPPED_S = 4.0  # more than three times the lease of a local cluster
STOPS_S = 1.0  # after its waking a zombie's handler has ended
PATIENCE_S = 60.0


@dataclass(slots=True)
class Zombie:
    """One that woke up. late: lines its handler wrote although it should have ended."""

    moved_s: float
    late: int
    accepted: int  # completed steps that the old attempt reported after the new one began
    repeated: int


async def run(setting: Setting, report: Report) -> None:
    """The node's process alone, or all that came of it; the leader's too."""
    rounds = 50 if setting.full else 4
    witness = setting.base_dir / "witness"
    found: list[Zombie] = []
    kinds: Counter[str] = Counter()
    with Field(setting.base_dir, nodes=3) as field:
        await field.wait_ready(READY_S)
        async with Lookout(field) as lookout, field.client() as client:
            busy = is_busy()
            for number in range(rounds):
                leader = await lookout.known_leader()
                victim = leader if number % 4 == 3 else others(field, leader)[number % 2]
                whole = number % 2 == 0
                kinds[
                    ("all processes" if whole else "node") + (" of the leader" if victim == leader else "")
                ] += 1
                found.append(await _round(field, client, victim, witness, whole))
                await field.wait_ready(READY_S)
    _conclude(report, found, kinds, patience(busy))
    report.require("zombies", len(found), rounds)


async def _round(field: Field, client: Cluster, victim: str, witness: Path, whole: bool) -> Zombie:
    job = await running_on(client, victim, witness, STEPS, STEP_MS)
    pid, began = field.pid(victim), time.monotonic()
    if whole:
        stopped = freeze(pid)
    else:
        stopped = [pid]
        field.pause_node(victim)
    async with field.client(*others(field, victim)) as rest:
        elsewhere = await _elsewhere(rest.job(job.id), victim)
        moved = time.monotonic() - began
        steps_before = {step.name for step in elsewhere.steps if step.attempt == 1}
        await asyncio.sleep(max(0.0, began + STOPPED_S - time.monotonic()))
        thaw(stopped)
        await asyncio.sleep(STOPS_S)
        at = len(lines_of(witness, job.id))
        await rest.job(job.id).wait(timeout=PATIENCE_S)
        info = await rest.job(job.id).get(include_steps=True)
    rows = lines_of(witness, job.id)
    late = sum(attempt == 1 for _, attempt in rows[at:])
    of_old = {step.name for step in info.steps if step.attempt == 1}
    completed = {step.name: step.attempt for step in info.steps}
    repeated = sum(attempt > completed[f"step-{step}"] for step, attempt in rows)
    return Zombie(moved, late, len(of_old - steps_before), repeated)


async def running_on(client: Cluster, node_id: str, witness: Path, steps: int, step_ms: int) -> Job:
    """A task that runs there, has completed a step, and could run anywhere."""
    payload = {"witness": str(witness), "steps": steps, "step_ms": step_ms}
    wish = {"prefer_node": node_id}
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        job = await client.submit_task(type="steps", payload=payload, constraints=wish)
        info = await job.get()
        while info.step_count < 2 and not info.done:
            await asyncio.sleep(0.02)
            info = await job.get()
        if info.node == node_id and not info.done:
            return job
        await job.cancel()
    raise TimeoutError(f"no task ran on {node_id}")


async def _elsewhere(job: Job, victim: str) -> TaskInfo:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        info = await job.get(include_steps=True)
        if info.attempt > 1 and info.state == "RUNNING" and info.node != victim:
            return info
        await asyncio.sleep(0.05)
    raise TimeoutError(f"{job.id} did not go on elsewhere")


def lines_of(witness: Path, task_id: str) -> list[tuple[str, int]]:
    """(step, attempt) of everything its handlers did, in order."""
    rows = [line.split() for line in witness.read_text().splitlines()]
    return [(row[1], int(row[2])) for row in rows if row[0] == task_id]


def _conclude(report: Report, found: list[Zombie], kinds: Counter[str], factor: float) -> None:
    late, accepted = sum(one.late for one in found), sum(one.accepted for one in found)
    repeated = sum(one.repeated for one in found)
    moved = [one.moved_s for one in found]
    report.figures |= {"kinds": dict(kinds), "moved_s": [round(seconds, 2) for seconds in moved]}
    report.figures |= {"late": late, "accepted": accepted, "repeated_steps": repeated}
    report.demand(accepted == 0, f"{accepted} reports of deposed attempts were accepted")
    report.demand(repeated == 0, f"{repeated} completed steps ran again")
    report.demand(late == 0, f"{late} steps were begun by zombies {STOPS_S:g} s after they woke up")
    quick = max(moved, default=0.0) <= 5.0 * factor
    report.demand(quick, f"tasks went on elsewhere after {spread(moved)}")
    report.text = (
        f"{len(found)} workers stopped for {STOPPED_S:g} s and woken up; their tasks went on elsewhere after "
        f"{spread(moved)}; reports of theirs accepted {accepted}, completed steps run again {repeated}, "
        f"steps begun {STOPS_S:g} s after waking {late}"
    )


BAR = Bar(6, "zombies", run, ())
