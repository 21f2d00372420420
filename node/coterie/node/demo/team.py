"""The data team of the scene `agents`: who they are, and what the scripted model has them think."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLLECTOR, ANALYST, VISUALIZER, WRITER = "data_collector", "data_analyst", "visualizer", "report_writer"
_NAMES = {
    COLLECTOR: "Data collector",
    ANALYST: "Data analyst",
    VISUALIZER: "Visualizer",
    WRITER: "Report writer",
}
_SKILLS = {
    COLLECTOR: "file-management",
    ANALYST: "data-analysis",
    VISUALIZER: "data-analysis",
    WRITER: "file-management",
}
_WORK = {
    COLLECTOR: "You find the data and say where they are, how large they are, and what their columns are.",
    ANALYST: "You compute what the data say. Every figure comes from a tool.",
    VISUALIZER: "You draw charts as SVG files, and say where each is and what it shows.",
    WRITER: (
        "You lead the team. Have data_collector look at the data, then data_analyst compute and visualizer "
        "draw, then write the report as Markdown, with every figure and chart, into the file you are told, "
        "and answer with its path."
    ),
}


@dataclass(frozen=True, slots=True)
class Table:
    """The data: a file, its columns of text and of numbers, and how many rows it has."""

    path: Path
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    rows: int


def look_at(path: Path) -> Table:
    """The columns of a CSV file by what its rows hold. Raises ValueError where nothing can be charted."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    numbers = tuple(name for name in columns if all(_is_number(row[name]) for row in rows))
    texts = tuple(name for name in columns if name not in numbers)
    if not numbers or not texts:
        raise ValueError(f"{path}: needs a header, rows, a column of numbers and one of text")
    return Table(path, texts, numbers, len(rows))


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def agent_files(agent_id: str, provider: str, folder: Path) -> dict[str, str]:
    """The files of one of the team, who may touch that folder and nothing else."""
    agent: dict[str, Any] = {
        "id": agent_id,
        "name": _NAMES[agent_id],
        "model": {"provider": provider, "max_tokens": 2_000},
        "permissions": {"file_access": True, "paths": [str(folder)]},
        "skills": [{"skill_id": _SKILLS[agent_id], "timeout": 60, "retry_policy": {"max_retries": 3}}],
    }
    if agent_id == WRITER:
        agent["loop"] = {"handoff": [COLLECTOR, ANALYST, VISUALIZER], "max_steps": 12}
    # JSON is YAML too.
    return {"config.yaml": json.dumps({"agent": agent}), "SOUL.md": f"# Who I am\n\n{_WORK[agent_id]}\n"}


def script(table: Table, report: Path) -> list[dict[str, Any]]:
    """What the scripted model answers to each of the four, turn by turn."""
    said = {
        COLLECTOR: [
            [_file("info", table.path), _file("read", table.path, limit=300)],
            "The table:\n{results}",
        ],
        ANALYST: [_analysis(table), "Findings:\n\n{results}"],
        VISUALIZER: [_charts(table, report.parent), "Charts:\n\n{results}"],
        WRITER: [
            [_handoff(COLLECTOR, f"Look at {table.path}")],
            [
                _handoff(ANALYST, f"Describe {table.path} and group it", "{last}"),
                _handoff(VISUALIZER, f"Draw {table.path} into {report.parent}", "{last}"),
            ],
            [_report(report)],
            f"The report is in {report}",
        ],
    }
    return [rule for agent_id, turns in said.items() for rule in _rules(_NAMES[agent_id], turns)]


def _rules(name: str, turns: list[Any]) -> list[dict[str, Any]]:
    rules = []
    for turn, said in enumerate(turns):
        answer = {"text": said} if isinstance(said, str) else {"tool_calls": said}
        rules.append({"when": {"anywhere": f"You are {name}.", "turn": turn}, "answer": answer})
    return rules


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def _file(operation: str, path: Path, **more: Any) -> dict[str, Any]:
    return _call("file-management", operation=operation, path=str(path), **more)


def _handoff(agent_id: str, task: str, context: str = "") -> dict[str, Any]:
    return _call("handoff", agent=agent_id, task=task, **({"context": context} if context else {}))


def _analysis(table: Table) -> list[dict[str, Any]]:
    measures = [{"function": "count"}, *({"function": "sum", "column": name} for name in table.numbers[:3])]
    group = {"by": [table.texts[0]], "measures": measures, "sort": "count", "descending": True, "limit": 10}
    asks = [_call("data-analysis", operation="describe", path=str(table.path), columns=list(table.numbers))]
    asks.append(_call("data-analysis", operation="group", path=str(table.path), **group))
    if len(table.numbers) > 1:
        asks.append(
            _call("data-analysis", operation="correlate", path=str(table.path), columns=list(table.numbers))
        )
    return asks


def _charts(table: Table, folder: Path) -> list[dict[str, Any]]:
    first = table.numbers[0]
    bars = {
        "kind": "bar",
        "x": table.texts[0],
        "y": [f"{first}_sum"],
        "title": f"{first} by {table.texts[0]}",
    }
    spread = {"kind": "histogram", "x": first, "title": f"How {first} is spread"}
    group = {"by": [table.texts[0]], "measures": [{"function": "sum", "column": first}]}
    best = {"sort": f"{first}_sum", "descending": True, "limit": 12}
    return [
        _chart(table, folder / "by-group.svg", bars, **group, **best),
        _chart(table, folder / "spread.svg", spread),
    ]


def _chart(table: Table, file: Path, chart: dict[str, Any], **more: Any) -> dict[str, Any]:
    asked = {"operation": "chart", "path": str(table.path), "chart": {**chart, "format": "svg"}}
    return _call("data-analysis", **asked, save_to=str(file), **more)


def _report(report: Path) -> dict[str, Any]:
    pictures = "\n\n".join(f"![{name}]({name}.svg)" for name in ("by-group", "spread"))
    text = f"# What the data say\n\n{pictures}\n\n## What was found\n\n{{results}}\n"
    return _call("file-management", operation="write", path=str(report), content=text, overwrite=True)
