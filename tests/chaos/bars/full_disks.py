"""Bar 12: the disk of one node is full, then that of the leader, then all; and then there is room again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coterie.client import Cluster, CoterieError, Job, ResourceExhausted
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field, others
from tests.chaos.load import Load, Record
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report, spread
from tests.chaos.tools import needs
from tests.chaos.tools.disks import Tmpfs
from tests.chaos.tools.machine import is_busy, patience
from tests.chaos.verdict import judge, judge_journals

SIZE_MB = 96
AGAIN_S = 5.0  # from room on the disk to the next acknowledgement
REFUSED_S = 20.0  # for the nodes to notice that their disks are full
STEPS, STEP_MS = 30, 100


@dataclass(slots=True)
class Scene:
    """What the parts of the bar work with."""

    field: Field
    disks: dict[str, Tmpfs]
    lookout: Lookout
    client: Cluster
    record: Record
    report: Report
    witness: Path

    def fill(self, node_ids: Iterable[str]) -> None:
        for node_id in node_ids:
            self.disks[node_id].fill()

    async def again(self) -> float:
        """Make room everywhere. Returns how long it took until a task was acknowledged."""
        began = time.monotonic()
        for disk in self.disks.values():
            disk.free()
        first = await self.record.next_ack(began, READY_S)
        self.report.demand(first is not None, "no task was taken although there was room again")
        return READY_S if first is None else first - began


async def run(setting: Setting, report: Report) -> None:
    """Fill, look, make room; nobody may die or be started again on the way."""
    rounds, acked = (5, 300) if setting.full else (1, 60)
    field = Field(setting.base_dir)
    disks = {node_id: Tmpfs(field.data_dir(node_id), SIZE_MB) for node_id in field.node_ids}
    witness = setting.base_dir / "witness"
    with field:
        await field.wait_ready(READY_S)
        async with Lookout(field) as lookout, field.client() as client:
            async with Load(client, witness, submitters=4) as record:
                scene = Scene(field, disks, lookout, client, record, report, witness)
                seconds = [await _round(scene) for _ in range(rounds)]
                well = time.monotonic()
            died = [node_id for node_id in field.node_ids if not field.alive(node_id)]
            report.figures["died"] = len(died)
            report.demand(not died, f"full disks ended {', '.join(died)}")
            await judge(field, record, witness, report, since=well)
        field.stop()
        judge_journals(field, report)
    _conclude(report, seconds)
    report.require("acked", len(record.acks), acked)
    report.require("rounds", len(seconds), rounds)


async def _round(scene: Scene) -> float:
    """One node, the leader, everybody. Returns how long it took until work was taken again."""
    leader = await scene.lookout.known_leader()
    for victim in (others(scene.field, leader)[0], leader):
        began = time.monotonic()
        scene.fill([victim])
        went_on = await scene.record.next_ack(began + 1.0, 10.0)
        scene.report.demand(went_on is not None, f"with one full disk ({victim}) no task was taken")
        await scene.again()
    running = await scene.client.submit_task(
        type="steps", payload={"witness": str(scene.witness), "steps": STEPS, "step_ms": STEP_MS}
    )
    scene.fill(scene.field.node_ids)
    await _refused(scene)
    await _goes_on(scene, running)
    return await scene.again()


async def _refused(scene: Scene) -> None:
    """New work is turned away with a word that says why."""
    deadline = time.monotonic() + REFUSED_S
    while time.monotonic() < deadline:
        try:
            await scene.client.submit_task(type="echo", payload="full")
        except ResourceExhausted as error:
            scene.report.figures["refusal"] = str(error)
            scene.report.demand(bool(error.retry_after), "a refusal named no time to come back")
            return
        except CoterieError as error:
            scene.report.violations.append(f"a full disk answered {type(error).__name__}: {error}")
            return
        await asyncio.sleep(0.05)
    scene.report.violations.append(f"tasks were taken for {REFUSED_S:g} s with every disk full")


async def _goes_on(scene: Scene, running: Job) -> None:
    """Reads are answered, and what runs comes to its end."""
    try:
        await scene.client.get_status(timeout=10)
        await running.wait(timeout=60)
        steps = (await running.get(include_steps=True)).step_count
    except CoterieError as error:
        scene.report.violations.append(f"on full disks a running task or a read failed: {error}")
        return
    scene.report.demand(steps == STEPS, f"a task that ran on full disks has {steps} steps, not {STEPS}")


def _conclude(report: Report, seconds: list[float]) -> None:
    limit = AGAIN_S * patience(is_busy())
    report.figures["again_s"] = [round(one, 2) for one in seconds]
    slow = [one for one in seconds if one > limit]
    report.demand(not slow, f"work was taken again only after {max(seconds):.1f} s, not within {limit:g}")
    figures = report.figures
    report.text = (
        f"{len(seconds)} rounds (a follower, the leader, all 5 nodes full): refused with "
        f"{figures.get('refusal', 'nothing')[:40]!r}, running tasks ended, again after {spread(seconds)}; "
        f"acked {figures['acked']:,}, lost {figures['lost']}, nodes that died {figures['died']}"
    )


BAR = Bar(12, "full disks", run, (*needs.DISKS,))
