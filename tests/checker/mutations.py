"""Good histories broken in fourteen ways, to see that the checker notices every one of them.

A mutation changes the history it is given and returns True, or returns False when the history has nothing
of the kind."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace

from coterie.core.nouns import TaskState
from tests.checker.check import acked_ids
from tests.checker.history import Call, Effect, History, Kind, Told, View

Mutation = Callable[[History, random.Random], bool]


def broken(history: History, mutation: Mutation, rng: random.Random) -> History | None:
    """A copy of the history with that fault; None: it does not apply."""
    made = History(
        calls=[copy.copy(call) for call in history.calls],
        effects=list(history.effects),
        end=dict(history.end) if history.end is not None else None,
        ended_at=history.ended_at + 1_000_000,
        steps=history.steps,
        closed=history.closed,
    )
    return made if mutation(made, rng) else None


def _pick(
    history: History, rng: random.Random, kind: Kind, good: Callable[[Call], bool] = lambda call: True
) -> Call | None:
    """A call of the kind that was accepted."""
    found = [c for c in history.calls if c.kind is kind and c.answer is Told.OK and good(c)]
    return rng.choice(found) if found else None


def later(history: History, call: Call, **changes: object) -> None:
    """A call like that one, made right after it returned; answered with OK unless told otherwise."""
    fresh = {"invoked": call.returned + 1, "returned": call.returned + 2, "answer": Told.OK, "tries": 1}
    history.calls.append(replace(call, **(fresh | changes)))  # type: ignore[arg-type]


def _end(history: History) -> dict[str, View]:
    assert isinstance(history.end, dict)
    return history.end


def lost_task(history: History, rng: random.Random) -> bool:
    acked = list(acked_ids(history).values())
    if acked:
        del _end(history)[rng.choice(acked)]
    return bool(acked)


def two_ids_for_a_key(history: History, rng: random.Random) -> bool:
    call = _pick(history, rng, Kind.SUBMIT)
    if call is not None:
        later(history, call, task_id="t-other")
    return call is not None


def shared_id(history: History, rng: random.Random) -> bool:
    submits = [c for c in history.calls if c.kind is Kind.SUBMIT and c.answer is Told.OK]
    if len({call.request_id for call in submits}) < 2:
        return False
    one, other = rng.sample(submits, 2)
    one.task_id = other.task_id
    return one.request_id != other.request_id


def zombie_done(history: History, rng: random.Random) -> bool:
    """A deposed attempt's result is accepted after the real one."""
    call = _pick(history, rng, Kind.FINISH)
    if call is not None:
        later(history, call, attempt=max(1, call.attempt - 1), value=call.value + b", late")
    return call is not None


def old_attempt_checkpoint(history: History, rng: random.Random) -> bool:
    call = _pick(history, rng, Kind.CHECKPOINT, lambda c: c.attempt > 1)
    call = call or _pick(history, rng, Kind.STEP, lambda c: c.attempt > 1)
    if call is not None:
        later(
            history, call, kind=Kind.CHECKPOINT, attempt=call.attempt - 1, number=call.number + 1, value=b"?"
        )
    return call is not None


def stale_read(history: History, rng: random.Random) -> bool:
    """A read made after the end was acknowledged shows the task at work."""
    call = _pick(history, rng, Kind.FINISH)
    if call is not None:
        end = _end(history)[call.task_id]
        later(history, call, kind=Kind.READ, answer=replace(end, state=TaskState.RUNNING, result=b""))
    return call is not None


def changed_result(history: History, rng: random.Random) -> bool:
    ends = [c for c in history.calls if isinstance(c.answer, View) and c.answer.result]
    if not ends:
        return False
    call = rng.choice(ends)
    assert isinstance(call.answer, View)
    call.answer = replace(call.answer, result=b"another")
    return True


def checkpoint_going_back(history: History, rng: random.Random) -> bool:
    call = _pick(history, rng, Kind.CHECKPOINT)
    if call is not None:
        end = _end(history)[call.task_id]
        seen = replace(
            end, state=TaskState.RUNNING, attempt=call.attempt, checkpoint=call.number - 1, result=b""
        )
        later(history, call, kind=Kind.READ, answer=seen)
    return call is not None


def cancel_undone(history: History, rng: random.Random) -> bool:
    """A cancelled task gets a result all the same."""
    call = _pick(history, rng, Kind.CANCEL)
    if call is not None:
        later(history, call, kind=Kind.FINISH, attempt=99, value=b"done")
    return call is not None


def cancel_after_done(history: History, rng: random.Random) -> bool:
    call = _pick(history, rng, Kind.FINISH)
    if call is not None:
        later(history, call, kind=Kind.CANCEL)
    return call is not None


def repeated_effect(history: History, rng: random.Random) -> bool:
    """A step runs again in a later attempt although its record was acknowledged."""
    call = _pick(history, rng, Kind.STEP)
    if call is not None:
        again = Effect(call.returned + 1, call.task_id, call.key, call.attempt + 1)
        history.effects.append(again)
    return call is not None


def skipped_step(history: History, rng: random.Random) -> bool:
    ends = _end(history)
    done = [e for e in history.effects if ends[e.task_id].state is TaskState.SUCCEEDED]
    if not done:
        return False
    one = rng.choice(done)
    history.effects = [e for e in history.effects if (e.task_id, e.key) != (one.task_id, one.key)]
    return True


def ghost_task(history: History, rng: random.Random) -> bool:
    _end(history)["t-ghost"] = View(TaskState.SUCCEEDED, 1, request_id="nobody")
    return True


def stuck_task(history: History, rng: random.Random) -> bool:
    ends = _end(history)
    if not ends:
        return False
    task_id = rng.choice(sorted(ends))
    ends[task_id] = replace(ends[task_id], state=TaskState.RUNNING)
    return True


MUTATIONS: dict[str, Mutation] = {
    "lost task": lost_task,
    "two ids for a key": two_ids_for_a_key,
    "shared id": shared_id,
    "zombie done": zombie_done,
    "old-attempt checkpoint": old_attempt_checkpoint,
    "stale read": stale_read,
    "changed result": changed_result,
    "checkpoint going back": checkpoint_going_back,
    "cancel undone": cancel_undone,
    "cancel after done": cancel_after_done,
    "repeated effect": repeated_effect,
    "skipped step": skipped_step,
    "ghost task": ghost_task,
    "stuck task": stuck_task,
}
