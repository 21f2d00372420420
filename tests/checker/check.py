"""Judges a history: each task by search, and what holds over all tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from coterie.core.nouns import TaskState
from tests.checker.history import Call, History, Kind, Told, View
from tests.checker.search import Found, search


@dataclass(slots=True)
class Verdict:
    """`faults`: one sentence each; none: everything was right. `undecided`: tasks the search gave up on."""

    faults: list[str] = field(default_factory=list)
    undecided: int = 0
    tasks: int = 0


def judge(history: History) -> Verdict:
    """Everything that is wrong with a history."""
    verdict = Verdict()
    verdict.faults += _ids(history)
    verdict.faults += _end(history)
    verdict.faults += _effects(history)
    for task_id, calls in sorted(_by_task(history).items()):
        verdict.tasks += 1
        found = search(calls, closed=history.closed)
        if found is Found.NO:
            verdict.faults.append(f"task {task_id}: its {len(calls)} calls fit no order")
        verdict.undecided += found is Found.UNSURE
    return verdict


def acked_ids(history: History) -> dict[str, str]:
    """Request id -> task id, of what was acknowledged."""
    submits = (c for c in history.calls if c.kind is Kind.SUBMIT and c.answer is Told.OK)
    return {call.request_id: call.task_id for call in submits}


def _ids(history: History) -> Iterator[str]:
    by_request: dict[str, str] = {}
    by_task: dict[str, str] = {}
    for call in history.calls:
        if call.kind is not Kind.SUBMIT or call.answer is not Told.OK:
            continue
        first = by_request.setdefault(call.request_id, call.task_id)
        if first != call.task_id:
            yield f"request {call.request_id} was given two tasks, {first} and {call.task_id}"
        owner = by_task.setdefault(call.task_id, call.request_id)
        if owner != call.request_id:
            yield f"task {call.task_id} was given to two requests, {owner} and {call.request_id}"


def _end(history: History) -> Iterator[str]:
    if history.end is None:
        return
    for request_id, task_id in acked_ids(history).items():
        if task_id not in history.end:
            yield f"task {task_id} of request {request_id} was acknowledged and is lost"
    asked = {call.request_id for call in history.calls if call.kind is Kind.SUBMIT}
    owners: dict[str, str] = {}
    for task_id, view in history.end.items():
        if not view.ended:
            yield f"task {task_id} is still {view.state.name} in the end, attempt {view.attempt}"
        if view.request_id not in asked:
            yield f"task {task_id} exists, and nobody submitted it"
        elif owners.setdefault(view.request_id, task_id) != task_id:
            yield f"request {view.request_id} made two tasks, {owners[view.request_id]} and {task_id}"


def _effects(history: History) -> Iterator[str]:
    """A step whose record was acknowledged is never begun again; what succeeded has done all its steps."""
    acked: dict[tuple[str, str], int] = {}
    for call in history.calls:
        if call.kind is Kind.STEP and call.answer is Told.OK:
            step = (call.task_id, call.key)
            acked[step] = min(acked.get(step, call.returned), call.returned)
    done: set[tuple[str, str]] = set()
    by_attempt: set[tuple[str, str, int]] = set()
    for effect in history.effects:
        step = (effect.task_id, effect.key)
        done.add(step)
        if step in acked and effect.at > acked[step]:
            yield f"step {effect.key} of {effect.task_id} ran again, in attempt {effect.attempt}"
        if (*step, effect.attempt) in by_attempt:
            yield f"step {effect.key} of {effect.task_id} ran twice in attempt {effect.attempt}"
        by_attempt.add((*step, effect.attempt))
    for task_id, view in (history.end or {}).items():
        if view.state is TaskState.SUCCEEDED:
            missing = [k for k in history.steps.get(view.request_id, ()) if (task_id, k) not in done]
            if missing:
                yield f"task {task_id} succeeded without step {missing[0]}"


def _by_task(history: History) -> dict[str, list[Call]]:
    """The calls on each task. A submission without an answer belongs to the task its request made, if any."""
    known = {view.request_id: task_id for task_id, view in (history.end or {}).items()} | acked_ids(history)
    tasks: dict[str, list[Call]] = defaultdict(list)
    for call in history.calls:
        task_id = known.get(call.request_id, "") if call.kind is Kind.SUBMIT else call.task_id
        if task_id:
            tasks[task_id].append(call)
    for task_id, view in (history.end or {}).items():
        tasks[task_id].append(_last_look(task_id, view, history.ended_at))
    return tasks


def _last_look(task_id: str, view: View, at: int) -> Call:
    return Call(Kind.READ, at, task_id, returned=at, answer=view)
