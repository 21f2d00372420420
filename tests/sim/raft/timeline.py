"""Virtual time: one heap of events, in microseconds. Events of one moment happen in order of making."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

MILLISECOND = 1_000
SECOND = 1_000_000


class Timeline:
    """Everything random in a run comes from `rng`."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_us = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0

    def later(self, delay_us: int, what: Callable[[], None]) -> None:
        self._number += 1
        at_us = self.now_us + delay_us if delay_us > 0 else self.now_us
        heapq.heappush(self._events, (at_us, self._number, what))

    def after(self, low_ms: int, high_ms: int, what: Callable[[], None]) -> None:
        """At a random moment between the two."""
        self.later(self.rng.randint(low_ms, high_ms) * MILLISECOND, what)

    def run_until(self, at_us: int, stop: Callable[[], bool] | None = None) -> bool:
        """True when `stop` said so."""
        events, pop = self._events, heapq.heappop
        while events and events[0][0] <= at_us:
            self.now_us, _, what = pop(events)
            what()
            if stop is not None and stop():
                return True
        self.now_us = max(self.now_us, at_us)
        return False


class NodeClock:
    """Virtual time with an origin and a rate of its own, and a wall clock that is wrong and jumps."""

    __slots__ = ("_base_s", "_history", "_rate_s", "_timeline", "rate", "wall_offset_ms")

    def __init__(self, timeline: Timeline, offset_us: int, wall_ms: int) -> None:
        self._timeline, self.wall_offset_ms = timeline, wall_ms
        self.rate = 1.0
        self._base_s = offset_us / SECOND
        self._rate_s = 1.0 / SECOND
        self._history: list[tuple[float, float, float]] = []  # (first moment, base, rate per us) of the past

    def monotonic(self) -> float:
        return self._base_s + self._timeline.now_us * self._rate_s

    def wall_ms(self) -> int:
        return max(0, 1_700_000_000_000 + self._timeline.now_us // 1_000 + self.wall_offset_ms)

    def run_at(self, rate: float) -> None:
        """From now on `rate` seconds here are one second of the world."""
        now_us, here = self._timeline.now_us, self.monotonic()
        if rate != self.rate:
            self._history.append((here, self._base_s, self._rate_s))
            self.rate, self._rate_s = rate, rate / SECOND
            self._base_s = here - now_us * self._rate_s

    def delay_us(self, due_s: float) -> int:
        """How far in the world's time a moment of this clock is away; 0 when it is past."""
        far = (due_s - self._base_s) / self._rate_s - self._timeline.now_us
        return int(far) if far > 0 else 0

    def world_us(self, at_s: float) -> float:
        """When in the world's time this clock showed that; minus infinity stays what it is."""
        base, rate = self._base_s, self._rate_s
        for until, base_before, rate_before in reversed(self._history):
            if at_s >= until:
                break
            base, rate = base_before, rate_before
        return (at_s - base) / rate
