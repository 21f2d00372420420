"""Durations as people write them."""

from __future__ import annotations

import math
import re
from datetime import timedelta

Duration = int | float | str | timedelta
"""Seconds as a number, a text such as "500ms", "30s", "10m", "2h", "1h30m", "7d", or a timedelta."""

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_PLAIN = re.compile(r"\d+(?:\.\d+)?")
_DURATION_TEXT_MAX = 64
_DURATION_MS_MAX = 10 * 365 * 86_400_000
_GRAMMAR = 'write seconds as a number, or a text such as "500ms", "30s", "10m", "1h30m"'


def duration_ms(value: Duration) -> int:
    """Milliseconds in a duration, rounded up so that a positive duration never becomes zero.

    Raises ValueError with the value and the remedy: negative, not finite, over ten years, or not a
    duration at all.
    """
    ms = _to_ms(value)
    if not math.isfinite(ms) or ms < 0:
        raise ValueError(f"{value!r} is not a duration: it must be zero or more; {_GRAMMAR}")
    if ms > _DURATION_MS_MAX:
        raise ValueError(f"{value!r} is over ten years: give at most 3650d")
    # Rounding first keeps 1.1 s from becoming 1101 ms by binary fractions.
    return math.ceil(round(ms, 6))


def duration_seconds(value: Duration) -> float:
    """Seconds in a duration; the same rules and errors as `duration_ms`."""
    return duration_ms(value) / 1000


def optional_seconds(value: Duration | None) -> float | None:
    """Seconds in a duration; None stays None."""
    return None if value is None else duration_seconds(value)


def _to_ms(value: Duration) -> float:
    if isinstance(value, timedelta):
        return value / timedelta(milliseconds=1)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a duration: {_GRAMMAR}")
    if isinstance(value, str):
        return _parse(value)
    return value * 1000.0 if abs(value) < 1e15 else math.inf


def _parse(value: str) -> float:
    text = value.strip().lower().replace(" ", "")
    if not text or len(text) > _DURATION_TEXT_MAX:
        raise ValueError(f"{value[:80]!r} is not a duration: {_GRAMMAR}")
    if _PLAIN.fullmatch(text):
        return float(text) * 1000
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is not a duration: {_GRAMMAR}")
    return float(sum(float(number) * _UNIT_MS[unit] for number, unit in parts))
