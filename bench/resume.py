"""A node dies or stops in the middle of its tasks: how long until they go on elsewhere.

Tasks of 100 ms steps run on all nodes; one node that does not lead gets kill -9 or SIGSTOP. The time runs
until the first event of a new attempt (its start or its next recorded step) is seen by a watcher on a
surviving node; a run's figure is the slowest of that node's tasks."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field

from bench.figures import Aim, Section, WorkNotDone
from bench.nodes import Books, client_of, ready, running
from bench.options import Options, run_alone
from coterie.client import Cluster, Event, Job
from coterie.node.localcluster import LocalCluster

NAME = "resume"
KILL_AIM, STOP_AIM = Aim("<", 1_500), Aim("<", 4_000)
TASKS_PER_NODE = 3
STEPS, STEP_S = 100, 0.1
SETTLED_STEPS = 3
SETTLE_S, RESUME_S, FINISH_S = 30.0, 60.0, 120.0


@dataclass(slots=True)
class Followed:
    """A task and the events that a watcher saw, with the time of each."""

    job: Job
    node: str = ""
    attempt: int = 0
    steps: list[str] = field(default_factory=list)
    resumed_at: float = 0.0
    resumed: asyncio.Event = field(default_factory=asyncio.Event)
    lost_attempt: int = 0

    def note(self, event: Event) -> None:
        """Take in one event, now."""
        if event.type == "step":
            self.steps.append(event.detail)
        if event.type in ("started", "step"):
            self.node, self.attempt = event.node, event.attempt
            if self.lost_attempt and event.attempt > self.lost_attempt and not self.resumed_at:
                self.resumed_at = time.monotonic()
                self.resumed.set()


async def measure(options: Options) -> Section:
    """Both faults, `runs` times each, on one cluster."""
    section = Section(NAME, f"Resume: tasks of a node that is lost, {options.nodes} nodes")
    kills: list[float] = []
    stops: list[float] = []
    affected = 0
    async with running(options) as cluster:
        for _ in range(options.runs):
            for into, strike, heal in (
                (kills, cluster.kill_node, cluster.start_node),
                (stops, cluster.pause_node, cluster.resume_node),
            ):
                took_ms = await _one(cluster, strike, heal)
                into.append(max(took_ms))
                affected += len(took_ms)
    section.add("kill", "kill -9 of a node until its tasks run elsewhere", "ms", kills, KILL_AIM)
    section.add("stop", "SIGSTOP of a node until its tasks run elsewhere", "ms", stops, STOP_AIM)
    section.notes.append(
        f"{affected} tasks lost their node. Every task, theirs and the others, ended once, with all {STEPS} "
        "steps, none of which was recorded twice."
    )
    return section


async def _one(
    cluster: LocalCluster, strike: Callable[[str], None], heal: Callable[[str], object]
) -> list[float]:
    """Times in ms, one for each task of the struck node."""
    leader = await ready(cluster)
    async with AsyncExitStack() as stack:
        # Watchers and books must not depend on the node that is struck: it is chosen before the work begins.
        victim = next(node_id for node_id in cluster.node_ids if node_id != leader)
        others = [node_id for node_id in cluster.node_ids if node_id != victim]
        client = await stack.enter_async_context(client_of(cluster, others))
        books = Books(client)
        await books.open()
        tasks = await _submit(client, TASKS_PER_NODE * len(cluster.node_ids))
        watchers = [asyncio.create_task(_watch(task), name=f"watch-{task.job.id}") for task in tasks]
        try:
            mine = await _settled(tasks, victim)
            for task in mine:
                task.lost_attempt = task.attempt
            struck_at = time.monotonic()
            strike(victim)
            await _all_resumed(mine, victim)
            heal_later = strike == cluster.pause_node
            if not heal_later:
                heal(victim)
            await _finished(tasks)
            if heal_later:
                heal(victim)
            await asyncio.wait_for(asyncio.gather(*watchers), FINISH_S)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
        await ready(cluster)
        await books.close(len(tasks))
        for task in tasks:
            _check_steps(task)
        return [1000 * (task.resumed_at - struck_at) for task in mine]


async def _submit(client: Cluster, count: int) -> list[Followed]:
    payload = {"seconds": STEPS * STEP_S, "steps": STEPS}
    jobs = await client.submit_tasks([{"type": "sleep", "payload": payload}] * count)
    return [Followed(job) for job in jobs]


async def _watch(task: Followed) -> None:
    async with aclosing(task.job.watch()) as events:
        async for event in events:
            task.note(event)


async def _settled(tasks: list[Followed], victim: str) -> list[Followed]:
    """Wait until all tasks run and have recorded some steps. Returns those on the victim."""
    deadline = time.monotonic() + SETTLE_S
    while any(len(task.steps) < SETTLED_STEPS for task in tasks):
        if time.monotonic() > deadline:
            raise WorkNotDone(
                f"not all {len(tasks)} tasks had run {SETTLED_STEPS} steps after {SETTLE_S:g} s"
            )
        await asyncio.sleep(0.02)
    mine = [task for task in tasks if task.node == victim]
    if not mine:
        raise WorkNotDone(f"none of {len(tasks)} tasks was given to {victim}, although it was idle")
    return mine


async def _all_resumed(mine: list[Followed], victim: str) -> None:
    try:
        async with asyncio.timeout(RESUME_S):
            for task in mine:
                await task.resumed.wait()
    except TimeoutError:
        late = [task.job.id for task in mine if not task.resumed_at]
        raise WorkNotDone(f"{late} of {victim} had not resumed after {RESUME_S:g} s") from None


async def _finished(tasks: list[Followed]) -> None:
    results = await asyncio.gather(*(task.job.wait(timeout=FINISH_S) for task in tasks))
    wanted = {"slept_seconds": STEPS * STEP_S, "steps": STEPS}
    if wrong := [result for result in results if result != wanted]:
        raise WorkNotDone(f"{len(wrong)} of {len(results)} tasks answered wrongly, such as {wrong[0]!r}")


def _check_steps(task: Followed) -> None:
    twice = [name for name, count in Counter(task.steps).items() if count > 1]
    if twice or len(task.steps) != STEPS:
        raise WorkNotDone(f"task {task.job.id} recorded {len(task.steps)} of {STEPS} steps, twice: {twice}")


if __name__ == "__main__":
    run_alone(NAME, measure)
