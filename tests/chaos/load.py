"""Work for a cluster under faults: short tasks and tasks of steps, with a record of what was acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from coterie.client import Cluster, CoterieError, Job

STEPS = 6
STEP_MS = 80


@dataclass(frozen=True, slots=True)
class Ack:
    """A task the cluster has promised to keep. Times are on the monotonic clock, in seconds."""

    task_id: str
    request_id: str
    asked_at: float
    acked_at: float


@dataclass(slots=True)
class Record:
    """What the submitters saw."""

    acks: list[Ack] = field(default_factory=list)
    stepped: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def acked_between(self, begin: float, end: float) -> int:
        return sum(begin <= ack.acked_at < end for ack in self.acks)

    def first_ack_after(self, moment: float) -> float | None:
        """When the first task was acknowledged that was also asked for after the moment."""
        times = []
        for ack in reversed(self.acks):  # they are in the order of their acknowledgement
            if ack.acked_at < moment:
                break
            if ack.asked_at >= moment:
                times.append(ack.acked_at)
        return min(times, default=None)

    async def next_ack(self, moment: float, timeout_s: float) -> float | None:
        """Wait for that."""
        deadline = time.monotonic() + timeout_s
        while True:
            first = self.first_ack_after(moment)
            if first is not None or time.monotonic() > deadline:
                return first
            await asyncio.sleep(0.02)

    def longest_gap(self, begin: float, end: float) -> float:
        """The longest time without any acknowledgement."""
        times = [begin, *sorted(ack.acked_at for ack in self.acks if begin <= ack.acked_at < end), end]
        return max(after - before for before, after in itertools.pairwise(times))


class Load:
    """`async with Load(client, witness) as record:` submits until the block ends.

    submitters: loops that submit one short task after another, `pause_s` apart; with `to_the_end` each waits
    for the result before it goes on, so that the queue stays short however slow the cluster is.
    steps_every_s: a task of steps that often; 0: none. The steps leave a line each in the file `witness`."""

    def __init__(
        self,
        client: Cluster,
        witness: Path,
        *,
        submitters: int = 6,
        pause_s: float = 0.05,
        steps_every_s: float = 0.5,
        to_the_end: bool = False,
        record: Record | None = None,
    ) -> None:
        self._client, self._witness = client, witness
        self._submitters, self._pause_s, self._steps_every_s = submitters, pause_s, steps_every_s
        self._to_the_end = to_the_end
        self._loops: list[asyncio.Task[None]] = []
        self.record = record or Record()

    async def __aenter__(self) -> Record:
        loops = [self._echo(number) for number in range(self._submitters)]
        if self._steps_every_s:
            loops.append(self._steps())
        self._loops = [asyncio.create_task(loop, name="load") for loop in loops]
        return self.record

    async def __aexit__(self, *error: object) -> None:
        # A submit that is cut off here is one whose outcome nobody was told.
        for loop in self._loops:
            loop.cancel()
        ends = await asyncio.gather(*self._loops, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _echo(self, submitter: int) -> None:
        number = 0
        while True:
            number += 1
            job = await self._submit("echo", [submitter, number])
            if self._to_the_end and job is not None:
                await self._result_of(job)
            await asyncio.sleep(self._pause_s)

    async def _steps(self) -> None:
        while True:
            payload = {"witness": str(self._witness), "steps": STEPS, "step_ms": STEP_MS}
            job = await self._submit("steps", payload)
            if job is not None:
                self.record.stepped.append(job.id)
            await asyncio.sleep(self._steps_every_s)

    async def _result_of(self, job: Job) -> None:
        try:
            await job.wait()
        except CoterieError as error:
            self.record.errors[type(error).__name__] += 1

    async def _submit(self, skill: str, payload: object) -> Job | None:
        asked_at = time.monotonic()
        try:
            job = await self._client.submit_task(type=skill, payload=payload)
        except CoterieError as error:
            self.record.errors[type(error).__name__] += 1
            await asyncio.sleep(0.1)
            return None
        self.record.acks.append(Ack(job.id, job.request_id, asked_at, time.monotonic()))
        return job
