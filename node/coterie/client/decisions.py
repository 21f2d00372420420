"""What tasks may not decide alone: calls that people approve, effects of which nobody knows the outcome."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from coterie.client.connection import Connection
from coterie.client.models import TaskInfo
from coterie.client.rpc_errors import invalid
from coterie.client.spec import encode_payload
from coterie.v1 import decisions_pb2

_VERDICTS = {1: "PENDING", 2: "APPROVED", 3: "REJECTED", 4: "EXPIRED"}
_RESOLUTIONS = {1: "RETRIED", 2: "DONE", 3: "FAILED", 4: "ABANDONED"}


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person said."""

    principal: str
    approve: bool
    at: datetime
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """A question about one call: `needed` distinct people must approve it, by its hash."""

    id: str
    task: str
    question: str
    call: Any
    call_sha256: str
    needed: int
    verdict: str
    asked_at: datetime
    expires_at: datetime | None = None
    votes: tuple[Vote, ...] = ()

    @classmethod
    def of(cls, raw: decisions_pb2.Approval) -> Approval:
        """The dataclass for a message."""
        votes = (
            Vote(vote.principal, vote.approve, vote.time.ToDatetime(UTC), vote.comment) for vote in raw.votes
        )
        return cls(
            id=raw.approval_id,
            task=raw.task_id,
            question=raw.question,
            call=json.loads(raw.call) if raw.call else None,
            call_sha256=raw.call_sha256,
            needed=raw.needed,
            verdict=_VERDICTS.get(raw.verdict, str(raw.verdict)),
            asked_at=raw.ask_time.ToDatetime(UTC),
            expires_at=raw.expire_time.ToDatetime(UTC) if raw.HasField("expire_time") else None,
            votes=tuple(votes),
        )


@dataclass(frozen=True, slots=True)
class Doubt:
    """An effect that was begun and of which nobody knows, or knew, whether it happened. `resolution` is empty
    while it is in doubt."""

    task: str
    step: str
    attempt: int
    effect_key: str
    begun_at: datetime
    resolution: str = ""
    resolved_at: datetime | None = None
    by: str = ""
    reason: str = ""

    @classmethod
    def of(cls, raw: decisions_pb2.Doubt) -> Doubt:
        """The dataclass for a message."""
        return cls(
            task=raw.task_id,
            step=raw.step,
            attempt=raw.attempt,
            effect_key=raw.effect_key,
            begun_at=raw.begin_time.ToDatetime(UTC),
            resolution=_RESOLUTIONS.get(raw.resolution, ""),
            resolved_at=raw.resolve_time.ToDatetime(UTC) if raw.HasField("resolve_time") else None,
            by=raw.by,
            reason=raw.reason,
        )


ApprovalList = list[Approval]  # inside the classes `list` is a method
DoubtList = list[Doubt]


class Approvals:
    """What people are asked: `cluster.approvals`."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def list(self, *, decided: bool = False, limit: int = 50, task: str = "") -> ApprovalList:
        """The tenant's, of live tasks (of `task` alone where it is given), oldest first; also those that are
        decided if asked for."""
        connection = self._opened()
        request = decisions_pb2.ListApprovalsRequest(
            parent=f"tenants/{connection.tenant}", include_decided=decided, page_size=limit, task_id=task
        )
        answer = await connection.caller.unary(lambda e: e.approvals.ListApprovals, request)
        return [Approval.of(raw) for raw in answer.approvals]

    async def approve(self, approval: Approval, comment: str = "", *, principal: str = "") -> Approval:
        """Votes for exactly the call in `approval`. `principal`: who votes, where the cluster asks nobody.
        Raises FailedPrecondition (decided, or another call by now), NotFound."""
        return await self._vote(approval, True, comment, principal)

    async def reject(self, approval: Approval, comment: str = "", *, principal: str = "") -> Approval:
        """Votes against it; one vote is enough. Raises as `approve` does."""
        return await self._vote(approval, False, comment, principal)

    async def _vote(self, approval: Approval, approve: bool, comment: str, principal: str) -> Approval:
        request = decisions_pb2.ResolveApprovalRequest(
            approval_id=approval.id,
            approve=approve,
            call_sha256=approval.call_sha256,
            comment=comment,
            principal=principal,
        )
        voting = self._opened().caller.unary(lambda e: e.approvals.ResolveApproval, request)
        return Approval.of(await voting)


class Effects:
    """Effects in doubt: `cluster.effects`."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def doubts(self, *, open_only: bool = False, limit: int = 50) -> DoubtList:
        """The tenant's, those in doubt now first; each may have had its effect twice, or not at all."""
        connection = self._opened()
        request = decisions_pb2.ListDoubtsRequest(
            parent=f"tenants/{connection.tenant}", open_only=open_only, page_size=limit
        )
        answer = await connection.caller.unary(lambda e: e.effects.ListDoubts, request)
        return [Doubt.of(raw) for raw in answer.doubts]

    async def done(
        self, task_id: str, step: str, result: Any, reason: str = "", *, principal: str = ""
    ) -> TaskInfo:
        """The effect has happened, with this result (any JSON value): the task goes on with it.
        When the answer is lost it is not repeated but raises Unavailable, which says so: the step may be in
        doubt once more by then. Raises FailedPrecondition when the step is not in doubt, NotFound."""
        return await self._resolve(task_id, step, decisions_pb2.STEP_DONE, reason, principal, result)

    async def retry(self, task_id: str, step: str, reason: str = "", *, principal: str = "") -> TaskInfo:
        """It has not happened, or may happen again: the task calls it again. Raises as `done` does."""
        return await self._resolve(task_id, step, decisions_pb2.STEP_RETRIED, reason, principal)

    async def fail(self, task_id: str, step: str, reason: str = "", *, principal: str = "") -> TaskInfo:
        """The task is told that nobody knows. Raises as `done` does."""
        return await self._resolve(task_id, step, decisions_pb2.STEP_FAILED, reason, principal)

    async def _resolve(
        self,
        task_id: str,
        step: str,
        resolution: decisions_pb2.StepResolution.ValueType,
        reason: str,
        principal: str,
        result: Any = None,
    ) -> TaskInfo:
        if isinstance(result, bytes):
            raise invalid([("result", "bytes: give a JSON value")])
        connection = self._opened()
        request = decisions_pb2.ResolveStepRequest(
            name=connection.task_name(task_id),
            step=step,
            resolution=resolution,
            reason=reason,
            principal=principal,
        )
        if resolution == decisions_pb2.STEP_DONE:
            request.result.inline = encode_payload(result)
        look = "look with effects.doubts before you repeat it"
        return TaskInfo.of(await connection.caller.unary(lambda e: e.effects.ResolveStep, request, look=look))
