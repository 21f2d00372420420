"""What one run logs and prints, on its way to the node's log: within a budget, a few records at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

RECORDS_MAX = 2_000
PER_TURN = 10
"""Writing a record takes a fraction of a millisecond, and the loop has heartbeats to send meanwhile."""
REMARK_CHARS = 1_024
"""Beyond the budget, for what a process says about output that it dropped itself."""


class RecordQueue:
    """Of one run. `emit` gets level and text, in order, never from within `put`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, chars_max: int, emit: Callable[[str, str], None]
    ) -> None:
        self._loop = loop
        self._chars_max = chars_max
        self._chars_left = chars_max + REMARK_CHARS
        self._records_left = RECORDS_MAX
        self._emit = emit
        self._waiting: deque[tuple[str, str]] = deque()
        self._turn: asyncio.Handle | None = None
        self._full = False
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, level: str, text: str) -> None:
        """One record, or the last word about those that are dropped."""
        if self._full:
            return
        self._chars_left -= len(text)
        self._records_left -= 1
        if self._chars_left < 0 or self._records_left < 0:
            self._full = True
            level = "warning"
            text = f"output beyond {self._chars_max} bytes or {RECORDS_MAX} records of this run was dropped"
        self._waiting.append((level, text))
        self._empty.clear()
        if self._turn is None:
            self._turn = self._loop.call_soon(self._let_go)

    async def empty(self) -> None:
        """Return when all has been emitted."""
        await self._empty.wait()

    def _let_go(self) -> None:
        self._turn = None
        for _ in range(min(PER_TURN, len(self._waiting))):
            self._emit(*self._waiting.popleft())
        if self._waiting:
            self._turn = self._loop.call_soon(self._let_go)
        else:
            self._empty.set()
