"""Sums over many runs: printed at the end, kept in a file by long ones, and made into a page for people."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.sim.raft.nemesis import JOBS, KINDS
from tests.sim.raft.run import Report

VIOLATIONS_KEPT = 50
REPEATED = "runs repeated"
# What many runs do at least, or they prove little. About 100 and 40 are seen.
MANY_RUNS, VERY_MANY_RUNS = 500, 2_000
PER_RUN_MIN = {"committed": 30, "reads": 10}
# They need two rare things at one time, so that even of very many runs none may die in one.
RARE_JOBS = ("drop copy", "drop chunks", "drop snapshot")


def is_repeated(seed: int) -> bool:
    """Every 500th, of clusters of both sizes in turn."""
    return seed % 1_000 in (0, 501)


@dataclass(slots=True)
class Totals:
    """`next_seed`: all seeds from `first` up to it are in the sums."""

    first: int
    next_seed: int
    nodes: str
    plant: str
    commit: str
    seconds: float = 0.0
    violated: int = 0
    violations: list[str] = field(default_factory=list)  # the first ones, with their seeds
    faults: dict[str, int] = field(default_factory=dict)
    runs_with: dict[str, int] = field(default_factory=dict)  # how many runs had this kind of fault on
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        self.next_seed = report.seed + 1
        for sums, new in (
            (self.faults, report.faults),
            (self.counts, report.counts),
            (self.runs_with, dict.fromkeys(report.kinds, 1)),
        ):
            for name, number in new.items():
                sums[name] = sums.get(name, 0) + number
        if report.violation:
            self.violated += 1
            if len(self.violations) < VIOLATIONS_KEPT:
                self.violations.append(f"seed {report.seed}, {report.count} nodes, {report.violation}")

    @property
    def runs(self) -> int:
        return self.counts.get("runs", 0)

    def shortfalls(self, seeds: int) -> list[str]:
        """Why these runs prove less than so many should."""
        lacks = []
        if not self.runs == seeds > 0:
            lacks.append(f"{self.runs} runs of {seeds}")
        repeated = sum(map(is_repeated, range(self.first, self.next_seed)))
        if self.counts.get(REPEATED, 0) + self.violated < repeated:
            lacks.append(f"{self.counts.get(REPEATED, 0)} seeds of {repeated} were run again")
        if seeds >= MANY_RUNS:
            lacks += [f"no run was struck by {kind}" for kind in KINDS if not self.faults.get(kind)]
            lacks += [
                f"{name}: {self.counts.get(name, 0)}, {low} a run are little enough"
                for name, low in PER_RUN_MIN.items()
                if self.counts.get(name, 0) < low * seeds
            ]
        if seeds >= VERY_MANY_RUNS:
            deadly = [job for job in JOBS if job not in RARE_JOBS]
            lacks += [f"no node died in {job}" for job in deadly if not self.counts.get(f"deaths in {job}")]
        return lacks

    @property
    def virtual_hours(self) -> float:
        return self.counts.get("virtual ms", 0) / 3_600_000

    def line(self) -> str:
        counts = self.counts
        return (
            f"sim raft: {self.runs} runs, {self.violated} violations, {sum(self.faults.values())} faults, "
            f"{counts.get('proposals', 0)} proposals, {counts.get('committed', 0)} committed, "
            f"{counts.get('reads', 0)} reads, {counts.get('terms', 0)} terms, "
            f"{counts.get('steps', 0)} steps, "
            f"{self.virtual_hours:.2f} virtual hours, {self.seconds:.1f} s, "
            f"{60 * self.runs / max(self.seconds, 0.001):.0f} runs/min"
        )

    # --- files ---

    def save(self, path: Path) -> None:
        """The sums as JSON, and beside them a page. A crash in between leaves the older ones."""
        for target, text in (
            (path, json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"),
            (path.with_suffix(".md"), self.page()),
        ):
            new = target.with_name(target.name + ".new")
            new.write_text(text)
            os.replace(new, target)

    @classmethod
    def load(cls, path: Path) -> Totals:
        values: dict[str, Any] = json.loads(path.read_text())
        return cls(**values)

    def page(self) -> str:
        counts = self.counts
        lines = [
            "# Simulated runs of the Raft engine",
            "",
            f"{self.line()}.",
            "",
            f"Code: {self.commit}. Seeds {self.first} to {self.next_seed - 1}, clusters of {self.nodes} nodes"
            + (f", planted bug: {self.plant}." if self.plant else "."),
            "",
            *([f"- {violation}" for violation in self.violations] or ["No promise was broken."]),
            "",
            *_table("fault", "struck", self.faults),
            *_table("done or seen", "how often", counts),
        ]
        return "\n".join(lines) + "\n"


def _table(first: str, second: str, rows: dict[str, int]) -> list[str]:
    ordered = sorted(Counter(rows).most_common(), key=lambda row: (-row[1], row[0]))
    body = [f"| {name} | {number:,} |" for name, number in ordered]
    return [f"| {first} | {second} |", "|---|---|", *body, ""]
