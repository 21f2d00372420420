"""What clients asked under faults and were told: judged by the checker that judges the simulated runs."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from coterie.client import Cluster, CoterieError
from coterie.client.record import HistoryFile
from tests.chaos.field import Field
from tests.chaos.load import STEP_MS, STEPS, Record
from tests.chaos.report import Report
from tests.checker import check
from tests.checker.files import load
from tests.checker.history import Kind

NAME = "history.jsonl"
READERS = 3
READ_S, READ_PAUSE_S = 3.0, 0.03  # patience for an answer; between two reads of one reader
YOUNG = 12  # reads are mostly of tasks about which something may still change
CANCEL_EVERY_S = 0.7
LAST_LOOKS_MAX, AT_ONCE = 1_000, 32


@contextlib.asynccontextmanager
async def recorded(field: Field, base_dir: Path) -> AsyncIterator[Cluster]:
    """A client of the whole cluster whose calls are written down in `base_dir`."""
    with HistoryFile(base_dir / NAME) as recorder:
        client = field.client()
        client.recorder = recorder
        async with client:
            yield client


class Onlookers:
    """`async with Onlookers(client, record, dice, base_dir):` reads tasks of a load while it runs, and makes
    further tasks of steps only to cancel them. Reads are linearizable."""

    def __init__(self, client: Cluster, record: Record, dice: random.Random, base_dir: Path) -> None:
        self._client, self._record, self._dice = client, record, dice
        self._witness = base_dir / "unwanted"
        self._loops: list[asyncio.Task[None]] = []
        self.unwanted: list[str] = []

    async def __aenter__(self) -> Onlookers:
        doing: list[Coroutine[Any, Any, None]] = [self._cancels(), *(self._reads() for _ in range(READERS))]
        self._loops = [asyncio.create_task(loop, name="onlooker") for loop in doing]
        return self

    async def __aexit__(self, *error: object) -> None:
        for loop in self._loops:
            loop.cancel()
        for end in await asyncio.gather(*self._loops, return_exceptions=True):
            if isinstance(end, Exception):
                raise end

    async def _reads(self) -> None:
        while True:
            acked = [ack.task_id for ack in self._record.acks[-YOUNG:]]
            young = acked + self._record.stepped[-YOUNG:] + self.unwanted[-YOUNG:]
            if young:
                with contextlib.suppress(CoterieError):
                    await self._client.job(self._dice.choice(young)).get(timeout=READ_S)
            await asyncio.sleep(READ_PAUSE_S)

    async def _cancels(self) -> None:
        payload = {"witness": str(self._witness), "steps": STEPS, "step_ms": STEP_MS}
        while True:
            with contextlib.suppress(CoterieError):
                job = await self._client.submit_task(type="steps", payload=payload)
                self.unwanted.append(job.id)
                await asyncio.sleep(self._dice.uniform(0.0, 0.6))
                await job.cancel()
            await asyncio.sleep(CANCEL_EVERY_S)

    async def last_looks(self) -> None:
        """When everything has ended: how, is part of the history."""
        acked = [ack.task_id for ack in self._record.acks]
        some = self._dice.sample(acked, min(LAST_LOOKS_MAX, len(acked)))
        gate = asyncio.Semaphore(AT_ONCE)

        async def look(task_id: str) -> None:
            async with gate:
                await self._client.job(task_id).get()

        await asyncio.gather(*map(look, {*some, *self._record.stepped, *self.unwanted}))


def judge_history(base_dir: Path, report: Report, *, reads_min: int) -> None:
    """After the client is closed: every answer must fit into one order of the calls on its task."""
    history = load([base_dir / NAME])
    reads = sum(call.kind is Kind.READ and call.answer is not None for call in history.calls)
    cancels = sum(call.kind is Kind.CANCEL for call in history.calls)
    verdict = check.judge(history)
    report.violations += [f"history: {fault}" for fault in verdict.faults]
    report.demand(verdict.undecided == 0, f"{verdict.undecided} histories of tasks could not be decided")
    report.figures["history"] = {
        "calls": len(history.calls),
        "tasks": verdict.tasks,
        "reads": reads,
        "cancels": cancels,
        "unanswered": sum(call.answer is None for call in history.calls),
    }
    report.require("reads judged", reads, reads_min)


def told(report: Report) -> str:
    """For the line of a bar."""
    history = report.figures["history"]
    return (
        f"{history['calls']:,} calls on {history['tasks']:,} tasks fit an order ({history['reads']:,} reads)"
    )
