"""A rolling restart under load: drain, stop, start again, the next node. Nothing is lost or times out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from coterie.node.demo.crowd import collect_all, prove, submit_all
from coterie.node.demo.proof import Check
from coterie.node.demo.stage import PATIENT, Scene, Stage

TASKS = 150
TASK = {"type": "sleep", "payload": {"seconds": 2.0, "steps": 8}}
EMPTY_MAX_S = 60.0
STOP_MAX_S = 30.0
BACK_MAX_S = 60.0
POLL_S = 0.1


async def play(stage: Stage) -> Sequence[Check]:
    """Each node in turn, while the tasks run."""
    stage.journal.total = TASKS
    stage.journal.phase = "rolling"
    jobs = await submit_all(stage.cluster, stage.journal, [TASK] * TASKS)
    held: dict[str, int] = {}
    exits: dict[str, int] = {}
    async with asyncio.TaskGroup() as group:
        group.create_task(collect_all(stage.journal, jobs))
        for node_id in stage.nodes.node_ids:
            held[node_id], exits[node_id] = await _restart(stage, node_id)
    histories, checks = await prove(stage.cluster, stage.journal)
    busy = sum(held.values())
    unclean = {node_id: code for node_id, code in exits.items() if code != 0}
    tasks = [await stage.cluster.job(history.task_id).get() for history in histories]
    losses = sum(task.losses for task in tasks)
    return [
        *checks,
        Check("tasks on a node when it was stopped", f"{busy}", busy == 0, "ListNodes before SIGTERM"),
        Check("attempts that ended with their node", f"{losses}", losses == 0, "`losses` of each task"),
        Check("nodes that did not stop cleanly", f"{len(unclean)}", not unclean, f"exit codes {exits}"),
    ]


async def _restart(stage: Stage, node_id: str) -> tuple[int, int]:
    """How many tasks it still held when it was stopped, and its exit code."""
    stage.say(f"drain {node_id}")
    began = time.monotonic()
    await stage.cluster.drain_node(node_id)
    held = await _until_empty(stage, node_id)
    stage.say(f"{node_id} is empty after {time.monotonic() - began:.1f} s; SIGTERM")
    code = await asyncio.to_thread(stage.nodes.terminate_node, node_id, STOP_MAX_S)
    stage.nodes.start_node(node_id)
    await stage.cluster.undrain_node(node_id)
    await _until_active(stage, node_id)
    stage.say(f"{node_id} is back after {time.monotonic() - began:.1f} s")
    return held, code


async def _until_empty(stage: Stage, node_id: str) -> int:
    deadline = time.monotonic() + EMPTY_MAX_S
    while True:
        held = next(node.running for node in await stage.cluster.list_nodes() if node.id == node_id)
        if held == 0 or time.monotonic() > deadline:
            return held
        await asyncio.sleep(POLL_S)


async def _until_active(stage: Stage, node_id: str) -> None:
    async with asyncio.timeout(BACK_MAX_S):
        while True:
            nodes = await stage.cluster.list_nodes()
            if any(node.id == node_id and node.state == "ACTIVE" for node in nodes):
                return
            await asyncio.sleep(POLL_S)


SCENE = Scene(
    title="A rolling restart under load: each node is drained, stopped and started again.",
    play=play,
    options=PATIENT,
)
