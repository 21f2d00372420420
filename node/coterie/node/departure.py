"""When an attempt that is to leave its node goes: after a completed step, and with nothing in the air that is
paid for or cannot be taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

OUTWARD = frozenset(
    {"llm.call", "mcp.call"}
)  # cut off, they would be in doubt: paid again, or put to a person


class Departure:
    """Of one attempt. `go` ends it; it may be called more than once."""

    def __init__(self, go: Callable[[], None]) -> None:
        self._go = go
        self.asked = False
        self._due = False  # a step was completed since
        self._in_air = 0
        self._may_call = asyncio.Event()
        self._may_call.set()

    def ask(self) -> None:
        """It is to leave."""
        self.asked = True

    def call_off(self) -> None:
        """It may stay."""
        self.asked = self._due = False
        self._may_call.set()

    def step_done(self) -> None:
        """A step, or a checkpoint, is recorded."""
        if self.asked:
            self._due = True
            self._may_call.clear()  # else one call after the other could keep it here
            self._look()

    @asynccontextmanager
    async def calling(self, name: str) -> AsyncIterator[None]:
        """Within, a call of the skill is made."""
        if name not in OUTWARD:
            yield
            return
        await self._may_call.wait()
        self._in_air += 1
        try:
            yield
        finally:
            self._in_air -= 1
            self._look()

    def _look(self) -> None:
        if self._due and not self._in_air:
            asyncio.get_running_loop().call_soon(self._leave)

    def _leave(self) -> None:
        if self._due and not self._in_air:  # it was not called off meanwhile
            self._go()
