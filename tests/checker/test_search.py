"""The checker on histories made by hand: what is right although it looks odd, and what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.nouns import TaskState
from coterie.core.transitions import TERMINAL
from tests.checker.check import judge
from tests.checker.history import FOREVER, Call, Effect, History, Kind, Told, View
from tests.checker.search import Found, search

RUNNING = View(TaskState.RUNNING, 1, checkpoint=0)
PENDING = View(TaskState.PENDING, 0, checkpoint=0)


def call(kind: Kind, at: int, until: int = FOREVER, answer: Any = None, **what: Any) -> Call:
    """A call on task t1."""
    return Call(kind, at, "t1", returned=until, answer=answer, **what)


SUBMIT = call(Kind.SUBMIT, 0, 10, Told.OK, request_id="r1")
FINISH = call(Kind.FINISH, 40, 50, Told.OK, attempt=1, value=b"x")
DONE = View(TaskState.SUCCEEDED, 1, checkpoint=0, result=b"x")

GOOD: dict[str, list[Call]] = {
    "read before the submission was answered": [SUBMIT, call(Kind.READ, 1, 5, PENDING)],
    "read beside the end, either way": [
        SUBMIT,
        FINISH,
        call(Kind.READ, 41, 45, RUNNING),
        call(Kind.READ, 41, 49, DONE),
    ],
    "an unknown end that happened late": [
        SUBMIT,
        call(Kind.FINISH, 20, attempt=1, value=b"x"),
        call(Kind.READ, 30, 40, RUNNING),
        call(Kind.READ, 900, 910, DONE),
    ],
    "an unknown end that never happened": [
        SUBMIT,
        call(Kind.FINISH, 20, attempt=1, value=b"x"),
        call(Kind.READ, 900, 910, RUNNING),
    ],
    "a cancellation on its way, then confirmed": [
        SUBMIT,
        call(Kind.CANCEL, 20, 30, Told.OK),
        call(Kind.READ, 31, 32, View(TaskState.RUNNING, 1, cancel_requested=True, checkpoint=0)),
        call(Kind.CONFIRM, 33, 40, Told.OK, attempt=1),
        call(Kind.READ, 41, 42, View(TaskState.CANCELLED, 1, cancel_requested=True, checkpoint=0)),
    ],
    "a step whose first try was accepted and whose second was fenced": [
        SUBMIT,
        call(Kind.STEP, 20, 60, Told.FENCED, attempt=1, key="s1", value=b"a", tries=2),
        call(Kind.READ, 70, 80, View(TaskState.RUNNING, 2, step_count=1, checkpoint=0)),
    ],
    "the same end reported twice": [
        SUBMIT,
        FINISH,
        call(Kind.FINISH, 60, 70, Told.OK, attempt=1, value=b"x"),
    ],
}
BAD: dict[str, list[Call]] = {
    "an acknowledged task is not there": [SUBMIT, call(Kind.READ, 20, 30, Told.MISSING)],
    "a task is there before it was submitted": [call(Kind.READ, -9, -5, PENDING), SUBMIT],
    "two reads, one after the other, that go back": [
        SUBMIT,
        FINISH,
        call(Kind.READ, 41, 43, DONE),
        call(Kind.READ, 44, 48, RUNNING),
    ],
    "a step that was fenced at once, and counts": [
        SUBMIT,
        call(Kind.STEP, 20, 60, Told.FENCED, attempt=1, key="s1", value=b"a"),
        call(Kind.READ, 70, 80, View(TaskState.RUNNING, 2, step_count=1, checkpoint=0)),
    ],
    "a fenced attempt that is accepted again": [
        SUBMIT,
        call(Kind.START, 20, 30, Told.FENCED, attempt=1),
        call(Kind.FINISH, 40, 50, Told.OK, attempt=1, value=b"x"),
    ],
    "a task in the queue whose last attempt still reports": [
        SUBMIT,
        call(Kind.READ, 20, 30, View(TaskState.PENDING, 1, checkpoint=0)),
        call(Kind.START, 40, 50, Told.OK, attempt=1),
    ],
    "an attempt number that goes down": [
        SUBMIT,
        call(Kind.READ, 20, 30, View(TaskState.RUNNING, 2, checkpoint=0)),
        call(Kind.READ, 40, 50, RUNNING),
    ],
    "two results": [SUBMIT, FINISH, call(Kind.FINISH, 60, 70, Told.OK, attempt=2, value=b"y")],
    "cancelled, and a result all the same": [SUBMIT, call(Kind.CANCEL, 20, 30, Told.OK), FINISH],
    "a step done twice with two results": [
        SUBMIT,
        call(Kind.STEP, 20, 30, Told.OK, attempt=1, key="s1", value=b"a"),
        call(Kind.STEP, 40, 50, Told.OK, attempt=2, key="s1", value=b"b"),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_accepted(name: str) -> None:
    assert search(GOOD[name], closed=True) is Found.YES


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_refused(name: str) -> None:
    assert search(BAD[name], closed=True) is Found.NO


def test_clients_alone_may_see_what_no_call_explains_but_never_less_than_before() -> None:
    ahead = call(Kind.READ, 20, 30, View(TaskState.RUNNING, 2, step_count=3))
    behind = call(Kind.READ, 40, 50, View(TaskState.RUNNING, 2, step_count=1))
    done = call(Kind.READ, 60, 70, View(TaskState.SUCCEEDED, 2, step_count=3, result=b"x"))
    other = call(Kind.READ, 80, 90, View(TaskState.SUCCEEDED, 2, step_count=3, result=b"y"))
    assert search([SUBMIT, ahead], closed=True) is Found.NO
    assert search([SUBMIT, ahead, done], closed=False) is Found.YES
    assert search([SUBMIT, ahead, behind], closed=False) is Found.NO
    assert search([SUBMIT, done, other], closed=False) is Found.NO
    assert search([SUBMIT, done, call(Kind.CANCEL, 80, 90, Told.OK)], closed=False) is Found.NO
    assert search([SUBMIT, done, call(Kind.CANCEL, 80, 90, Told.TERMINAL)], closed=False) is Found.YES


def test_clients_see_no_result_of_what_was_cancelled() -> None:
    """It may have run out of time before its node had stopped, which is an end without a result."""
    cancel = call(Kind.CANCEL, 20, 30, Told.OK)
    asked = call(Kind.READ, 20, 30, View(TaskState.RUNNING, 1, cancel_requested=True))
    for first in (cancel, asked):
        for state in TERMINAL:
            last = call(Kind.READ, 60, 70, View(state, 1, cancel_requested=state is not TaskState.SUCCEEDED))
            fits = state is not TaskState.SUCCEEDED
            assert search([SUBMIT, first, last], closed=False) is (Found.YES if fits else Found.NO)
    going = call(Kind.READ, 40, 50, RUNNING)
    assert search([SUBMIT, cancel, going], closed=False) is Found.NO
    assert search([SUBMIT, asked, going], closed=False) is Found.NO
    late = call(Kind.CANCEL, 20, answer=None)  # nobody knows whether it was heard
    assert search([SUBMIT, late, call(Kind.READ, 60, 70, DONE)], closed=False) is Found.YES


def test_many_lost_retries_stay_quick() -> None:
    """Copies of one idempotent call without an answer count once, so the search stays small."""
    lost = [call(Kind.STEP, 20 + n, attempt=1, key="s1", value=b"a") for n in range(200)]
    reads = [call(Kind.READ, 20 + n) for n in range(200)]
    assert search([SUBMIT, *lost, *reads, FINISH], closed=True, limit=100) is Found.YES


def test_a_search_that_does_not_end_says_so() -> None:
    unknown = [call(Kind.STEP, 20, attempt=1, key=f"s{n}", value=b"a") for n in range(12)]
    last = call(Kind.READ, 900, 910, View(TaskState.RUNNING, 1, step_count=20, checkpoint=0))
    assert search([SUBMIT, *unknown, last], closed=True, limit=500) is Found.UNSURE
    history = History([SUBMIT, *unknown[:2], last])
    assert judge(history).faults == ["task t1: its 4 calls fit no order"]


def test_effects_are_compared_with_acknowledged_steps() -> None:
    step = call(Kind.STEP, 20, 30, Told.OK, attempt=1, key="s1", value=b"a")
    first = Effect(19, "t1", "s1", 1)
    assert judge(History([SUBMIT, step], [first])).faults == []
    again = judge(History([SUBMIT, step], [first, Effect(31, "t1", "s1", 2)]))
    assert again.faults == ["step s1 of t1 ran again, in attempt 2"]
    twice = judge(History([SUBMIT, step], [first, Effect(20, "t1", "s1", 1)]))
    assert twice.faults == ["step s1 of t1 ran twice in attempt 1"]
