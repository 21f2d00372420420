"""What may be proposed about steps in the air and about approvals."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.decisions.nouns import OnUnknown, Resolution
from coterie.core.nouns import NO_DATA, Data, TaskId


@dataclass(frozen=True, slots=True)
class BeginStep:
    """The intent of a step, before its effect: later attempts know that it may have happened."""

    task_id: TaskId
    attempt: int
    key: str
    effect_key: str
    on_unknown: OnUnknown


@dataclass(frozen=True, slots=True)
class WithdrawStep:
    """The effect has certainly not happened."""

    task_id: TaskId
    attempt: int
    key: str


@dataclass(frozen=True, slots=True)
class ResolveStep:
    """An operator says what became of a step in doubt, or what shall."""

    task_id: TaskId
    key: str
    resolution: Resolution  # DONE with its result, RETRIED or FAILED
    result: Data = NO_DATA
    principal: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AskApproval:
    """A question to people. Asked again for the same call it is the same question."""

    task_id: TaskId
    attempt: int
    approval_id: str
    question: str
    call_sha256: str
    call: Data = NO_DATA
    needed: int = 1
    timeout_ms: int = 0  # 0: it does not expire


@dataclass(frozen=True, slots=True)
class ResolveApproval:
    """One person's vote, on the call of that hash."""

    task_id: TaskId
    approval_id: str
    principal: str
    approve: bool
    call_sha256: str
    comment: str = ""
