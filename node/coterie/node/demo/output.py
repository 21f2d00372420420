"""The report files and the final summary."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coterie.node.demo.documents import Choice
from coterie.node.demo.journal import Journal, Kill
from coterie.node.demo.proof import Check

MARKDOWN_FILE, JSON_FILE, LOG_FOLDER = "report.md", "report.json", "logs"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def figures(journal: Journal, choice: Choice) -> dict[str, Any]:
    """The numbers of a run, rounded for people."""
    return {
        "documents": len(choice.documents),
        "megabytes": round(choice.size_bytes / 1e6, 1),
        "skipped": dict(sorted(choice.skipped.items())),
        "acknowledged": len(journal.acked),
        "probe_writes": len(journal.probes),
        "map_seconds": round(journal.map_s, 1),
        "tasks_per_second": round(journal.rate, 1),
        "reduce_seconds": round(journal.reduce_s, 1),
        "kills": [_kill_row(kill) for kill in journal.kills],
        "machine": machine(),
    }


def write_reports(
    out: Path, merged: Mapping[str, Any], numbers: Mapping[str, Any], checks: Sequence[Check]
) -> None:
    """report.md and report.json in `out`."""
    rows = "\n".join(
        f"| {check.name} | {check.value} | {'kept' if check.kept else '**broken**'} | {check.how} |"
        for check in checks
    )
    made = f"{merged['markdown']}\n## How this report was made\n\n{_story(numbers)}\n\n"
    table = f"| what | found | promise | how it was found out |\n|---|---|---|---|\n{rows}\n"
    (out / MARKDOWN_FILE).write_text(made + table, encoding="utf-8")
    proof = [{"name": c.name, "value": c.value, "kept": c.kept, "how": c.how} for c in checks]
    document = {**merged["report"], "index": merged["index"], "run": dict(numbers), "proof": proof}
    (out / JSON_FILE).write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def keep_logs(out: Path, logs: Sequence[Path]) -> Path:
    """Copy the nodes' logs beside the report, for a run that broke a promise."""
    folder = out / LOG_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for log in logs:
        if log.exists():
            shutil.copy(log, folder / log.name)
    return folder


def print_summary(console: Console, numbers: Mapping[str, Any], checks: Sequence[Check], out: Path) -> None:
    """What happened, and whether every promise held."""
    console.print()
    for line in _story(numbers).splitlines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    print_proof(console, checks)
    console.print(
        f"report: {out / MARKDOWN_FILE} and {out / JSON_FILE}", markup=False, highlight=False, soft_wrap=True
    )


def print_proof(console: Console, checks: Sequence[Check]) -> None:
    """What was promised, what was found, and how."""
    table = Table(title="Proof", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "what", "found", "how it was found out"):
        table.add_column(heading, justify="right" if heading == "found" else "left")
    for check in checks:
        verdict = Text("kept", style="green") if check.kept else Text("BROKEN", style="bold red")
        table.add_row(verdict, check.name, check.value, Text(check.how, style="dim"))
    console.print()
    console.print(table)
    console.print()


def _story(numbers: Mapping[str, Any]) -> str:
    box = numbers["machine"]
    skipped = ", ".join(f"{count:,} {why}" for why, count in numbers["skipped"].items()) or "none"
    disturbed = " with kills and restarts" if numbers["kills"] else ""
    lines = [
        f"{numbers['documents']:,} documents ({numbers['megabytes']} MB; left out: {skipped})",
        f"{numbers['acknowledged']:,} tasks acknowledged, and {numbers['probe_writes']:,} probe writes",
        f"map {numbers['map_seconds']} s, {numbers['tasks_per_second']} tasks/s{disturbed}; "
        f"reduce {numbers['reduce_seconds']} s",
        *(_kill_line(kill) for kill in numbers["kills"]),
        f"on {box['cores']} cores of {box['cpu']}, {box['system']}, Python {box['python']}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _kill_row(kill: Kill) -> dict[str, Any]:
    resumed = kill.resumed
    return {
        "node": kill.node_id,
        "role": kill.role,
        "after_documents": kill.done,
        "write_gap_seconds": None if kill.gap_s is None else round(kill.gap_s, 3),
        "tasks_resumed": len(resumed),
        "resume_seconds_median": round(median(resumed), 3) if resumed else None,
        "resume_seconds_max": round(max(resumed), 3) if resumed else None,
        "active_again_seconds": None if kill.back_s is None else round(kill.back_s, 1),
    }


def _kill_line(kill: Mapping[str, Any]) -> str:
    gap = kill["write_gap_seconds"]
    text = f"kill -9 {kill['node']} ({kill['role']}) after {kill['after_documents']:,} documents: "
    text += (
        "no write acknowledged afterwards" if gap is None else f"next write acknowledged after {gap:.2f} s"
    )
    if kill["tasks_resumed"]:
        text += (
            f"; {kill['tasks_resumed']} of its tasks went on elsewhere after "
            f"{kill['resume_seconds_median']:.2f} s (median; longest {kill['resume_seconds_max']:.2f} s)"
        )
    else:
        text += "; it was running no task"
    back = kill["active_again_seconds"]
    return text + ("; it did not come back" if back is None else f"; it was back after {back} s")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
