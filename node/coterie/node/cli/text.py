"""Values as short texts for people."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click

# Line ends and tabs; and what joins letters, keeps them apart, or says where a word may be broken.
_KEPT: Final = frozenset("\n\t\u200c\u200d\u00ad")
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def clean(text: str) -> str:
    """Without control characters: what a skill or a node says must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(char if _is_harmless(char) else "�" for char in text.replace("\r\n", "\n"))


def _is_harmless(char: str) -> bool:
    # Spaces of other scripts and of typesetters are not "printable" to Python.
    return char.isprintable() or char in _KEPT or unicodedata.category(char) == "Zs"


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print what comes from outside."""
    click.echo(clean(text), err=err, nl=nl)


def one_line(text: str, width: int = 80) -> str:
    """The text on one line, cut at `width` characters."""
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def span(seconds: float) -> str:
    """`0.4s`, `3s`, `2m 5s`, `3h 1m`, `2d 4h`."""
    if seconds < 1:
        return f"{max(seconds, 0.0):.1f}s"
    whole = int(seconds)
    parts: list[str] = []
    for size, unit in _SPANS:
        if whole >= size or parts:
            parts.append(f"{whole // size}{unit}")
            whole %= size
    return " ".join(part for part in parts[:2] if not part.startswith("0"))


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """`3s ago`; `-` when it has not happened. A clock that runs behind the cluster's reads `just now`."""
    if moment is None:
        return "-"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    return "just now" if seconds < 1 else f"{span(seconds)} ago"


def size(count: int) -> str:
    """`512 B`, `1.5 KiB`, `80 MiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit takes everything")


def pairs(mapping: Mapping[str, str]) -> str:
    """`k=v k2=v2`, sorted; `-` when empty."""
    return clean(" ".join(f"{key}={value}" for key, value in sorted(mapping.items()))) or "-"


def value_text(value: Any) -> str:
    """A result for people: text as it is, JSON indented, bytes by their size."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, str):
        return clean(value)
    return clean(json.dumps(value, indent=2, ensure_ascii=False, default=str))
