"""Many tasks at once for a scene, and what is known of them afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from coterie.client import Cluster, Job, TaskError
from coterie.node.demo.evidence import History, read_histories
from coterie.node.demo.journal import Journal
from coterie.node.demo.proof import Check

BATCH = 100


async def submit_all(cluster: Cluster, journal: Journal, entries: Sequence[Mapping[str, Any]]) -> list[Job]:
    """Submit them (see Cluster.submit_tasks) and count them as acknowledged."""
    jobs: list[Job] = []
    for start in range(0, len(entries), BATCH):
        jobs += await cluster.submit_tasks(list(entries[start : start + BATCH]))
        journal.acked |= {job.id: job.id for job in jobs[start:]}
    return jobs


async def collect_all(journal: Journal, jobs: Sequence[Job]) -> None:
    """Wait for all of them; each end is noted in the journal, failures too."""

    async def collect(job: Job) -> None:
        try:
            journal.finish(job.id, await job.wait())
        except TaskError as error:
            journal.finish(job.id, failure=str(error))
            journal.say(f"{job.id} failed: {error}")

    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(collect(job))


async def prove(cluster: Cluster, journal: Journal) -> tuple[list[History], list[Check]]:
    """The histories of all that was acknowledged, and the promises that hold for any crowd."""
    histories = await read_histories(cluster, journal.acked)
    return histories, [*ended_once(journal, histories), steps_once(histories)]


def ended_once(journal: Journal, histories: Sequence[History]) -> list[Check]:
    """Every acknowledged task succeeded, and ended once."""
    states = Counter(history.state for history in histories)
    succeeded = states["SUCCEEDED"]
    acked = len(journal.acked)
    ends = sum(1 for history in histories if history.terminal_events != 1)
    return [
        Check(
            "acknowledged tasks that did not succeed",
            f"{acked - succeeded}",
            acked == succeeded,
            f"of {acked} read back",
        ),
        Check("tasks that did not end exactly once", f"{ends}", ends == 0, "terminal events in each history"),
    ]


def steps_once(histories: Sequence[History]) -> Check:
    """No step was completed by two attempts."""
    twice = sum(
        count - 1
        for history in histories
        for count in Counter(name for name, _ in history.completions).values()
        if count > 1
    )
    steps = sum(len(history.completions) for history in histories)
    return Check("steps completed more than once", f"{twice}", twice == 0, f"of {steps} in the histories")
