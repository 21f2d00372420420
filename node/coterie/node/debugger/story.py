"""A history in plain sentences: made from the records alone, so the same history tells the same story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from coterie.core.transitions import TERMINAL
from coterie.node.debugger.model import Attempt, History, NodeRow, TaskRecord
from coterie.node.debugger.timeline import kind_of
from coterie.node.debugger.words import clock, count, flat, joined, money, span

TOLD_MAX = 50  # tasks, nodes, steps that are told one by one
NAMES_MAX = 12


def story_of(history: History) -> str:
    """Paragraphs, an empty line between them."""
    root = history.root
    parts = [" ".join(_beginning(root)), " ".join(_nodes(root)), " ".join(_attempts(root))]
    parts += [" ".join(_below(history, record)) for record in history.below[:TOLD_MAX]]
    if len(history.below) > TOLD_MAX:
        parts.append(f"{count(len(history.below) - TOLD_MAX, 'more task')} ran below it.")
    parts += [" ".join(_doubts(history)), " ".join(_cost(history)), " ".join(_ending(history))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _beginning(record: TaskRecord) -> Iterator[str]:
    task = record.task
    who = f"tenant {task.tenant}"
    yield f"{task.task_id} is {kind_of(record)}, submitted by {who} at {clock(task.created_at_ms)}."
    if task.parent_id:
        yield f"It is a child of task {task.parent_id}."
    if task.retry_of:
        yield f"It is a new run of task {task.retry_of}."
    if task.forked_from:
        source, _, point = task.forked_from.partition("@")
        yield f"It was forked from task {source} at {point}."
    if record.taken_over:
        names = [step.key for step in record.taken_over]
        listed = joined(names[:NAMES_MAX]) + (" and others" if len(names) > NAMES_MAX else "")
        yield f"From there it took over {count(len(names), 'result')}: {listed}; these were not done again."


# --- nodes of a run


def _nodes(record: TaskRecord) -> Iterator[str]:
    start = record.task.created_at_ms
    for row in record.nodes[:TOLD_MAX]:
        yield _node(row, start)
    if len(record.nodes) > TOLD_MAX:
        states = Counter(row.state for row in record.nodes[TOLD_MAX:])
        rest = joined(f"{number} {state}" for state, number in sorted(states.items()))
        yield f"Of the other {count(len(record.nodes) - TOLD_MAX, 'node')}: {rest}."


def _node(row: NodeRow, start_ms: int) -> str:
    name, why = f"Node {row.node_id}", f" ({flat(row.why)})" if row.why else ""
    if row.state == "PENDING":
        return f"{name} has not begun."
    if row.state == "SKIPPED":
        return f"{name} was skipped{why}."
    begun = f"began after {span(max(0, row.since_ms - start_ms))}"
    if row.state in ("READY", "RUNNING", "WAITING"):
        verb = {"READY": "is ready", "RUNNING": "is running", "WAITING": "waits"}[row.state]
        return f"{name} {begun} and {verb}."
    verb = {"SUCCEEDED": "succeeded", "FAILED": "failed", "CANCELLED": "was cancelled"}[row.state]
    took = span(max(0, row.ended_ms - row.since_ms))
    tasks = f" with {count(row.tasks, 'task')}" if row.tasks > 1 else ""
    return f"{name} {begun} and {verb} {took} later{tasks}{why}."


# --- attempts


def _attempts(record: TaskRecord) -> Iterator[str]:
    waits_from = record.task.created_at_ms
    steps = _steps_by_attempt(record)
    for attempt in record.attempts:
        yield from _attempt(attempt, waits_from, steps.get(attempt.number, []))
        waits_from = attempt.ended_ms
    signals = [event for event in record.events if event.type == "signal"]
    for signal in signals[:NAMES_MAX]:
        yield f"Signal {flat(signal.detail)} came after {span(signal.at_ms - record.task.created_at_ms)}."


def _steps_by_attempt(record: TaskRecord) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    old = {step.key for step in record.taken_over}
    for step in record.steps if record.graph is None else ():
        if step.key not in old:
            found.setdefault(step.attempt, []).append(step.key)
    return found


def _attempt(attempt: Attempt, waits_from: int, steps: list[str]) -> Iterator[str]:
    began = attempt.started_ms or attempt.assigned_ms
    waited = f" after waiting {span(began - waits_from)}" if began - waits_from >= 1 else ""
    verb = "started" if attempt.started_ms else "was given"
    yield f"Attempt {attempt.number} {verb} {'on' if attempt.started_ms else 'to'} {attempt.node}{waited}."
    if steps:
        more = f" and {len(steps) - NAMES_MAX} more" if len(steps) > NAMES_MAX else ""
        listed = joined(steps[:NAMES_MAX])
        yield f"It recorded {count(len(steps), 'step')}: {listed}{more}."
    if attempt.end:
        yield _end_of(attempt, span(attempt.ended_ms - began))


def _end_of(attempt: Attempt, took: str) -> str:
    why = f": {flat(attempt.detail)}" if attempt.detail else ""
    match attempt.end:
        case "released":
            return f"After {took} it was taken back from {attempt.node}{why}."
        case "retry":
            return f"It failed after {took} and was to be tried again{why}."
        case "waiting":
            return f"After {took} it gave up its place to wait{why}."
        case "paused":
            return f"After {took} it was paused{why}."
        case "succeeded":
            return f"It succeeded after {took}."
    return f"It ended as {attempt.end.upper()} after {took}{why}."


# --- what is below


def _below(history: History, record: TaskRecord) -> Iterator[str]:
    task = record.task
    name = history.short(task.task_id)
    begun = span(max(0, task.created_at_ms - history.root.task.created_at_ms))
    nodes = list(dict.fromkeys(attempt.node for attempt in record.attempts))
    where = f" on {joined(nodes)}" if nodes else ""
    tries = f" in {count(len(record.attempts), 'attempt')}" if len(record.attempts) > 1 else ""
    if task.state in TERMINAL:
        took = span(task.finished_at_ms - task.created_at_ms)
        why = f": {task.error.code}: {flat(task.error.message)}" if task.error is not None else ""
        ended = f"{task.state.name} {took} later{tries}{where}{why}"
        yield f"{name} ({kind_of(record)}) began after {begun} and {ended}."
    else:
        yield f"{name} ({kind_of(record)}) began after {begun} and is {task.state.name}{tries}{where}."
    for attempt in record.attempts[:-1]:
        if attempt.end in ("released", "retry"):
            yield _end_of(attempt, span(attempt.ended_ms - (attempt.started_ms or attempt.assigned_ms)))


# --- the end


def _doubts(history: History) -> Iterator[str]:
    for record in history.records:
        name = history.short(record.task.task_id)
        for effect in record.effects:
            yield f"Step {effect.step} of {name}, begun by attempt {effect.attempt}, is {effect.state}."
        for call in record.calls:
            if call.outcome == "in doubt":
                which = f"Call {call.number} of step {call.step} of {name}"
                yield f"{which} may have been billed without an answer."


def _cost(history: History) -> Iterator[str]:
    calls, tokens_in, tokens_out, micro_usd = history.paid
    if calls:
        tokens = f"{tokens_in} tokens in and {tokens_out} out"
        yield f"{count(calls, 'call')} of language models cost {money(micro_usd)}, with {tokens}."
    outcomes = Counter(call.outcome for record in history.records for call in record.calls)
    if outcomes["cached"]:
        yield f"{count(outcomes['cached'], 'answer')} came from the cache."
    if outcomes["taken over"]:
        yield f"{count(outcomes['taken over'], 'answer')} had been paid by the run before it."


def _ending(history: History) -> Iterator[str]:
    task = history.root.task
    if task.state in TERMINAL:
        why = f": {task.error.code}: {flat(task.error.message)}" if task.error is not None else ""
        took = span(task.finished_at_ms - task.created_at_ms)
        yield f"It ended as {task.state.name} at {clock(task.finished_at_ms)}, after {took}{why}."
    else:
        yield f"It has not ended: it is {task.state.name}."
    if history.truncated:
        yield "There is more than is told here."
    if history.holes:
        yield f"{count(history.holes, 'event')} of it are not in the history of this node."
