"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
FAILED_SHOWN_MAX = 20


def write_markdown(title: str, report: Mapping[str, Any]) -> str:
    """The whole report. Sections without content are left out."""
    ranks = report["rankings"]
    sections = [
        _glance(title, report["totals"], report["failed"]),
        _section("What it is about", _terms(report["terms"]["corpus"])),
        _table("Folders", ranks["folders"], "The largest folders by lines."),
        _table("Most complex functions", ranks["most_complex"], "McCabe's number; above 10 is hard to test."),
        _table("Longest functions", ranks["longest"]),
        _table("Deepest nesting", ranks["deepest"]),
        _table(
            "Hardest to read",
            ranks["hardest_to_read"],
            "English prose, docstrings and comments by Flesch reading ease (30: a law text, 70: plain).",
        ),
        _table("Least documented", ranks["least_documented"]),
        _table("Largest vocabulary", ranks["largest_vocabulary"]),
        _table("Left to be done", ranks["markers"], "FIXME, BUG and HACK before XXX and TODO."),
        _table("Most markers", ranks["most_markers"]),
        _section("Duplicates", _duplicates(report["duplicates"])),
        _table(
            "Import hubs", report["imports"]["hubs"], "Modules by the number of documents importing them."
        ),
        _table("Importing the most", report["imports"]["importing_most"]),
        _table("Imports from outside", report["imports"]["outside"]),
    ]
    return "\n".join(section for section in sections if section)


def _glance(title: str, totals: Mapping[str, Any], failed: Sequence[str]) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in totals["kinds"].items())
    markers = ", ".join(f"{count:,} {marker}" for marker, count in totals["markers"].items()) or "none"
    rows = [
        ("documents", f"{totals['documents']:,} ({kinds})"),
        ("lines", f"{totals['lines']:,}, of them {totals['blank_lines']:,} blank"),
        ("words", f"{totals['words']:,} in {totals['sentences']:,} sentences of prose"),
        ("functions", f"{totals['functions']:,} in {totals['classes']:,} classes and modules"),
        ("mean complexity", f"{totals['complexity_mean']:.2f}"),
        ("mean function length", f"{totals['function_lines_mean']:.1f} lines"),
        ("docstring coverage", f"{totals['docstring_coverage']:.0%}"),
        ("markers", markers),
        ("not parsed", f"{len(totals['unparsed'])}"),
        ("failed", f"{len(failed)}"),
    ]
    lines = [
        f"# {_cell(title)}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    for heading, names in (("Failed", failed), ("Not Python of this version", totals["unparsed"])):
        if names:
            lines += ["", f"{heading}:", "", *(f"- {_cell(name)}" for name in names[:FAILED_SHOWN_MAX])]
    return "\n".join([*lines, ""])


def _terms(corpus: Rows) -> list[str]:
    if not corpus:
        return []
    words = ", ".join(f"**{row['term']}** ({row['documents']:,})" for row in corpus[:30])
    return ["The heaviest terms by TF-IDF, with the number of documents they shape:", "", words]


def _duplicates(found: Mapping[str, Any]) -> list[str]:
    lines = []
    if found["exact"]:
        lines += [f"{found['exact_groups']} groups of equal documents:", ""]
        lines += [f"- {', '.join(map(_cell, group))}" for group in found["exact"]] + [""]
    if found["families"]:
        lines += [f"{found['near_pairs']} pairs share at least 70 % of their text; the largest families:", ""]
        for family in found["families"]:
            more = family["documents"] - len(family["members"])
            names = ", ".join(map(_cell, family["members"])) + (f" and {more} more" if more else "")
            lines.append(f"- {family['documents']} documents: {names}")
        lines += ["", *_rows(found["nearest"])]
    return lines


def _section(heading: str, lines: Iterable[str]) -> str:
    content = list(lines)
    return "\n".join([f"## {heading}", "", *content, ""]) if content else ""


def _table(heading: str, rows: Rows, note: str = "") -> str:
    return _section(heading, [*([note, ""] if note else []), *_rows(rows)]) if rows else ""


def _rows(rows: Rows) -> list[str]:
    columns = list(rows[0])
    head = " | ".join(column.replace("_", " ") for column in columns)
    body = [" | ".join(_value(column, row[column]) for column in columns) for row in rows]
    return [f"| {head} |", "|" + "---|" * len(columns), *(f"| {line} |" for line in body)]


def _value(column: str, value: object) -> str:
    # A line number is looked up in an editor, which wants no thousands separator.
    return str(value) if column == "line" else _cell(value)


def _cell(value: object) -> str:
    """Text that cannot break out of its table cell or list item."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}"
    return " ".join(str(value).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'").split())
