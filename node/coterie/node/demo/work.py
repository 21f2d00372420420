"""Submitting the documents and collecting what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

from coterie.client import Cluster, Job, TaskError
from coterie.node.demo.documents import Document
from coterie.node.demo.journal import Journal

MAP_TYPE, REDUCE_TYPE = "document-map", "document-reduce"
# Submitting goes on while nodes die: only so many are open at once, the others follow.
OPEN_MAX = 300
BATCH = 50
REDUCE_TIMEOUT = "90s"


def batches(documents: Sequence[Document], size: int) -> Iterator[Sequence[Document]]:
    """Slices of at most `size`."""
    for start in range(0, len(documents), size):
        yield documents[start : start + size]


async def map_documents(
    cluster: Cluster, journal: Journal, documents: Sequence[Document], witness: str, labels: dict[str, str]
) -> None:
    """Submit every document and wait for all results. Failed tasks are noted, not raised."""
    journal.map_started_at = time.monotonic()
    async with asyncio.TaskGroup() as waits:
        for batch in batches(documents, BATCH):
            await journal.until_open_below(OPEN_MAX)
            entries = [
                {
                    "type": MAP_TYPE,
                    "payload": {"path": document.path, "text": document.text, "witness": witness},
                    "labels": labels,
                }
                for document in batch
            ]
            for job, document in zip(await cluster.submit_tasks(entries), batch, strict=True):
                journal.acked[job.id] = document.path
                waits.create_task(_collect(job, journal))
    journal.map_s = time.monotonic() - journal.map_started_at


async def reduce_documents(cluster: Cluster, journal: Journal, title: str) -> dict[str, Any]:
    """Merge all results into the report. Raises TaskError when the task fails."""
    started = time.monotonic()
    failed = sorted(f"{journal.acked[task_id]}: {why}" for task_id, why in journal.failures.items())
    payload = {"documents": list(journal.results.values()), "title": title, "failed": failed}
    job = await cluster.submit_task(
        type=REDUCE_TYPE,
        payload=payload,
        timeout=REDUCE_TIMEOUT,
        on_progress=lambda progress: journal.say(f"reduce {progress.percent:.0f} %: {progress.message}"),
    )
    journal.reduce_task = job.id
    result: dict[str, Any] = await job.wait(timeout=REDUCE_TIMEOUT)
    journal.reduce_s = time.monotonic() - started
    return result


async def _collect(job: Job, journal: Journal) -> None:
    try:
        journal.finish(job.id, await job.wait())
    except TaskError as error:
        journal.finish(job.id, failure=str(error))
        journal.say(f"{journal.acked[job.id]} failed: {error}")
