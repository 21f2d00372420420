"""The history of a simulated run, as it is made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from coterie.core.commands import Accepted, Outcome, Rejected
from tests.checker.history import Call, History, Kind, Told, View
from tests.sim.raft.checks import Violation

_REFUSALS = {
    "FENCED": Told.FENCED,
    "TASK_TERMINAL": Told.TERMINAL,
    "TASK_NOT_FOUND": Told.MISSING,
    "STEP_RECORDED": Told.RECORDED,
    "CANCELLED": Told.CANCELLED,
}


class Recorder(History):
    """Notes calls at their virtual times; the digest of two runs of one seed must be equal."""

    def __init__(self, now: Callable[[], int]) -> None:
        super().__init__()
        self._now = now

    def call(self, kind: Kind, **what: Any) -> Call:
        call = Call(kind, self._now(), **what)
        self.calls.append(call)
        return call

    def answered(self, call: Call, answer: Outcome | Told | View, tries: int) -> None:
        call.tries = tries
        call.answered(self._now(), answer if isinstance(answer, Told | View) else _told(answer))

    def digest(self) -> str:
        return hashlib.sha256(repr((self.calls, self.effects, self.end)).encode()).hexdigest()


def _told(outcome: Outcome) -> Told:
    if isinstance(outcome, Accepted):
        return Told.OK
    assert isinstance(outcome, Rejected)
    told = _REFUSALS.get(outcome.code)
    if told is None:
        raise Violation(f"a report was refused with {outcome}")
    return told
