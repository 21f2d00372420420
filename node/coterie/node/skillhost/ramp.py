"""How many of the runs that wait begin at once: few, and more the longer these take.

Short runs that come in a heap are quicker one after the other in the few processes whose memory is warm than
all at once, each in a process of its own, when the machine has two processors. Long ones are not: so nobody
waits longer than some ticks (as TCP begins a connection: RFC 5681, section 3.1)."""

from __future__ import annotations

import os

TICK_S = 0.002  # a run that takes longer is not short
FIRST = max(4, 2 * (os.cpu_count() or 1))
ALLOWED_MAX = 4_096


class Ramp:
    """Knows the runs that began a moment ago, by number; times are of one monotonic clock, in seconds."""

    def __init__(self, first: int = FIRST) -> None:
        self._first = self._allowed = first
        self._fresh: dict[int, float] = {}  # when they began, the oldest first

    def may_begin(self, now: float) -> bool:
        """Whether one more may."""
        if next(iter(self._fresh.values()), now) <= now - TICK_S:
            self._fresh = {number: began for number, began in self._fresh.items() if began > now - TICK_S}
            self._allowed = min(2 * self._allowed, ALLOWED_MAX)
        return len(self._fresh) < self._allowed

    def begun(self, number: int, now: float) -> None:
        self._fresh[number] = now

    def ended(self, number: int) -> None:
        """A short one: the processes there are will do."""
        if self._fresh.pop(number, None) is not None:
            self._allowed = self._first

    def pause_s(self, now: float) -> float:
        """Until one more may begin at the latest."""
        return max(0.0, next(iter(self._fresh.values()), now) + TICK_S - now)
