"""A strict reader of the Mermaid that we write: flowcharts, sequences and Gantt charts, line by line.

It knows less than Mermaid does, on purpose: what it takes, Mermaid takes."""

from __future__ import annotations

import re

TEXT = r"(?:[^#;<>\"&%\n]|#(?:\d+|[a-z]+);)*"  # nothing that ends a label, unless written as an entity
ID = r"[A-Za-z][A-Za-z0-9]*"
SHAPE = rf"(?:\[\"{TEXT}\"\]|\{{\"{TEXT}\"\}}|\[\[\"{TEXT}\"\]\]|\(\[\"{TEXT}\"\]\))"
FLOW = {
    "node": rf"    (?P<id>{ID}){SHAPE}(?::::(?P<style>[A-Z]+))?",
    "edge": rf"    (?P<from>{ID}) (?:-->|-->\|\"{TEXT}\"\||-\.->\|undo\|) (?P<to>{ID})",
    "class": r"    classDef (?P<defines>[A-Z]+) [a-z]+:#[0-9a-f]{6}(?:,[a-z]+:#[0-9a-f]{6})*",
}
SEQUENCE = {
    "participant": rf"    participant (?P<id>{ID})(?: as {TEXT})?",
    "message": rf"    (?P<from>{ID})(?:->>|-->>|--x)(?P<to>{ID}): {TEXT}",
    "note": rf"    Note over (?P<over>{ID}): {TEXT}",
}
PLAIN = r"[^:#;,<>\"'&%{}\n]+"  # Gantt charts know no entities
GANTT = {
    "title": rf"    title {PLAIN}",
    "format": r"    dateFormat x",
    "axis": r"    axisFormat (?:%[HMS])(?::%[HMS])*",
    "section": rf"    section {PLAIN}",
    "bar": rf"    {PLAIN} :(?:(?:done|active|crit), )?(?P<id>b\d+), (?P<begin>\d+), (?P<end>\d+)",
    "more": rf"    {PLAIN} :milestone, more, \d+, 0ms",
}


def check(text: str) -> dict[str, int]:
    """How many lines of each kind there are. Raises AssertionError for the first that is wrong."""
    first, *lines = text.rstrip("\n").split("\n")
    kinds = {"flowchart TD": FLOW, "sequenceDiagram": SEQUENCE, "gantt": GANTT}[first]
    counts: dict[str, int] = dict.fromkeys(kinds, 0)
    known: set[str] = set()
    styles: list[str] = []
    defined: set[str] = set()
    used: list[str] = []
    for line in lines:
        kind, found = _read(kinds, line)
        counts[kind] += 1
        named = found.get("id")
        if named:
            assert named not in known, f"{named} is there twice: {line!r}"
            known.add(named)
        styles += [style] if (style := found.get("style")) else []
        defined |= {name} if (name := found.get("defines")) else set()
        used += [name for part in ("from", "to", "over") if (name := found.get(part))]
        if kind == "bar":
            assert int(found["begin"] or 0) < int(found["end"] or 0), f"it ends before it begins: {line!r}"
    assert set(used) <= known, f"lines from or to nowhere: {set(used) - known}"
    assert not defined or set(styles) >= defined, f"classes of nothing: {defined - set(styles)}"
    return counts


def _read(kinds: dict[str, str], line: str) -> tuple[str, dict[str, str | None]]:
    for kind, pattern in kinds.items():
        found = re.fullmatch(pattern, line)
        if found is not None:
            return kind, found.groupdict()
    raise AssertionError(f"no line of ours: {line!r}")
