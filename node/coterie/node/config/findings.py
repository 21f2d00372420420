"""Something to say about a place in the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]  # snake_case keys and list positions


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to say about a place in the file. `depends_on`: other places the statement is built on."""

    path: KeyPath
    text: str
    depends_on: tuple[KeyPath, ...] = ()


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds one line for each thing that is wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))
