"""A task as a sequential object: which answers are right in which order.

What the cluster does on its own - assigning, taking back - is no call; it shows in attempt numbers only,
which therefore may grow before any call. In a closed history everything else is a call. In an open one
(clients alone were recorded) a read may also show more than any call explains, and never less than before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from coterie.core.nouns import TaskState
from coterie.core.transitions import HELD, TERMINAL
from tests.checker.history import Call, Kind, Told, View

# Besides the terminal states. ENDED: which end is not known; STOPPED: nor here, but it has no result.
ABSENT, OPEN, CANCELLING, ENDED, STOPPED = -1, -2, -3, -4, -5


class TaskModel(NamedTuple):
    """`floor`: the lowest attempt whose reports may still be accepted."""

    phase: int = ABSENT
    attempt: int = 0
    floor: int = 1
    steps: frozenset[tuple[str, int, bytes]] = frozenset()
    step_count: int = 0
    checkpoint: int = 0
    result: bytes = b""

    @property
    def lives(self) -> bool:
        return self.phase in (OPEN, CANCELLING)


Next = Iterator[TaskModel]


def after(model: TaskModel, call: Call, *, closed: bool) -> Next:
    """Every state the task may be in after a call with its answer; none: the answer is wrong here."""
    if call.kind is Kind.SUBMIT:
        yield model if model.phase != ABSENT else model._replace(phase=OPEN)
        return
    if model.phase == ABSENT:
        if call.answer is Told.MISSING:
            yield model
        return
    for state in _by_itself(model, closed):
        yield from _RULES[call.kind](state, call, closed)


def _by_itself(model: TaskModel, closed: bool) -> Next:
    """The cluster confirms a cancellation when the node that should is gone. What was cancelled may still
    run out of time, but never succeed: the log decides."""
    yield model
    if model.phase == CANCELLING:
        yield model._replace(phase=TaskState.CANCELLED)
    if model.lives and not closed:
        yield model._replace(phase=ENDED if model.phase == OPEN else STOPPED)


def _read(model: TaskModel, call: Call, closed: bool) -> Next:
    view = call.answer
    if not isinstance(view, View) or not _shows(model, view, closed):
        return
    seen = model._replace(
        attempt=view.attempt, step_count=view.step_count, floor=max(model.floor, view.attempt)
    )
    if not view.ended and view.cancel_requested:
        seen = seen._replace(phase=CANCELLING)  # whoever asked for it
    if view.ended:
        yield seen._replace(phase=int(view.state), result=view.result)
    elif view.state in HELD:
        yield seen
    else:  # taken back: what its last attempt still says comes too late
        yield seen._replace(floor=max(model.floor, view.attempt + 1))


def _shows(model: TaskModel, view: View, closed: bool) -> bool:
    if view.attempt < model.attempt or not _same_progress(model, view, closed):
        return False
    if view.ended:
        known = model.phase == view.state and model.result == view.result
        return known or (model.phase in (ENDED, STOPPED) and _may_end(model, view))
    expected = CANCELLING if view.cancel_requested else OPEN
    if model.phase != expected and not (not closed and model.phase == OPEN and view.cancel_requested):
        return False
    return view.attempt >= (model.floor if view.state in HELD else model.floor - 1)


def _may_end(model: TaskModel, view: View) -> bool:
    if view.state is TaskState.SUCCEEDED and (view.cancel_requested or model.phase == STOPPED):
        return False
    return view.state in TERMINAL and not (model.result and model.result != view.result)


def _same_progress(model: TaskModel, view: View, closed: bool) -> bool:
    if not closed:
        return view.step_count >= model.step_count
    numbers_match = view.checkpoint is None or view.checkpoint == model.checkpoint
    return numbers_match and view.step_count == model.step_count


def _cancel(model: TaskModel, call: Call, closed: bool) -> Next:
    if call.answer is Told.TERMINAL:
        if model.phase not in (OPEN, CANCELLING, TaskState.CANCELLED):
            yield model
    elif call.answer in (Told.OK, None):
        if model.phase == OPEN:
            yield model._replace(phase=CANCELLING)
            yield model._replace(phase=TaskState.CANCELLED)
        elif model.phase in (CANCELLING, TaskState.CANCELLED):
            yield model


def _report(accept: Callable[[TaskModel, Call], Next]) -> Callable[[TaskModel, Call, bool], Next]:
    """A worker's report: `accept` says what an accepted one does; refusals are alike for all."""

    def rule(model: TaskModel, call: Call, closed: bool) -> Next:
        if call.answer is Told.FENCED:
            if model.lives:
                yield model._replace(
                    attempt=max(model.attempt, call.attempt), floor=max(model.floor, call.attempt + 1)
                )
        elif call.answer is Told.TERMINAL:
            if not model.lives:
                yield model
        else:
            yield from accept(model, call)

    return rule


def _holds(model: TaskModel, call: Call) -> TaskModel | None:
    if not model.lives or call.attempt < model.floor:
        return None
    return model._replace(attempt=call.attempt, floor=call.attempt)


def _start(model: TaskModel, call: Call) -> Next:
    held = _holds(model, call)
    if held is not None:
        yield held


def _step(model: TaskModel, call: Call) -> Next:
    held = _holds(model, call)
    if held is None:
        return
    known = next((step for step in model.steps if step[0] == call.key), None)
    if call.answer is Told.RECORDED:
        if known is not None:
            yield held
    elif known is None:
        step = (call.key, call.attempt, call.value)
        yield held._replace(steps=model.steps | {step}, step_count=model.step_count + 1)
    elif known == (call.key, call.attempt, call.value):
        yield held


def _checkpoint(model: TaskModel, call: Call) -> Next:
    held = _holds(model, call)
    if held is not None:
        yield held._replace(checkpoint=max(model.checkpoint, call.number))


def _finish(model: TaskModel, call: Call) -> Next:
    held = _holds(model, call)
    if held is not None and model.phase == CANCELLING and call.answer in (Told.CANCELLED, None):
        yield held._replace(phase=TaskState.CANCELLED)
    elif call.answer is Told.CANCELLED:
        return
    elif held is not None and model.phase == OPEN:
        yield held._replace(phase=TaskState.SUCCEEDED, result=call.value)
    elif model.phase == TaskState.SUCCEEDED and (model.attempt, model.result) == (call.attempt, call.value):
        yield model


def _fail(model: TaskModel, call: Call) -> Next:
    yield from _release(model, call)
    held = _holds(model, call)
    if held is not None and model.phase == OPEN:
        yield held._replace(phase=TaskState.FAILED)


def _release(model: TaskModel, call: Call) -> Next:
    held = _holds(model, call)
    if held is None:
        return
    if model.phase == CANCELLING:
        yield held._replace(phase=TaskState.CANCELLED)
    else:
        yield held._replace(floor=call.attempt + 1)


def _confirm(model: TaskModel, call: Call) -> Next:
    held = _holds(model, call)
    if held is not None and model.phase == CANCELLING:
        yield held._replace(phase=TaskState.CANCELLED)


_RULES: dict[Kind, Callable[[TaskModel, Call, bool], Next]] = {
    Kind.READ: _read,
    Kind.CANCEL: _cancel,
    Kind.START: _report(_start),
    Kind.STEP: _report(_step),
    Kind.CHECKPOINT: _report(_checkpoint),
    Kind.FINISH: _report(_finish),
    Kind.FAIL: _report(_fail),
    Kind.RELEASE: _report(_release),
    Kind.CONFIRM: _report(_confirm),
}
