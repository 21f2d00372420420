"""The clocks and the dice of a node: the only place that asks the world for them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable


class Clock:
    """Real time. Tests and simulations pass another object of this shape."""

    def now_ms(self) -> int:
        """Wall clock, ms since the epoch: data only, never a basis of decisions."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds; the basis of leases and failure detection."""
        return time.monotonic()

    def dice(self) -> int:
        """Uniform in 0..2**32-1."""
        return secrets.randbits(32)

    def new_id(self) -> str:
        """A time-ordered unique id (the layout of UUIDv7, RFC 9562 section 5.7), 32 hex digits."""
        stamp = self.now_ms() & ((1 << 48) - 1)
        rest = secrets.randbits(74)
        value = (stamp << 80) | (0x7 << 76) | ((rest >> 62) << 64) | (0b10 << 62) | (rest & ((1 << 62) - 1))
        return f"{value:032x}"


class LogTime:
    """The time of the log as this node can tell it: the wall clock, but never behind the newest entry, and it
    never stands still. After a clock was set back - this one, or that of the last leader, which stamped the
    entries - retries and delayed tasks would else wait until it has caught up."""

    def __init__(self, clock: Clock, newest_ms: Callable[[], int]) -> None:
        """`newest_ms`: the time of the newest entry applied here."""
        self._clock, self._newest_ms = clock, newest_ms
        self._base_ms, self._base_at = 0, clock.monotonic()

    def now_ms(self) -> int:
        """Ms since the epoch."""
        newest, now = self._newest_ms(), self._clock.monotonic()
        if newest != self._base_ms:
            self._base_ms, self._base_at = newest, now
        return max(self._clock.now_ms(), self._base_ms + int((now - self._base_at) * 1000))
