"""Work stays in the zone it prefers; when that zone dies it goes elsewhere, and comes back with it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from coterie.client import Job
from coterie.node.demo.crowd import collect_all, prove, submit_all
from coterie.node.demo.proof import Check
from coterie.node.demo.stage import PATIENT, Scene, Stage

ZONES = {"node-1": "a", "node-2": "a", "node-3": "b", "node-4": "b", "node-5": "c"}
DEAD_ZONE = "b"
WAVE = 45
# A preference is weighed against waiting: a home that is crowded, or half as slow again as the others, gives
# work away. So few tasks are on their way at a time, each long beside what a busy machine adds to it, and
# some may go elsewhere; by chance a third would be at home.
AT_ONCE = 9
TASK = {"seconds": 0.8, "steps": 2}
AT_HOME_MIN = 0.6
BACK_MAX_S = 40.0
POLL_S = 0.2


async def play(stage: Stage) -> Sequence[Check]:
    """Three waves of work that prefers its zone: before, during and after the loss of one zone."""
    stage.journal.total = 3 * WAVE
    before = await _wave(stage, "before")
    victims = [node_id for node_id, zone in ZONES.items() if zone == DEAD_ZONE]
    for node_id in victims:
        stage.nodes.kill_node(node_id)
    stage.say(f"kill -9 {' and '.join(victims)}: zone {DEAD_ZONE} is dead")
    during = await _wave(stage, "during")
    for node_id in victims:
        stage.nodes.start_node(node_id)
    await _until_all_active(stage)
    stage.say(f"zone {DEAD_ZONE} is back")
    after = await _wave(stage, "after")
    _, checks = await prove(stage.cluster, stage.journal)
    homes = during[DEAD_ZONE].total() - during[DEAD_ZONE][DEAD_ZONE]
    return [
        *checks,
        _at_home("ran in the zone they prefer, before", before),
        Check(f"of zone {DEAD_ZONE}'s tasks ran elsewhere while it was dead", f"{homes} of {WAVE // 3}",
              homes == WAVE // 3, "the node of each task's last attempt"),
        _at_home("ran in the zone they prefer, after its return", after),
    ]  # fmt: skip


async def _wave(stage: Stage, phase: str) -> dict[str, Counter[str]]:
    """By preferred zone: how many tasks ended in which zone."""
    stage.journal.phase = phase
    zones = sorted(set(ZONES.values()))
    wanted = [zones[number % len(zones)] for number in range(WAVE)]
    jobs: list[Job] = []
    for start in range(0, WAVE, AT_ONCE):
        sent = await submit_all(stage.cluster, stage.journal, list(_entries(wanted[start : start + AT_ONCE])))
        await collect_all(stage.journal, sent)
        jobs += sent
    ran: dict[str, Counter[str]] = {zone: Counter() for zone in zones}
    for job, zone in zip(jobs, wanted, strict=True):
        ran[zone][ZONES[(await job.get()).node]] += 1
    stage.say("; ".join(f"{zone}: {_shares(counts)}" for zone, counts in ran.items()))
    return ran


def _entries(wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    for zone in wanted:
        yield {"type": "sleep", "payload": TASK, "constraints": {"prefer_zone": zone}}


def _shares(counts: Counter[str]) -> str:
    return ", ".join(f"{count} ran in {zone}" for zone, count in sorted(counts.items()))


def _at_home(name: str, ran: dict[str, Counter[str]]) -> Check:
    share = sum(counts[zone] for zone, counts in ran.items()) / WAVE
    return Check(name, f"{share:.0%}", share >= AT_HOME_MIN, f"at least {AT_HOME_MIN:.0%} of {WAVE} tasks")


async def _until_all_active(stage: Stage) -> None:
    deadline = time.monotonic() + BACK_MAX_S
    while time.monotonic() < deadline:
        nodes = await stage.cluster.list_nodes()
        if sum(node.state == "ACTIVE" for node in nodes) == len(ZONES):
            return
        await asyncio.sleep(POLL_S)
    stage.say("not every node came back in time")


SCENE = Scene(
    title="Three zones on five nodes; zone b dies and comes back.",
    play=play,
    nodes=len(ZONES),
    capacity=16,
    options={**PATIENT, "cluster": {"nodes": {node_id: {"zone": zone} for node_id, zone in ZONES.items()}}},
)
