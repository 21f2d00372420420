"""When a failed call is tried again: with jitter, and not at all once too many calls fail."""

from __future__ import annotations

BACKOFF_S = 0.5
BACKOFF_MAX_S = 20.0
RETRY_AFTER_MAX_S = 120.0
DICE_SIDES = 1 << 32


class RetryBudget:
    """Retries that a provider may get: a few, and then one for every ten answers, so that retries never make
    an overload worse (gRFC A6, retry throttling)."""

    FULL = 10.0
    EARNED = 0.1

    def __init__(self) -> None:
        self._tokens = self.FULL

    def answered(self) -> None:
        """A call was answered."""
        self._tokens = min(self.FULL, self._tokens + self.EARNED)

    def take(self) -> bool:
        """Whether one more retry is due."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def pause_s(failures: int, dice: int, retry_after_s: float | None) -> float:
    """Exponential back-off with full jitter; never sooner than the provider says."""
    ceiling = min(BACKOFF_MAX_S, BACKOFF_S * float(1 << max(0, min(failures - 1, 16))))
    jitter = ceiling * (dice % DICE_SIDES) / DICE_SIDES
    return min(RETRY_AFTER_MAX_S, retry_after_s or 0.0) + jitter
