"""How long the syncs of the log took of late."""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
SAMPLES_MAX = 4_096
SLOW_SAMPLES_MIN = 3  # one hiccup is no slow disk
SLOW_SPAN_S = 2.0
RECKON_S = 0.25  # the quantile is taken this often, and remembered in between


class Pace:
    """A sliding window of durations; times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)  # (when it ended, duration)
        self._p99_s, self._reckon_at = 0.0, float("-inf")

    def note(self, now: float, took_s: float) -> None:
        self._samples.append((now, took_s))

    def p99_s(self, now: float) -> float:
        """The nearest-rank 99th percentile; 0 when nothing was synced within the window."""
        if now >= self._reckon_at:
            self._forget(now)
            self._reckon_at = now + RECKON_S
            took = sorted(took_s for _, took_s in self._samples)
            self._p99_s = took[-1 - (len(took) - 1) // 100] if took else 0.0
        return self._p99_s

    def is_slow(self, now: float, limit_s: float) -> bool:
        """The 99th percentile is above the limit, by several syncs and for a while."""
        if self.p99_s(now) <= limit_s:
            return False
        slow = [at for at, took_s in self._samples if took_s > limit_s]
        return len(slow) >= SLOW_SAMPLES_MIN and slow[-1] - slow[0] >= SLOW_SPAN_S

    def _forget(self, now: float) -> None:
        while self._samples and self._samples[0][0] < now - WINDOW_S:
            self._samples.popleft()
