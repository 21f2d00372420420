"""Work for the disk thread. Jobs run one after the other, in the order they were made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """`work` runs off the event loop. `done` runs at the next step after it; for a write of the log, at once.
    While a blocking job is under way the member takes no step and lets nothing out."""

    name: str
    work: Callable[[], object]
    done: Callable[[], None]
    blocking: bool


def nothing() -> None:
    """For jobs whose end needs no step of its own."""
