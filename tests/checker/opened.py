"""Histories as clients alone can tell them: what a real run leaves behind (see tests.checker.files).

Of the ways in which a history can be broken, `SEEN` must be noticed in these too. `UNSEEN` cannot, for the
reason given; `FACES` are what such faults, and others, look like to a client: these must be noticed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from coterie.core.nouns import TaskState
from tests.checker.check import acked_ids
from tests.checker.history import Call, History, Kind, Told, View
from tests.checker.mutations import Mutation, later

CLIENTS_CALLS = frozenset({Kind.SUBMIT, Kind.READ, Kind.CANCEL})
SEEN = ("lost task", "two ids for a key", "shared id", "changed result", "cancel after done")
UNSEEN = {
    "zombie done": "only the worker is told that its late result was taken; see 'result replaced'",
    "old-attempt checkpoint": "only the worker is told, and reads tell no checkpoints",
    "stale read": "only the worker knows that the task had ended before; see 'read going back'",
    "checkpoint going back": "reads tell no checkpoints; see 'steps going back'",
    "cancel undone": "only the worker is told that its result was taken; see 'result after cancel'",
    "repeated effect": "effects are no calls: the runs compare the witness files that steps leave",
    "skipped step": "likewise",
    "ghost task": "clients look at the ids that they were given; see 'ghost that is shown'",
    "stuck task": "no call says when all must have ended: the runs wait for every end",
}


def opened(history: History) -> History:
    """What the clients of that run could tell: their own calls, and a last look at each task that they were
    given, when all was quiet."""
    calls = [_as_told(call) for call in history.calls if call.kind in CLIENTS_CALLS]
    end, at = history.end or {}, history.ended_at
    for task_id in sorted(set(acked_ids(history).values())):
        view = end.get(task_id)
        calls.append(_as_told(Call(Kind.READ, at, task_id, returned=at + 1, answer=view or Told.MISSING)))
    return History(calls, closed=False, ended_at=at + 1)


def _as_told(call: Call) -> Call:
    view = call.answer
    return replace(call, answer=replace(view, checkpoint=None) if isinstance(view, View) else view)


# --- what faults look like to a client: these change an open history


def _shown_later(good: Callable[[View], bool], change: Callable[[View], View]) -> Mutation:
    """A read that shows something, and right after it one that shows something else."""

    def mutation(history: History, rng: random.Random) -> bool:
        looks = _looks(history, good)
        if looks:
            call, view = rng.choice(looks)
            later(history, call, answer=change(view))
        return bool(looks)

    return mutation


def _looks(history: History, good: Callable[[View], bool]) -> list[tuple[Call, View]]:
    """The reads that showed such a thing."""
    shown = [(call, call.answer) for call in history.calls if isinstance(call.answer, View)]
    return [(call, view) for call, view in shown if good(view)]


def _shown_alone(kind: Kind, *views: View) -> Mutation:
    """A call that was acknowledged, and looks at the task that do not go with it, or with each other: no
    other call of the task gives them away."""

    def mutation(history: History, rng: random.Random) -> bool:
        found = [call for call in history.calls if call.kind is kind and call.answer is Told.OK]
        if not found:
            return False
        last = picked = rng.choice(found)
        history.calls = [
            call
            for call in history.calls
            if call is picked or call.kind is Kind.SUBMIT or call.task_id != picked.task_id
        ]
        for view in views:
            later(history, last, kind=Kind.READ, answer=view)
            last = history.calls[-1]
        return True

    return mutation


def _cancelled_after_its_end(history: History, rng: random.Random) -> bool:
    looks = _looks(history, lambda view: view.state is TaskState.SUCCEEDED)
    if looks:
        later(history, rng.choice(looks)[0], kind=Kind.CANCEL)
    return bool(looks)


def _ghost_shown(history: History, rng: random.Random) -> bool:
    view = View(TaskState.SUCCEEDED, 1, request_id="nobody")
    history.calls.append(Call(Kind.READ, 5, "t-ghost", returned=6, answer=view))
    return True


def _seen_before(history: History, rng: random.Random) -> bool:
    """A read shows a task that was submitted later."""
    submits = [c for c in history.calls if c.kind is Kind.SUBMIT and c.answer is Told.OK]
    if not submits:
        return False
    call = rng.choice(submits)
    early = {"invoked": call.invoked - 2, "returned": call.invoked - 1}
    later(history, call, kind=Kind.READ, answer=View(TaskState.PENDING, 0), **early)
    return True


RUNNING = View(TaskState.RUNNING, 99)
CANCELLING = replace(RUNNING, cancel_requested=True)
DONE = replace(RUNNING, state=TaskState.SUCCEEDED, result=b"done")
FACES: dict[str, Mutation] = {
    "read going back": _shown_later(
        lambda view: view.ended, lambda view: replace(view, state=TaskState.RUNNING, result=b"")
    ),
    "attempt going back": _shown_later(
        lambda view: view.attempt > 1, lambda view: replace(view, attempt=view.attempt - 1)
    ),
    "steps going back": _shown_later(
        lambda view: view.step_count > 0, lambda view: replace(view, step_count=view.step_count - 1)
    ),
    "result replaced": _shown_later(
        lambda view: view.state is TaskState.SUCCEEDED, lambda view: replace(view, result=b"another")
    ),
    "another end": _shown_later(
        lambda view: view.state is TaskState.SUCCEEDED,
        lambda view: replace(view, state=TaskState.FAILED, result=b""),
    ),
    "result after cancel": _shown_alone(Kind.CANCEL, DONE),
    "cancel forgotten": _shown_alone(Kind.CANCEL, RUNNING),
    "cancel taken back": _shown_alone(Kind.SUBMIT, CANCELLING, RUNNING),
    "result of what is cancelled": _shown_alone(Kind.SUBMIT, CANCELLING, DONE),
    "cancelled with a result": _shown_alone(Kind.SUBMIT, replace(DONE, cancel_requested=True)),
    "cancel after a seen end": _cancelled_after_its_end,
    "ghost that is shown": _ghost_shown,
    "seen before it was submitted": _seen_before,
}
