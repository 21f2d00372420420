"""A schedule that ticks each second while leaders are killed, and one that meets a change of the clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from coterie.client import Cluster, TaskInfo
from coterie.client.schedules import Timing
from coterie.node.demo.evidence import read_histories
from coterie.node.demo.journal import Journal
from coterie.node.demo.proof import Check
from coterie.node.demo.stage import Scene, Stage

TICKS = 14
KILL_AFTER = (4, 9)
TICK_MS = 1_000
TICKING, DAILY = "tick", "daily"
POLL_S = 0.2
TICKS_MAX_S = 90.0
DONE_MAX_S = 30.0
BACK_MAX_S = 60.0
# Berlin's clocks went forward on 29 March 2026 at 2:00: half past two did not exist on that day.
SPRING = datetime(2026, 3, 28, tzinfo=UTC)
SPRING_FIRES = ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]


async def play(stage: Stage) -> Sequence[Check]:
    """A tick a second; twice the leader dies; then times of the past are made up for."""
    journal, cluster = stage.journal, stage.cluster
    journal.total, journal.phase = TICKS, "ticking"
    timing = Timing(interval="1s", overlap="allow", misfire="fire-all")
    await cluster.schedules.apply(TICKING, timing, type="echo", payload="tick", labels={"scene": TICKING})
    stage.say("a schedule fires every second")
    for ticks in KILL_AFTER:
        await _until_fired(cluster, journal, ticks)
        await _kill_the_leader(stage)
    await _until_fired(cluster, journal, TICKS)
    info = await cluster.schedules.pause(TICKING, "enough")
    stage.say(f"paused after {info.fired} ticks, {info.missed} missed")
    tasks = await _ended(cluster, TICKING, info.fired)
    return [*await _once_each(stage, tasks, info.fired), *await _over_a_change_of_clocks(stage)]


async def _until_fired(cluster: Cluster, journal: Journal, count: int) -> None:
    async with asyncio.timeout(TICKS_MAX_S):
        while True:
            fired = (await cluster.schedules.get(TICKING)).fired
            for number in range(journal.done, min(fired, TICKS)):
                journal.finish(f"tick {number}")
            if fired >= count:
                return
            await asyncio.sleep(POLL_S)


async def _kill_the_leader(stage: Stage) -> None:
    status = await stage.cluster.get_status()
    stage.nodes.kill_node(status.leader)
    stage.say(f"kill -9 {status.leader}, which leads")
    later = await stage.cluster.get_status()
    stage.say(f"{later.leader} leads (term {later.term})")
    stage.nodes.start_node(status.leader)
    # With the next one dead too there would be no majority.
    await stage.nodes.wait_ready(BACK_MAX_S)


async def _ended(cluster: Cluster, scene: str, count: int) -> list[TaskInfo]:
    """The tasks of a schedule, when all of them have ended, or time is up."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DONE_MAX_S
    while True:
        tasks = [task async for task in cluster.list_tasks(filter=f'labels.scene="{scene}"')]
        done = sum(task.done for task in tasks)
        if done >= count or loop.time() > deadline:
            return tasks
        await asyncio.sleep(POLL_S)


def _nominal_ms(task: TaskInfo) -> int:
    return int(task.labels["coterie.nominal_ms"])


async def _once_each(stage: Stage, tasks: Sequence[TaskInfo], fired: int) -> list[Check]:
    nominal = sorted(_nominal_ms(task) for task in tasks)
    gaps = sum(later - earlier != TICK_MS for earlier, later in pairwise(nominal))
    twice = len(nominal) - len(set(nominal))
    histories = await read_histories(stage.cluster, [task.id for task in tasks])
    good = sum(history.state == "SUCCEEDED" and history.terminal_events == 1 for history in histories)
    late = sorted(
        task.create_time.timestamp() * 1000 - _nominal_ms(task) for task in tasks if task.create_time
    )
    delays = f"half of them within {late[len(late) // 2]:.0f} ms, the latest {late[-1]:.0f} ms late"
    return [
        Check("ticks that fired", f"{len(tasks)}", len(tasks) == fired >= TICKS, delays),
        Check("times that fired twice", f"{twice}", twice == 0, "nominal times of the tasks"),
        Check("times that were left out", f"{gaps}", gaps == 0, "between the first and the last"),
        Check("ticks that succeeded once", f"{good}", good == fired, "state and end in each history"),
    ]


async def _over_a_change_of_clocks(stage: Stage) -> list[Check]:
    """A daily job at half past two, on three days of which the second has no half past two."""
    stage.journal.phase = "backfill"
    cluster = stage.cluster
    timing = Timing(cron="30 2 * * *", time_zone="Europe/Berlin")
    await cluster.schedules.apply(DAILY, timing, type="echo", payload="daily", labels={"scene": DAILY})
    for _ in range(2):  # the same request twice
        jobs = await cluster.schedules.backfill(
            DAILY, SPRING, SPRING + timedelta(days=3), request_id="spring"
        )
    stage.say(f"{len(jobs)} times of the past are run, asked for twice")
    tasks = await _ended(cluster, DAILY, len(jobs))
    times = sorted(datetime.fromtimestamp(_nominal_ms(task) / 1000, UTC) for task in tasks)
    found = [f"{moment:%Y-%m-%dT%H:%M}" for moment in times]
    return [
        Check("daily times made up for, each once", f"{len(found)}", found == SPRING_FIRES, ", ".join(found))
    ]


SCENE = Scene(
    title="A schedule fires each second, once, while leaders die; another meets a change of the clocks.",
    play=play,
    unit="ticks",
)
