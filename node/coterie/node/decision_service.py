"""The Approvals and Effects services: what tasks may not decide alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from coterie.core.commands import Command, Rejected, ResolveApproval, ResolveStep
from coterie.core.decisions.nouns import Approval, Doubt, OpenStep, Resolution, StepState, state_of
from coterie.core.nouns import Task, TaskId
from coterie.core.state import ClusterState
from coterie.node import convert
from coterie.node.admission import check_page_size, checked_tenant, task_id_of
from coterie.node.errors import Violation, from_rejection, invalid, not_found
from coterie.node.proposer import Proposer
from coterie.node.reads import Reader
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.security.principal import NOBODY, caller
from coterie.v1 import decisions_pb2, decisions_pb2_grpc, tasks_pb2

RESULT_BYTES_MAX = 256 * 1024
TEXT_CHARS_MAX = 1_000
NAME_CHARS_MAX = 128
RESOLUTIONS = {
    decisions_pb2.STEP_DONE: Resolution.DONE,
    decisions_pb2.STEP_RETRIED: Resolution.RETRIED,
    decisions_pb2.STEP_FAILED: Resolution.FAILED,
}


@dataclass(frozen=True, slots=True)
class Decisions:
    """What both services work on."""

    state: Callable[[], ClusterState]
    reader: Reader
    proposer: Proposer

    async def settled(self, context: Context) -> ClusterState:
        """The state, as fresh as the leader's."""
        await self.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        return self.state()

    async def propose(self, command: Command, context: Context) -> None:
        await self.reader.connected()
        outcome = await self.proposer.one(command, propose_seconds(context))
        if isinstance(outcome, Rejected):
            raise from_rejection(outcome)


class ApprovalsService(decisions_pb2_grpc.ApprovalsServicer):
    """Any node answers."""

    def __init__(self, decisions: Decisions, gate: Gate) -> None:
        self._decisions, self.gate = decisions, gate

    @unary
    async def ListApprovals(
        self, request: decisions_pb2.ListApprovalsRequest, context: Context
    ) -> decisions_pb2.ListApprovalsResponse:
        tenant, limit = checked_tenant(request.parent), check_page_size(request.page_size)
        state = await self._decisions.settled(context)
        found = (one for one in _asked(state, request.task_id) if one.tenant == tenant)
        wanted = (one for one in found if request.include_decided or _told(one, state).verdict == 1)
        ordered = sorted(wanted, key=lambda one: (one.asked_at_ms, one.approval_id))
        return decisions_pb2.ListApprovalsResponse(approvals=[_told(one, state) for one in ordered[:limit]])

    @unary
    async def ResolveApproval(
        self, request: decisions_pb2.ResolveApprovalRequest, context: Context
    ) -> decisions_pb2.Approval:
        wrong = _long(request.comment, "comment", TEXT_CHARS_MAX)
        wrong += _long(request.principal, "principal", NAME_CHARS_MAX)
        if wrong:
            raise invalid(wrong)
        state = await self._decisions.settled(context)
        task_id = TaskId(request.approval_id.rpartition("~")[0])
        known = _find(state, task_id, request.approval_id)
        command = ResolveApproval(
            task_id,
            known.approval_id,
            _principal(request.principal),
            request.approve,
            request.call_sha256,
            request.comment,
        )
        await self._decisions.propose(command, context)
        state = self._decisions.state()
        held = state.approvals.get(task_id)
        return _told((held.find(known.approval_id) if held else None) or known, state)


class EffectsService(decisions_pb2_grpc.EffectsServicer):
    """Any node answers."""

    def __init__(self, decisions: Decisions, gate: Gate) -> None:
        self._decisions, self.gate = decisions, gate

    @unary
    async def ListDoubts(
        self, request: decisions_pb2.ListDoubtsRequest, context: Context
    ) -> decisions_pb2.ListDoubtsResponse:
        tenant, limit = checked_tenant(request.parent), check_page_size(request.page_size)
        state = await self._decisions.settled(context)
        doubts = [_open(task, step) for task, step in open_doubts(state) if task.tenant == tenant]
        doubts.sort(key=lambda doubt: (-doubt.begin_time.ToMilliseconds(), doubt.task_id, doubt.step))
        if not request.open_only:
            past = (doubt for doubt in reversed(state.doubts.values()) if doubt.tenant == tenant)
            doubts += [_past(doubt) for doubt in islice(past, max(0, limit - len(doubts)))]
        total = state.meta.doubts_total if caller().everywhere else len(doubts)
        return decisions_pb2.ListDoubtsResponse(doubts=doubts[:limit], total=total)

    @unary
    async def ResolveStep(
        self, request: decisions_pb2.ResolveStepRequest, context: Context
    ) -> tasks_pb2.Task:
        task_id, resolution = task_id_of(request.name), RESOLUTIONS.get(request.resolution)
        wrong = _long(request.reason, "reason", TEXT_CHARS_MAX)
        wrong += _long(request.principal, "principal", NAME_CHARS_MAX)
        result = convert.data_from_pb(request.result)
        if resolution is None:
            wrong.append(Violation("resolution", "say DONE with a result, RETRIED or FAILED"))
        if len(result.inline) > RESULT_BYTES_MAX or result.sha256:
            wrong.append(Violation("result", f"give at most {RESULT_BYTES_MAX} bytes of JSON inline"))
        if resolution is None or wrong:
            raise invalid(wrong)
        who = _principal(request.principal)
        command = ResolveStep(task_id, request.step, resolution, result, who, request.reason)
        await self._decisions.propose(command, context)
        return self._decisions.reader.to_pb(
            await self._decisions.reader.get(task_id, propose_seconds(context))
        )


def open_doubts(state: ClusterState) -> Iterator[tuple[Task, OpenStep]]:
    """Steps of live tasks that are in doubt now and wait for a policy or a person."""
    for task_id, held in state.open_steps.items():
        task = state.tasks[task_id]
        for step in held.steps:
            if state_of(task, step) is StepState.IN_DOUBT and not step.decision:
                yield task, step


def _principal(claimed: str) -> str:
    """Who calls, as the cluster knows them; where it asks nobody, as they say."""
    known = caller().name
    return known if known != NOBODY.name else claimed or NOBODY.name


def _asked(state: ClusterState, task_id: str) -> Iterator[Approval]:
    """What one task asks; without one, what all ask."""
    held = state.approvals.get(TaskId(task_id))
    for one in (held,) if task_id else state.approvals.values():
        yield from one.approvals if one is not None else ()


def _find(state: ClusterState, task_id: TaskId, name: str) -> Approval:
    held = state.approvals.get(task_id)
    known = held.find(name) if held is not None else None
    if known is None or not caller().sees(known.tenant):
        raise not_found("APPROVAL", name)
    return known


def _long(text: str, field: str, chars_max: int) -> list[Violation]:
    return [Violation(field, f"has more than {chars_max} characters")] if len(text) > chars_max else []


def _told(approval: Approval, state: ClusterState) -> decisions_pb2.Approval:
    verdict = int(approval.verdict)
    if verdict == decisions_pb2.APPROVAL_PENDING and 0 < approval.expires_at_ms <= state.meta.clock_ms:
        verdict = int(decisions_pb2.APPROVAL_EXPIRED)
    message = decisions_pb2.Approval(
        approval_id=approval.approval_id,
        task_id=approval.task_id,
        tenant=approval.tenant,
        question=approval.question,
        call_sha256=approval.call_sha256,
        call=approval.call.inline,
        needed=approval.needed,
        verdict=verdict,  # type: ignore[arg-type]
    )
    message.ask_time.FromMilliseconds(approval.asked_at_ms)
    if approval.expires_at_ms:
        message.expire_time.FromMilliseconds(approval.expires_at_ms)
    for vote in approval.votes:
        item = message.votes.add(principal=vote.principal, approve=vote.approve, comment=vote.comment)
        item.time.FromMilliseconds(vote.at_ms)
    return message


def _open(task: Task, step: OpenStep) -> decisions_pb2.Doubt:
    message = decisions_pb2.Doubt(
        task_id=task.task_id,
        step=step.key,
        attempt=step.attempt,
        tenant=task.tenant,
        effect_key=step.effect_key,
        open=True,
    )
    message.begin_time.FromMilliseconds(step.at_ms)
    return message


def _past(doubt: Doubt) -> decisions_pb2.Doubt:
    message = decisions_pb2.Doubt(
        task_id=doubt.task_id,
        step=doubt.key,
        attempt=doubt.attempt,
        tenant=doubt.tenant,
        effect_key=doubt.effect_key,
        resolution=int(doubt.resolution),  # type: ignore[arg-type]
        by=doubt.by,
        reason=doubt.reason,
    )
    message.begin_time.FromMilliseconds(doubt.begun_at_ms)
    message.resolve_time.FromMilliseconds(doubt.at_ms)
    return message
