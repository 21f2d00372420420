"""Numbers that stay within the 64 bits of a snapshot, whatever a command asks for."""

from __future__ import annotations

INT_MAX = (1 << 63) - 1
CLOCK_MS_MAX = 1 << 43  # the year 2248: in ns it is a number of 64 bits still


def later_ms(at_ms: int, span_ms: int) -> int:
    """So long after that time; what is longer than time itself ends with it."""
    return min(at_ms + span_ms, INT_MAX)


def within(number: int) -> int:
    """The number, or the nearest that can be kept."""
    return max(-INT_MAX, min(number, INT_MAX))
