"""A history as text: what the tasks are, how the nodes of a run stand, and what happened in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coterie.core.transitions import TERMINAL
from coterie.node.debugger.model import History, ModelCall, NodeRow, TaskRecord
from coterie.node.debugger.words import call_words, clock, count, flat, money, said, span


def text_of(history: History) -> str:
    """For a terminal; times are relative to the submission of the first task."""
    lines = [*_head(history), *_nodes(history), *_timeline(history), *_effects(history), *_foot(history)]
    return "\n".join(lines) + "\n"


def outcome_of(record: TaskRecord) -> str:
    """`SUCCEEDED after 3.2 s`, `RUNNING`."""
    task = record.task
    if task.state not in TERMINAL:
        return task.state.name
    return f"{task.state.name} after {span(task.finished_at_ms - task.created_at_ms)}"


def kind_of(record: TaskRecord) -> str:
    """`a task of type echo`, `a run of workflow delivery`, `a run of agent anna`."""
    task = record.task
    if record.graph is not None:
        return f"a run of workflow {record.graph.name or '(unnamed)'}"
    by_agent = task.type == "agent" and task.agent
    return f"a run of agent {task.agent}" if by_agent else f"a task of type {task.type}"


def lineage_of(record: TaskRecord) -> list[str]:
    """Where it came from, as facts."""
    task, found = record.task, []
    if task.retry_of:
        found.append(f"a new run of {task.retry_of}")
    if task.forked_from:
        found.append(f"forked from {task.forked_from}")
    if task.parent_id:
        found.append(f"a child of {task.parent_id}")
    if record.taken_over:
        found.append(f"{count(len(record.taken_over), 'result')} taken over")
    return found


def _head(history: History) -> Iterator[str]:
    root = history.root
    yield f"{root.task.task_id}: {kind_of(root)}, {outcome_of(root)}"
    yield f"submitted {clock(root.task.created_at_ms)} for tenant {root.task.tenant}"
    yield from lineage_of(root)
    if root.task.error is not None:
        yield f"{root.task.error.code}: {flat(root.task.error.message)}"


def _nodes(history: History) -> Iterator[str]:
    rows = history.root.nodes
    if not rows:
        return
    start = history.root.task.created_at_ms
    yield ""
    yield "nodes"
    width = max(len(row.node_id) for row in rows)
    for row in rows:
        parts = [f"{row.node_id:<{width}}", f"{row.type:<10}", f"{row.state:<9}", _when(row, start)]
        yield ("  " + "  ".join(part for part in (*parts, flat(row.why)) if part)).rstrip()


def _when(row: NodeRow, start_ms: int) -> str:
    if not row.since_ms:
        return ""
    end = relative(row.ended_ms, start_ms) if row.ended_ms else "…"
    return f"{relative(row.since_ms, start_ms)} to {end}"


def relative(at_ms: int, start_ms: int) -> str:
    """`+1.234s`."""
    return f"+{(at_ms - start_ms) / 1000:.3f}s"


def _timeline(history: History) -> Iterator[str]:
    start = history.root.task.created_at_ms
    calls = _calls(history)
    rows = [
        (
            f"@{one.index}",
            relative(one.at_ms, start),
            f"{one.node or '-'}#{one.attempt}",
            history.short(one.task_id),
            one,
        )
        for one in history.timeline
        if one.type != "waits"
    ]
    if not rows:
        return
    yield ""
    yield "timeline"
    widths = [max(len(str(row[place])) for row in rows) for place in range(4)]
    for index, at, node, who, event in rows:
        told = said(event)
        call = calls.pop((event.task_id, event.detail), None) if event.type == "step" else None
        bill = f" ({call_words(call)})" if call is not None else ""
        where = f"{index:>{widths[0]}}  {at:>{widths[1]}}  {node:<{widths[2]}}  {who:<{widths[3]}}"
        yield f"  {where}  {told}{bill}"


def _calls(history: History) -> dict[tuple[str, str], ModelCall]:
    return {
        (record.task.task_id, call.step): call
        for record in history.records
        for call in record.calls
        if call.outcome in ("answered", "cached")
    }


def _effects(history: History) -> Iterator[str]:
    start = history.root.task.created_at_ms
    found = [
        (history.short(record.task.task_id), effect)
        for record in history.records
        for effect in record.effects
    ]
    doubtful = _doubtful(history)
    if not found and not doubtful:
        return
    yield ""
    yield "effects and calls without a recorded result"
    for who, effect in found:
        reason = f": {flat(effect.reason)}" if effect.reason else ""
        at = relative(effect.at_ms, start)
        yield f"  {at}  {who}  step {effect.step} of attempt {effect.attempt} {effect.state}{reason}"
    for who, call in doubtful:
        at = relative(call.at_ms, start)
        yield f"  {at}  {who}  call {call.number} of step {call.step} by {call_words(call)}"


def _doubtful(history: History) -> list[tuple[str, ModelCall]]:
    return [
        (history.short(record.task.task_id), call)
        for record in history.records
        for call in record.calls
        if call.outcome in ("open", "in doubt")
    ]


def _foot(history: History) -> Iterable[str]:
    calls, tokens_in, tokens_out, micro_usd = history.paid
    yield ""
    attempts = sum(len(record.attempts) for record in history.records)
    yield f"{count(len(history.records), 'task')}, {count(attempts, 'attempt')}, " + (
        f"{count(calls, 'call')} of models paid: {tokens_in} tokens in, {tokens_out} out, {money(micro_usd)}"
    )
    if history.truncated:
        yield "there are more tasks or events than are shown"
    if history.holes:
        yield f"{count(history.holes, 'event')} not in the history of this node"
