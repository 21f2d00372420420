"""Something to say about a place in the configuration."""

from __future__ import annotations

from dataclasses import dataclass

KeyPath = tuple[str | int, ...]  # snake_case keys and list positions


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to say about a place in the file. `depends_on`: other places the statement is built on."""

    path: KeyPath
    text: str
    depends_on: tuple[KeyPath, ...] = ()
