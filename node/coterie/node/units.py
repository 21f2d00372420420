"""Units people write in configuration: durations, sizes, shares and rates, parsed exactly or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

YEAR_MS: Final = 365 * 24 * 3_600_000
SIZE_MAX: Final = 1 << 50  # 1 PiB

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION_MS: Final[Mapping[str, int]] = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
}
_SIZES: Final[Mapping[str, int]] = {
    "": 1,
    "b": 1,
    **{unit + tail: 1000**power for power, unit in enumerate("kmgt", 1) for tail in ("", "b")},
    **{unit + tail: 1024**power for power, unit in enumerate("kmgt", 1) for tail in ("i", "ib")},
}
_DURATION = re.compile(rf"(?:{_NUMBER}\s*(?:ms|s|m|h|d)\s*)+")
_DURATION_PART = re.compile(rf"({_NUMBER})\s*(ms|s|m|h|d)")
_SIZE = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.IGNORECASE)
_PERCENT = re.compile(rf"({_NUMBER})\s*%")
_RATE = re.compile(rf"({_NUMBER})\s*/\s*(s|m|h|d)")
_TEXT_MAX = 40  # characters: no honest number is longer


def parse_duration_ms(value: object) -> int:
    """Milliseconds of `500ms`, `5s`, `1m30s`, `2h`, `30d`; a plain number is seconds.

    Raises ValueError for anything else, for a fraction of a millisecond and for more than a year."""
    text = _text(value)
    total = _plain(value) * 1000 if text is None else _duration_of(text)
    if total is None:
        raise ValueError(f"{_shown(value)} is not a duration: write it like 500ms, 5s, 1m30s or 2h")
    if total != int(total):
        raise ValueError(f"{_shown(value)} is finer than a millisecond")
    if total > YEAR_MS:
        raise ValueError(f"{_shown(value)} is longer than a year")
    return int(total)


def parse_size_bytes(value: object) -> int:
    """Bytes of `256KiB` = `256Ki` (1024s), `1MB` = `1M` (1000s) or a plain number.

    Raises ValueError for anything else, for a fraction of a byte and for more than 1 PiB."""
    text = _text(value)
    match = _SIZE.fullmatch(text) if text is not None else None
    factor = _SIZES.get(match[2].lower()) if match else None
    if text is None:
        total = _plain(value)
    elif match is None or factor is None:
        raise ValueError(f"{_shown(value)} is not a size: write it like 256KiB, 4Gi, 1MB or 1024")
    else:
        total = Decimal(match[1]) * factor
    if total != int(total):
        raise ValueError(f"{_shown(value)} is not a whole number of bytes")
    if total > SIZE_MAX:
        raise ValueError(f"{_shown(value)} is more than 1 PiB")
    return int(total)


def parse_ratio(value: object) -> float:
    """A share from 0 to 1, of `0.8` or `80%`. Raises ValueError for anything else."""
    text = _text(value)
    match = _PERCENT.fullmatch(text) if text is not None else None
    if text is not None and match is None:
        raise ValueError(f"{_shown(value)} is not a share: write it like 0.8 or 80%")
    share = Decimal(match[1]) / 100 if match else _plain(value)
    if share > 1:
        raise ValueError(f"{_shown(value)} is more than the whole: write a share up to 1 or 100%")
    return float(share)


def parse_rate_per_s(value: object) -> float:
    """Events per second of `100/s`, `30/m`, `5/h`, `1/d`; a plain number is per second."""
    text = _text(value)
    match = _RATE.fullmatch(text) if text is not None else None
    if text is not None and match is None:
        raise ValueError(f"{_shown(value)} is not a rate: write it like 100/s, 30/m or 5/h")
    if match is None:
        return float(_plain(value))
    return float(Decimal(match[1]) * 1000 / _DURATION_MS[match[2]])


def format_duration(milliseconds: int) -> str:
    """The shortest single-unit text that `parse_duration_ms` reads back as the same number."""
    for unit in ("d", "h", "m", "s"):
        if milliseconds and milliseconds % _DURATION_MS[unit] == 0:
            return f"{milliseconds // _DURATION_MS[unit]}{unit}"
    return f"{milliseconds}ms"


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size_bytes` reads back as the same number."""
    for unit in ("tib", "gib", "mib", "kib"):
        if size_bytes and size_bytes % _SIZES[unit] == 0:
            return f"{size_bytes // _SIZES[unit]}{unit[0].upper()}iB"
    return f"{size_bytes}B"


def _duration_of(text: str) -> Decimal | None:
    if not _DURATION.fullmatch(text):
        return None
    parts = _DURATION_PART.findall(text)
    return sum((Decimal(number) * _DURATION_MS[unit] for number, unit in parts), Decimal(0))


def _text(value: object) -> str | None:
    """The text to parse, or None when the value is a plain number."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{_shown(value)} is neither a number nor text with a unit")
    if not isinstance(value, str):
        return None
    if len(value) > _TEXT_MAX:
        raise ValueError(f"{_shown(value)} is longer than {_TEXT_MAX} characters")
    if value.strip().startswith("-"):
        raise ValueError(f"{_shown(value)} is negative")
    return value.strip() if value.isascii() else "?"


def _plain(value: object) -> Decimal:
    number = Decimal(str(value))  # by its text: 0.1 is a tenth here, not the nearest binary fraction
    if not number.is_finite():
        raise ValueError(f"{_shown(value)} is not a finite number")
    if number < 0:
        raise ValueError(f"{_shown(value)} is negative")
    return number


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 2 * _TEXT_MAX else text[:_TEXT_MAX] + "…"
