"""Steps in the air, what became of those that nobody could tell of, and approvals.

Invariants: a step is open or completed, never both; it is in doubt when the attempt that began it does not
hold the task any more; nobody votes twice on one approval; a decided approval never changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from coterie.core.nouns import NO_DATA, Data, Task, TaskId
from coterie.core.transitions import HELD

OPEN_STEPS_MAX = 256  # of one task
DOUBTS_MAX = 10_000
APPROVALS_MAX = 256  # of one task
APPROVERS_MAX = 16
TEXT_CHARS_MAX = 1_000
CALL_BYTES_MAX = 64 * 1024


class StepState(IntEnum):
    """Where a step stands."""

    INTENT = 1  # begun, by the attempt that holds the task
    IN_DOUBT = 2  # begun by an attempt that is over: it may have had its effect, or not
    DONE = 3


class OnUnknown(IntEnum):
    """What to do about a step in doubt."""

    RETRY = 1  # call again with the same key: the target tells them apart, or does not mind
    ASK = 2  # a person looks, and decides
    FAIL = 3


class Resolution(IntEnum):
    """What became of a step in doubt."""

    RETRIED = 1
    DONE = 2  # somebody knew its result
    FAILED = 3
    ABANDONED = 4  # its task ended without knowing


@dataclass(frozen=True, slots=True)
class OpenStep:
    """A step whose intent is recorded and whose result is not."""

    key: str
    attempt: int  # that began it last: the fence handed to the target
    at_ms: int
    effect_key: str  # what the target knows it by: the same in every attempt
    on_unknown: OnUnknown
    tries: int = 1
    decision: int = 0  # of an operator: a Resolution, or 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class OpenSteps:
    """Those of one task, in the order in which they were begun."""

    task_id: TaskId
    steps: tuple[OpenStep, ...]

    def find(self, key: str) -> OpenStep | None:
        return next((step for step in self.steps if step.key == key), None)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A step that was in doubt: kept when its task is gone, since its effect may have happened twice."""

    task_id: TaskId
    key: str
    attempt: int  # that began it
    tenant: str
    effect_key: str
    begun_at_ms: int
    at_ms: int
    resolution: Resolution
    by: str = ""  # who decided; empty: the policy of the step
    reason: str = ""


class Verdict(IntEnum):
    """Where an approval stands."""

    PENDING = 1
    APPROVED = 2
    REJECTED = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True)
class Vote:
    principal: str
    approve: bool
    at_ms: int
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """A question to people about one call: they approve the call whose hash it is, and no other."""

    approval_id: str  # of its task, and its place there
    task_id: TaskId
    tenant: str
    question: str
    call_sha256: str  # lower-case hex of the call's canonical JSON
    call: Data = NO_DATA
    needed: int = 1  # distinct people that must approve; one that rejects is enough
    asked_at_ms: int = 0
    expires_at_ms: int = 0  # 0: never
    votes: tuple[Vote, ...] = ()
    verdict: Verdict = Verdict.PENDING


@dataclass(frozen=True, slots=True)
class Approvals:
    """Those of one live task, in the order in which they were asked for."""

    task_id: TaskId
    approvals: tuple[Approval, ...]

    def find(self, approval_id: str) -> Approval | None:
        return next((one for one in self.approvals if one.approval_id == approval_id), None)


def approval_id(task_id: str, place: int) -> str:
    """The id of the n-th approval that a task asks for, from 1."""
    return f"{task_id}~approval-{place}"


def doubt_key(doubt: Doubt) -> str:
    return f"{doubt.task_id}/{doubt.attempt}/{doubt.key}"


def state_of(task: Task, step: OpenStep) -> StepState:
    """An open step is in doubt as soon as another attempt, or none, has the task."""
    holds = task.state in HELD and task.attempt == step.attempt
    return StepState.INTENT if holds else StepState.IN_DOUBT


# Of the state: the name of the dict, what is in it, and under which key.
TABLES: tuple[tuple[str, type, Callable[[Any], str]], ...] = (
    ("open_steps", OpenSteps, lambda one: one.task_id),
    ("doubts", Doubt, doubt_key),
    ("approvals", Approvals, lambda one: one.task_id),
)
SORTED = ("open_steps", "approvals")
ORDERED = ("doubts",)
