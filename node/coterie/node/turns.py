"""Long work on the event loop, done in slices."""

from __future__ import annotations

import asyncio
from time import monotonic

SLICE_S = 0.003  # of work without a turn for the node's other duties


class Turns:
    """Taken often; gives the loop a turn when a slice is over."""

    def __init__(self) -> None:
        self._until = monotonic() + SLICE_S

    async def take(self) -> None:
        if monotonic() > self._until:
            await asyncio.sleep(0)
            self._until = monotonic() + SLICE_S
