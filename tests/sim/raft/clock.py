"""The clocks of a simulated node."""

from __future__ import annotations

from collections.abc import Callable


class NodeClock:
    """Virtual time with an origin of its own, and a wall clock that is wrong and jumps."""

    def __init__(self, now_us: Callable[[], int], offset_us: int, wall_ms: int) -> None:
        self._now_us, self._offset_us, self.wall_offset_ms = now_us, offset_us, wall_ms

    def monotonic(self) -> float:
        return (self._now_us() + self._offset_us) / 1_000_000

    def wall_ms(self) -> int:
        return max(0, 1_700_000_000_000 + self._now_us() // 1_000 + self.wall_offset_ms)
