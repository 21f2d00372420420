"""What a bench hands back: figures with their samples and aims, and what went wrong."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


class WorkNotDone(Exception):
    """Tasks were lost, doubled, failed or answered wrongly: the only thing that fails a bench."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure should be above or below. It is shown beside the figure, and never fails a bench."""

    side: Literal[">", "<"]
    value: float

    def reached(self, figure: float) -> bool:
        """Whether the figure is on the right side."""
        return figure > self.value if self.side == ">" else figure < self.value


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity: one sample for each run."""

    key: str
    title: str
    unit: str
    samples: tuple[float, ...]
    aim: Aim | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The figure itself; not a number without samples."""
        return statistics.median(self.samples) if self.samples else math.nan

    def as_json(self) -> dict[str, Any]:
        """Everything a program wants to know of it."""
        aim = self.aim
        return {
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "runs": len(self.samples),
            "min": min(self.samples, default=None),
            "median": self.median if self.samples else None,
            "max": max(self.samples, default=None),
            "samples": list(self.samples),
            "aim": f"{aim.side} {aim.value:g}" if aim else None,
            "aim_reached": aim.reached(self.median) if aim and self.samples else None,
            "note": self.note,
        }


@dataclass(slots=True)
class Section:
    """The outcome of one bench."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    skipped: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        key: str,
        title: str,
        unit: str,
        samples: Sequence[float],
        aim: Aim | None = None,
        note: str = "",
    ) -> None:
        """Enter a figure as `<section>.<key>`."""
        self.figures.append(Figure(f"{self.name}.{key}", title, unit, tuple(samples), aim, note))

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "skipped": self.skipped,
            "failures": self.failures,
            "figures": [figure.as_json() for figure in self.figures],
            "notes": self.notes,
            "details": self.details,
        }


def percentile(samples: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest sample that at least `share` (0..1) of all samples do not exceed."""
    if not samples:
        return math.nan
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
