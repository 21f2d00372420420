"""A history as Mermaid: a flowchart of a run with states, the sequence of a task, a Gantt chart of both.

Names are sanitised: ids of ours are n0, p1 …; texts lose what would end a label or begin markup."""

from __future__ import annotations

from collections.abc import Iterator

from coterie.core.graph.plan import mermaid_of
from coterie.core.transitions import TERMINAL
from coterie.node.debugger.model import ENDS, Attempt, Happening, History, TaskRecord
from coterie.node.debugger.words import call_words, flat, said

LINES_MAX = 400  # messages of a sequence, bars of a chart: more is no picture any more
LABEL_CHARS_MAX = 60
QUEUE = "queue"
_COLOURS = {
    "SUCCEEDED": "fill:#d5f5d5,stroke:#2a7a2a",
    "FAILED": "fill:#f8d0d0,stroke:#a02020",
    "RUNNING": "fill:#d0e4f8,stroke:#2050a0",
    "WAITING": "fill:#fdf0c8,stroke:#a08020",
    "SKIPPED": "fill:#eeeeee,stroke:#999999,color:#777777",
    "CANCELLED": "fill:#f0e0f0,stroke:#806080",
}
_QUIET = frozenset({"waits", "progress", "checkpoint"})
_ENTITIES = {"#": "#35;", "%": "#37;", ";": "#59;", "<": "#lt;", ">": "#gt;", '"': "#quot;", "&": "#amp;"}


def mermaid_of_history(history: History) -> str:
    """A run as the flowchart of its nodes, any other task as a sequence."""
    graph = history.root.graph
    if graph is None:
        return "\n".join(_sequence(history)) + "\n"
    states = {row.node_id: row.state for row in history.root.nodes}
    used = sorted(set(states.values()) & _COLOURS.keys())
    classes = [f"    classDef {state} {_COLOURS[state]}" for state in used]
    return "\n".join([mermaid_of(graph, states), *classes]) + "\n"


def label(text: str) -> str:
    """A text that can stand anywhere a label may: nothing in it ends the line or begins markup."""
    return "".join(_ENTITIES.get(char, char) for char in flat(text, LABEL_CHARS_MAX))


def bare(text: str) -> str:
    """A text for a Gantt chart, whose labels know no entities: what means something there is left out."""
    kept = "".join(" " if char in ":#;,<>\"'&%{}" else char for char in flat(text, LABEL_CHARS_MAX))
    return " ".join(kept.split()) or "unnamed"


# --- the sequence of a task


def _sequence(history: History) -> Iterator[str]:
    yield "sequenceDiagram"
    yield f"    participant {QUEUE}"
    names: dict[str, str] = {}
    for event in history.timeline:
        if event.node and event.node not in names:
            names[event.node] = f"p{len(names)}"
    for node, name in names.items():
        yield f"    participant {name} as {label(node)}"
    told = [event for event in history.timeline if event.type not in _QUIET]
    bills: dict[tuple[str, str], str] = {
        (record.task.task_id, call.step): call_words(call)
        for record in history.records
        for call in record.calls
    }
    for event in told[:LINES_MAX]:
        bill = bills.get((event.task_id, event.detail), "") if event.type == "step" else ""
        yield _message(history, event, names, bill)
    if len(told) > LINES_MAX:
        yield f"    Note over {QUEUE}: {len(told) - LINES_MAX} more events"


def _message(history: History, event: Happening, names: dict[str, str], bill: str) -> str:
    """Assignments go to a node, ends come from it; what happens between is the node's own."""
    own = event.task_id == history.root.task.task_id
    who = "" if own else f"{history.short(event.task_id)}: "
    text = label(f"{who}{said(event)}")
    node = names.get(event.node, QUEUE)
    if event.type == "assigned":
        return f"    {QUEUE}->>{node}: {text}"
    if event.type in ("started", "step", "step_begun", "emitted"):
        note = f" ({label(bill)})" if bill else ""
        return f"    {node}->>{node}: {text}{note}"
    if event.type in ("released", "retry", "waiting"):
        return (
            f"    {node}--x{QUEUE}: {text}" if event.type == "released" else f"    {node}-->>{QUEUE}: {text}"
        )
    if event.type in ENDS and node != QUEUE:
        return f"    {node}-->>{QUEUE}: {text}"
    return f"    Note over {QUEUE}: {text}"


# --- the chart


def gantt_of(history: History) -> str:
    """A section for each task, a bar for each attempt and each wait in the queue before it."""
    return "\n".join(_chart(history)) + "\n"


def _chart(history: History) -> Iterator[str]:
    until_ms = _last_ms(history)
    yield "gantt"
    yield f"    title {bare(history.root.task.task_id)}"
    yield "    dateFormat x"
    yield "    axisFormat %H:%M:%S"
    bars = 0
    for record in history.records:
        lines = list(_bars(record, until_ms, bars))
        if bars + len(lines) > LINES_MAX:
            yield "    section more"
            yield f"    tasks that are not shown :milestone, more, {until_ms}, 0ms"
            return
        bars += len(lines)
        yield f"    section {bare(history.short(record.task.task_id))}"
        yield from lines


def _last_ms(history: History) -> int:
    ends = [record.task.finished_at_ms or record.task.created_at_ms + 1 for record in history.records]
    return max([*ends, *(event.at_ms for event in history.timeline)])


def _bars(record: TaskRecord, until_ms: int, first: int) -> Iterator[str]:
    task, waits_from = record.task, record.task.created_at_ms
    number = first
    if record.graph is not None or not record.attempts:
        tag = _tag(task.state.name, live=task.state not in TERMINAL)
        yield _bar(task.state.name, tag, number, task.created_at_ms, task.finished_at_ms or until_ms)
        return
    for attempt in record.attempts:
        began = attempt.started_ms or attempt.assigned_ms
        if began - waits_from > 0:
            yield _bar("waits", "", number, waits_from, began)
            number += 1
        ended = attempt.ended_ms or until_ms
        yield _bar(_attempt_words(attempt), _tag(attempt.end, live=not attempt.end), number, began, ended)
        number, waits_from = number + 1, ended


def _attempt_words(attempt: Attempt) -> str:
    return f"attempt {attempt.number} on {attempt.node} {attempt.end or 'goes on'}"


def _tag(end: str, *, live: bool) -> str:
    if live:
        return "active"
    return "done" if end.lower() in ("succeeded", "waiting", "paused") else "crit"


def _bar(text: str, tag: str, number: int, from_ms: int, to_ms: int) -> str:
    parts = [tag, f"b{number}", str(from_ms), str(max(to_ms, from_ms + 1))]
    return f"    {bare(text)} :{', '.join(part for part in parts if part)}"
