"""A tiny write every 50 ms: how long the cluster did not acknowledge writes after a kill."""

from __future__ import annotations

import asyncio
import time

from coterie.client import Cluster, CoterieError
from coterie.node.demo.journal import Journal, Kill

PERIOD_S = 0.05
OPEN_MAX = 200
PROBE_TYPE = "echo"


class Probe:
    """Submits `echo` tasks without waiting for the one before, so that the first to get through is seen."""

    def __init__(self, cluster: Cluster, journal: Journal, labels: dict[str, str]) -> None:
        self._cluster = cluster
        self._journal = journal
        self._labels = labels
        self._stopping = asyncio.Event()
        self._open = 0

    async def run(self) -> None:
        """Submit until `stop`, then return when every submit has been answered."""
        async with asyncio.TaskGroup() as group:
            while not self._stopping.is_set():
                if self._open < OPEN_MAX:
                    group.create_task(self._submit())
                try:
                    await asyncio.wait_for(self._stopping.wait(), PERIOD_S)
                except TimeoutError:
                    continue

    def stop(self) -> None:
        """Start no further submits."""
        self._stopping.set()

    async def _submit(self) -> None:
        begun = time.monotonic()
        self._open += 1
        try:
            job = await self._cluster.submit_task(type=PROBE_TYPE, payload={}, labels=self._labels)
        except CoterieError as error:
            self._journal.say(f"a probe was not acknowledged: {error}")
            return
        finally:
            self._open -= 1
        self._journal.probes[job.id] = (begun, time.monotonic())


def write_gap_s(kill: Kill, probes: list[tuple[float, float]]) -> float | None:
    """Seconds from a kill to the first acknowledgement of a write that began after it; None: there was none.

    A write that began before may have been committed before, so its late answer would prove nothing.
    """
    answered = [acked for begun, acked in probes if begun >= kill.at]
    return min(answered) - kill.at if answered else None
