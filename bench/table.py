"""Figures as plain text: one line each, with the aim beside it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from bench.figures import Figure, Section

HEADER = ("figure", "unit", "runs", "min", "median", "max", "aim", "")
WIDTH = 110
COLUMN_GAP = "  "


def print_section(section: Section) -> None:
    """A heading, the table, the notes, and what went wrong."""
    print(f"\n== {section.title}")
    if section.skipped:
        print(f"   skipped: {section.skipped}")
    for line in lines(section.figures):
        print(f"   {line}")
    for note in [*(figure.note for figure in section.figures if figure.note), *section.notes]:
        print(textwrap.fill(note, WIDTH, initial_indent="   - ", subsequent_indent="     "))
    for failure in section.failures:
        print(f"   FAILED: {failure}")
    print(end="", flush=True)


def lines(figures: Sequence[Figure]) -> list[str]:
    """The table with aligned columns; empty without figures."""
    if not figures:
        return []
    rows = [HEADER, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return [_aligned(row, widths) for row in rows]


def number(value: float) -> str:
    """Four digits where they mean something: 12,345 · 123.4 · 4.321 · 0.0432."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3g}"


def _row(figure: Figure) -> tuple[str, ...]:
    aim = figure.aim
    verdict = ("reached" if aim.reached(figure.median) else "not reached") if aim and figure.samples else ""
    return (
        figure.title,
        figure.unit,
        str(len(figure.samples)),
        number(min(figure.samples, default=math.nan)),
        number(figure.median),
        number(max(figure.samples, default=math.nan)),
        f"{aim.side} {number(aim.value)}" if aim else "",
        verdict,
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    left = {0, 1, len(HEADER) - 1}
    cells = [
        cell.ljust(width) if column in left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return COLUMN_GAP.join(cells).rstrip()


def print_summary(sections: Sequence[Section]) -> None:
    """All figures that have an aim, once more; and what failed."""
    print("\n== Aims")
    for line in lines([figure for section in sections for figure in section.figures if figure.aim]):
        print(f"   {line}")
    for section in sections:
        for failure in section.failures:
            print(f"   FAILED: {section.name}: {failure}")
