"""What the demo saw, as it happens: shared by those who act, the view that shows it, and the judge."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coterie.client.models import Status

LINES_KEPT = 200


@dataclass(slots=True)
class Kill:
    """One kill -9. `at`: monotonic seconds; `wall`: seconds since the epoch, to compare with event times."""

    node_id: str
    role: str
    at: float
    wall: float
    done: int
    running: int
    gap_s: float | None = None
    back_s: float | None = None
    resumed: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Journal:
    """Everything observed in one run."""

    total: int
    unit: str = "documents"
    started_at: float = field(default_factory=time.monotonic)
    acked: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    probes: dict[str, tuple[float, float]] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)
    lines: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    status: Status | None = None
    processes: Mapping[str, str] = field(default_factory=dict)
    phase: str = "starting"
    map_started_at: float = 0.0
    map_s: float = 0.0
    reduce_s: float = 0.0
    reduce_task: str = ""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def done(self) -> int:
        """Documents whose task is finished, one way or the other."""
        return len(self.results) + len(self.failures)

    @property
    def rate(self) -> float:
        """Finished documents a second since the first was submitted."""
        seconds = self.map_s or time.monotonic() - self.map_started_at
        return self.done / seconds if self.map_started_at and seconds > 0 else 0.0

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_at

    def say(self, text: str) -> None:
        """Add a line to the event log."""
        self.lines.append((self.elapsed(), text))

    def finish(self, task_id: str, result: Any = None, failure: str = "") -> None:
        """Note how a document's task ended, and wake who waits for progress."""
        if failure:
            self.failures[task_id] = failure
        else:
            self.results[task_id] = result
        self._changed.set()

    async def until_done(self, count: int) -> None:
        """Return when at least `count` documents are finished."""
        while self.done < count:
            await self._next_change()

    async def until_open_below(self, count: int) -> None:
        """Return when fewer than `count` submitted documents are unfinished."""
        while len(self.acked) - self.done >= count:
            await self._next_change()

    async def _next_change(self) -> None:
        # Several may wait: whoever finds the event set clears it, and a change made meanwhile sets it again.
        self._changed.clear()
        await self._changed.wait()
