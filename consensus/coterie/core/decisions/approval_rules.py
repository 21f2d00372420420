"""Approvals: k distinct people say yes to one call, or one says no, or time runs out."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.bounds64 import later_ms
from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.decisions.commands import AskApproval, ResolveApproval
from coterie.core.decisions.nouns import (
    APPROVALS_MAX,
    APPROVERS_MAX,
    CALL_BYTES_MAX,
    TEXT_CHARS_MAX,
    Approval,
    Approvals,
    Verdict,
    Vote,
)
from coterie.core.lifecycle import change_task, heard, no_task, wake_if_over
from coterie.core.nouns import Task
from coterie.core.state import ClusterState, Moment


def ask(state: ClusterState, command: AskApproval, moment: Moment) -> Outcome:
    task = heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    held = state.approvals.get(task.task_id) or Approvals(task.task_id, ())
    known = held.find(command.approval_id)
    if known is not None:
        return _again(state, task, held, known, command, moment)
    refused = _refused(held, command)
    if refused is not None:
        return refused
    approval = Approval(
        approval_id=command.approval_id,
        task_id=task.task_id,
        tenant=task.tenant,
        question=command.question,
        call_sha256=command.call_sha256,
        call=command.call,
        needed=command.needed,
        asked_at_ms=moment.at_ms,
        expires_at_ms=later_ms(moment.at_ms, command.timeout_ms) if command.timeout_ms > 0 else 0,
    )
    _put(state, held, approval)
    change_task(state, task, task, moment, "approval_asked", command.question)
    return Accepted(task.task_id)


def _again(
    state: ClusterState,
    task: Task,
    held: Approvals,
    known: Approval,
    command: AskApproval,
    moment: Moment,
) -> Outcome:
    if known.call_sha256 != command.call_sha256 or known.needed != command.needed:
        text = (
            f"{known.approval_id} was asked for the call {known.call_sha256}, now it is {command.call_sha256}"
        )
        return Rejected("NOT_DETERMINISTIC", text)
    _expire(state, task, held, known, moment)
    return Accepted(task.task_id, duplicate=True)


def _refused(held: Approvals, command: AskApproval) -> Rejected | None:
    if len(held.approvals) >= APPROVALS_MAX:
        return Rejected("TOO_MANY_APPROVALS", f"a task asks for at most {APPROVALS_MAX} approvals")
    if not 1 <= command.needed <= APPROVERS_MAX:
        return Rejected("BAD_APPROVAL", f"approvers: {command.needed} is not in 1..{APPROVERS_MAX}")
    if not command.question or len(command.question) > TEXT_CHARS_MAX:
        return Rejected("BAD_APPROVAL", f"question: give 1 to {TEXT_CHARS_MAX} characters")
    if len(command.call.inline) > CALL_BYTES_MAX:
        return Rejected("BAD_APPROVAL", f"call: at most {CALL_BYTES_MAX} bytes can be shown to a person")
    return None


def resolve(state: ClusterState, command: ResolveApproval, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return no_task(state, command.task_id)
    held = state.approvals.get(task.task_id)
    known = held.find(command.approval_id) if held is not None else None
    if held is None or known is None:
        return Rejected("APPROVAL_NOT_FOUND", f"no approval {command.approval_id}")
    _expire(state, task, held, known, moment)
    held = state.approvals[task.task_id]
    known = held.find(command.approval_id) or known
    voted = next((vote for vote in known.votes if vote.principal == command.principal), None)
    if voted is not None and voted.approve == command.approve:
        return Accepted(task.task_id, duplicate=True)
    refused = _vote_refused(known, voted, command)
    if refused is not None:
        return refused
    _count(state, task, held, known, command, moment)
    return Accepted(task.task_id)


def _vote_refused(known: Approval, voted: Vote | None, command: ResolveApproval) -> Rejected | None:
    if known.verdict is not Verdict.PENDING:
        return Rejected("APPROVAL_DECIDED", f"{known.approval_id} is {known.verdict.name}")
    if voted is not None:
        return Rejected("APPROVAL_DECIDED", f"{command.principal} has voted otherwise on {known.approval_id}")
    if not command.principal:
        return Rejected("BAD_APPROVAL", "principal: say who votes")
    if command.call_sha256 != known.call_sha256:
        return Rejected(
            "CALL_CHANGED", f"the vote is on {command.call_sha256}, the call is {known.call_sha256}"
        )
    return None


def _count(
    state: ClusterState,
    task: Task,
    held: Approvals,
    known: Approval,
    command: ResolveApproval,
    moment: Moment,
) -> None:
    vote = Vote(command.principal, command.approve, moment.at_ms, command.comment[:TEXT_CHARS_MAX])
    votes = (*known.votes, vote)
    verdict = Verdict.PENDING
    if not command.approve:
        verdict = Verdict.REJECTED
    elif sum(each.approve for each in votes) >= known.needed:
        verdict = Verdict.APPROVED
    _put(state, held, replace(known, votes=votes, verdict=verdict))
    said = "approved" if command.approve else "rejected"
    task = change_task(state, task, task, moment, f"call_{said}", f"{known.approval_id} by {vote.principal}")
    if task.wait is not None:
        wake_if_over(state, task, moment)


def _expire(state: ClusterState, task: Task, held: Approvals, known: Approval, moment: Moment) -> None:
    """Nobody can decide it after its time."""
    if known.verdict is Verdict.PENDING and 0 < known.expires_at_ms <= moment.at_ms:
        _put(state, held, replace(known, verdict=Verdict.EXPIRED))
        change_task(state, task, task, moment, "approval_expired", known.approval_id)


def _put(state: ClusterState, held: Approvals, approval: Approval) -> None:
    """In its place, or at the end."""
    if held.find(approval.approval_id) is None:
        approvals = (*held.approvals, approval)
    else:
        approvals = tuple(
            approval if known.approval_id == approval.approval_id else known for known in held.approvals
        )
    state.approvals[held.task_id] = Approvals(held.task_id, approvals)
