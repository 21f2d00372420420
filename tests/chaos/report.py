"""What a bar has to say: one line for people, one object for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SHOWN_MAX = 5


@dataclass(slots=True)
class Report:
    """`violations`: promises that were broken. `too_little`: minimum work that was not done, which fails the
    bar as well. `skipped`: what the machine lacks; then nothing was run."""

    bar: int
    title: str
    text: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    too_little: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def verdict(self) -> str:
        if self.skipped:
            return "skipped"
        return "failed" if self.violations or self.too_little else "passed"

    def demand(self, holds: bool, broken: str) -> None:
        """Note a promise that does not hold."""
        if not holds:
            self.violations.append(broken)

    def require(self, what: str, done: float, minimum: float) -> None:
        """Note work that was too little to prove anything."""
        self.figures[f"min {what}"] = minimum
        if done < minimum:
            self.too_little.append(f"{what}: {done:,} of at least {minimum:,}")

    def line(self) -> str:
        """ "bar 9: 40/40 cycles, acked 18,220, lost 0 ..." and why it failed, if it did."""
        if self.skipped:
            return f"bar {self.bar}: SKIPPED ({self.title}): this machine lacks {self.skipped}"
        parts = [f"bar {self.bar}: {self.text or self.title}"]
        if self.violations:
            shown = "; ".join(self.violations[:SHOWN_MAX])
            more = len(self.violations) - SHOWN_MAX
            parts.append(f"FAILED: {shown}" + (f" (and {more} more)" if more > 0 else ""))
        if self.too_little:
            parts.append(f"TOO LITTLE WORK: {'; '.join(self.too_little)}")
        return " · ".join(parts)

    def as_json(self) -> dict[str, Any]:
        return {
            "bar": self.bar,
            "title": self.title,
            "verdict": self.verdict,
            "line": self.line(),
            "figures": self.figures,
            "violations": self.violations,
            "too_little": self.too_little,
            "skipped": self.skipped,
        }


def spread(seconds: Sequence[float]) -> str:
    """ "p50 1.2 s max 2.3 s", or that there is none."""
    if not seconds:
        return "never"
    return f"p50 {median(seconds):.1f} s max {max(seconds):.1f} s"


def median(values: Sequence[float]) -> float:
    """The middle one; the upper of two."""
    return sorted(values)[len(values) // 2]
