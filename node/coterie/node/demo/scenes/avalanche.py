"""One agent of three fails while everybody asks for more, and some requests kill whoever runs them: the other
agents are not overloaded, what is too much is refused at the door, and one failure stays one failure."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coterie.client import CoterieError, Job, QueueFull, TaskError
from coterie.node.demo.crowd import prove
from coterie.node.demo.proof import Check
from coterie.node.demo.stage import PATIENT, Scene, Stage
from coterie.node.localcluster.config import merge

SKILLS = Path(__file__).parents[1] / "skills"
AGENTS = {"node-1": "k8s", "node-2": "k8s", "node-3": "general"}  # and their zones
FIRST = "node-1"
CAPACITY = 4
PENDING_MAX = 24
TASK = {"type": "sleep", "payload": {"seconds": 0.5}, "constraints": {"prefer_zone": "k8s"}}
USUAL_PER_S, RUSH_PER_S = 10.0, 24.0
QUIET_S, RUSH_S, AFTER_S = 3.0, 8.0, 2.0
POISON = 6
BREAKER = "skill:oom"
BREAKER_MAX_S = 30.0
BACK_MAX_S = 60.0
GOODPUT_MIN = 0.7
LOOK_S = 0.1
COLLAPSED_S = 3.0  # an agent that is only slow in the rush comes back by itself


@dataclass(slots=True)
class Rush:
    """Requests that come whether or not earlier ones were answered, and what becomes of them."""

    stage: Stage
    per_s: float = USUAL_PER_S
    refused: int = 0
    unanswered: int = 0
    ended_at: list[float] = field(default_factory=list)
    most_held: Counter[str] = field(default_factory=Counter)
    down_since: dict[str, float] = field(default_factory=dict)
    unwell: set[str] = field(default_factory=set)

    async def ask(self) -> None:
        """For ever; what was asked for is seen to its end when this is cancelled."""
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while self.per_s:
                due += 1 / self.per_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._one())

    async def watch(self) -> None:
        """What the agents hold, and whether they are well, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                nodes = await self.stage.cluster.list_nodes()
            except CoterieError:
                continue  # nobody leads at the moment
            for node in nodes:
                self.most_held[node.id] = max(self.most_held[node.id], node.running)
                self.look(node.id, down=node.state == "DOWN", at=time.monotonic())

    def look(self, node_id: str, *, down: bool, at: float) -> None:
        """Unwell is who was down in every look of some seconds."""
        if not down or node_id == FIRST:
            self.down_since.pop(node_id, None)
        elif at - self.down_since.setdefault(node_id, at) >= COLLAPSED_S:
            self.unwell.add(node_id)

    def rate(self, begin: float, end: float) -> float:
        """Requests served a second."""
        return sum(begin <= at < end for at in self.ended_at) / (end - begin)

    async def _one(self) -> None:
        journal = self.stage.journal
        try:
            job = await self.stage.cluster.submit_task(**TASK)  # type: ignore[arg-type]
        except QueueFull:
            self.refused += 1
            return
        except CoterieError:
            self.unanswered += 1
            return
        journal.acked[job.id] = job.id
        journal.total += 1
        try:
            journal.finish(job.id, await job.wait())
            self.ended_at.append(time.monotonic())
        except TaskError as error:
            journal.finish(job.id, failure=str(error))


async def play(stage: Stage) -> Sequence[Check]:
    """Poison, a failure, a rush, the return; then the proof."""
    rush = Rush(stage)
    watching = asyncio.create_task(rush.watch())
    asking = asyncio.create_task(rush.ask())
    poison = await _poison(stage)
    began = time.monotonic()
    await asyncio.sleep(QUIET_S)
    failed = time.monotonic()
    stage.nodes.kill_node(FIRST)
    stage.say(f"0 s: kill -9 {FIRST}, and everybody asks {RUSH_PER_S / USUAL_PER_S:.1f} times as often")
    rush.per_s, stage.journal.phase = RUSH_PER_S, "rush"
    await asyncio.sleep(RUSH_S)
    calm = time.monotonic()
    stage.say(f"{RUSH_S:.0f} s: the rush is over; {rush.refused} requests were refused, {FIRST} is started")
    rush.per_s, stage.journal.phase = USUAL_PER_S, "after"
    stage.nodes.start_node(FIRST)
    await stage.nodes.wait_ready(BACK_MAX_S)
    await asyncio.sleep(AFTER_S)
    rush.per_s = 0
    await asking
    watching.cancel()
    for job in poison:
        with contextlib.suppress(CoterieError):  # put away already
            await job.cancel()
    usual, during = rush.rate(began, failed), rush.rate(failed + 1.0, calm)
    stage.say(f"served a second: {usual:.1f} before, {during:.1f} with two agents in the rush")
    _, checks = await prove(stage.cluster, stage.journal)
    return [*checks, *_judge(stage, rush, during / min(usual, USUAL_PER_S))]


async def _poison(stage: Stage) -> list[Job]:
    """Requests that kill the process that runs them, until nobody runs them any more."""
    stage.journal.phase = "poison"
    jobs = await stage.cluster.submit_tasks([{"type": "oom", "max_attempts": 50}] * POISON)
    deadline = time.monotonic() + BREAKER_MAX_S
    while time.monotonic() < deadline:
        opened = [one for one in await stage.cluster.breakers.list() if one.key == BREAKER]
        if opened and opened[0].state == "OPEN":
            stage.say(f"the breaker {BREAKER} is open: {opened[0].reason}")
            break
        await asyncio.sleep(LOOK_S)
    return jobs


def _judge(stage: Stage, rush: Rush, share: float) -> list[Check]:
    most = max(rush.most_held.values())
    died = sorted({*stage.nodes.failed_nodes(), *rush.unwell})
    return [
        Check("agents that failed after the first", f"{len(died)}", not died, "processes and ListNodes"),
        Check("tasks on one agent at once, at most", f"{most}", most <= CAPACITY, f"{CAPACITY} slots each"),
        Check("requests refused before they were kept", f"{rush.refused}", rush.refused > 0,
              f"more than {PENDING_MAX} waiting; each was told when to come back"),
        Check("requests without any answer", f"{rush.unanswered}", rush.unanswered == 0, "errors of clients"),
        Check("served a second in the rush, of what it was before", f"{share:.0%}", share >= GOODPUT_MIN,
              f"at least {GOODPUT_MIN:.0%}, with two agents of three"),
    ]  # fmt: skip


SCENE = Scene(
    title="An avalanche that does not happen: an agent fails in a rush, and some requests are deadly.",
    play=play,
    unit="requests",
    nodes=len(AGENTS),
    capacity=CAPACITY,
    options=merge(
        PATIENT,
        {
            "cluster": {"nodes": {node_id: {"zone": zone} for node_id, zone in AGENTS.items()}},
            "distribution": {"taskQueue": {"maxPending": PENDING_MAX}},
            "faultTolerance": {"circuitBreaker": {"failureThreshold": 4, "recoveryTimeout": "60s"}},
            "skills": {"dirs": [str(SKILLS)]},
        },
    ),
)
