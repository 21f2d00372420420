"""The clocks and the dice of a node: the only place that asks the world for them."""

from __future__ import annotations

import secrets
import time


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
