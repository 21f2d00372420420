"""Is there an order of one object's calls that keeps real time and gives every answer? A depth-first search
with memory (Wing and Gong 1993; the memory of seen configurations is Lowe's, 2017). Tasks do not influence
each other's answers, so each is searched alone (Herlihy and Wing 1990: linearizability is local)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum

from tests.checker.history import FOREVER, Call, Kind, Told
from tests.checker.model import TaskModel, after

CONFIGURATIONS_MAX = 200_000


class Found(Enum):
    YES = "linearizable"
    NO = "not linearizable"
    UNSURE = "not decided within the limit"


def relevant(calls: Iterable[Call]) -> list[Call]:
    """The calls that say something, by the time they were made.

    A read without an answer says nothing. Calls without an answer are idempotent and have no end, so one
    copy stands for all equal ones. A refusal after several tries hides an earlier try that may have been
    accepted: that becomes a call without an answer of its own."""
    kept: list[Call] = []
    for call in sorted(calls, key=lambda call: call.invoked):
        if call.answer is None:
            if call.kind is not Kind.READ:
                kept.append(call)
            continue
        kept.append(call)
        refused = call.answer in (Told.FENCED, Told.TERMINAL, Told.RECORDED, Told.CANCELLED)
        if refused and call.tries > 1:
            kept.append(replace(call, answer=None, returned=FOREVER))
    seen: set[tuple[object, ...]] = set()
    return [call for call in kept if call.answer is not None or not _is_known(call, seen)]


def _is_known(call: Call, seen: set[tuple[object, ...]]) -> bool:
    known = call.identity in seen
    seen.add(call.identity)
    return known


def search(calls: Iterable[Call], *, closed: bool, limit: int = CONFIGURATIONS_MAX) -> Found:
    """Whether the calls on one task can be put in order."""
    ops = relevant(calls)
    must = sum(1 << at for at, call in enumerate(ops) if call.answer is not None)
    stack: list[tuple[int, TaskModel]] = [(0, TaskModel())]
    seen: set[tuple[int, TaskModel]] = set()
    while stack:
        configuration = stack.pop()
        done, model = configuration
        if done & must == must:
            return Found.YES
        if configuration in seen:
            continue
        seen.add(configuration)
        if len(seen) > limit:
            return Found.UNSURE
        for at in reversed(_candidates(ops, done)):
            stack += [(done | 1 << at, state) for state in after(model, ops[at], closed=closed)]
    return Found.NO


def _candidates(ops: list[Call], done: int) -> list[int]:
    """Calls that may come next: made before any call that is still open has returned."""
    first_return = FOREVER
    candidates: list[int] = []
    for at, call in enumerate(ops):
        if call.invoked > first_return:
            break
        if not done >> at & 1:
            candidates.append(at)
            first_return = min(first_return, call.returned)
    return candidates
