"""The Tasks and Blobs services: any node answers any call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from coterie.core import commands
from coterie.core.commands import Accepted, Outcome
from coterie.core.nouns import Task, TaskId
from coterie.core.ports import NotCommitted
from coterie.core.state import ClusterState
from coterie.core.submit_rules import full
from coterie.core.transitions import TERMINAL
from coterie.node.admission import Admission, check_page_size, task_id_of, tenant_of
from coterie.node.blob_errors import BlobError
from coterie.node.blob_exchange import CHUNK_BYTES, BlobExchange, arriving, receive_blob
from coterie.node.blobs import BlobStore
from coterie.node.clock import Clock
from coterie.node.concise import concise
from coterie.node.control import Control
from coterie.node.errors import (
    ApiError,
    Violation,
    disk_full,
    from_exception,
    from_rejection,
    invalid,
    not_found,
    to_status,
)
from coterie.node.filters import parse_filter
from coterie.node.hub import Hub
from coterie.node.ledger.rows import LedgerError
from coterie.node.links import FRAME_BYTES_MAX
from coterie.node.metrics import NodeMetrics
from coterie.node.optimist import Optimist
from coterie.node.proposer import Proposer
from coterie.node.reads import Found, Reader
from coterie.node.routes import Router
from coterie.node.rpc import (
    DEADLINE_MARGIN_S,
    PROPOSE_MAX_S,
    Context,
    Gate,
    propose_seconds,
    seconds_left,
    streaming,
    unary,
)
from coterie.node.security.principal import caller
from coterie.node.security.tickets import Tickets
from coterie.node.skillhost.nouns import SkillInfo
from coterie.node.skillset import known_skills, refuse_unknown_agent, with_defaults
from coterie.node.token_watch import TokenWatcher
from coterie.node.turns import Turns
from coterie.node.waits import RECHECK_S, wait_many
from coterie.node.watch import Watcher
from coterie.v1 import tasks_pb2, tasks_pb2_grpc

BATCH_MAX = 512
PAGE_BYTES_MAX = 3 << 20  # of a list, about, the rest is on the next page; of a batch: see _lighten
ANSWER_BYTES_MAX = FRAME_BYTES_MAX - 65_536
LEDGER_BACKLOG_MAX = 100_000
ITS_OWN = (
    ApiError,
    BlobError,
    LedgerError,
)  # what is wrong with one task of a batch, and not with the others
WAITING_BYTES_MAX = 64 << 20  # of proposals without an answer, as when there is no leader


@dataclass(frozen=True, slots=True)
class GatewayParts:
    """What the client-facing services work on."""

    state: Callable[[], ClusterState]
    proposer: Proposer
    admission: Admission
    optimist: Optimist
    router: Router
    reader: Reader
    watcher: Watcher
    tokens: TokenWatcher
    hub: Hub
    exchange: BlobExchange
    clock: Clock
    metrics: NodeMetrics
    local_skills: Callable[[], Mapping[str, SkillInfo]]
    ledger_backlog: Callable[[], int]
    takes_new_work: Callable[[], bool] = lambda: True


class TasksService(tasks_pb2_grpc.TasksServicer):
    """Submit, read, wait, watch, control."""

    def __init__(self, parts: GatewayParts, control: Control, gate: Gate) -> None:
        self._parts, self._control, self.gate = parts, control, gate

    @unary
    async def SubmitTask(self, request: tasks_pb2.SubmitTaskRequest, context: Context) -> tasks_pb2.Task:
        command = await self._admit(request)
        if request.validate_only:
            return request.task
        [outcome] = await self._submit([command], context)
        return await self._answer(outcome)

    @unary
    async def BatchSubmitTasks(
        self, request: tasks_pb2.BatchSubmitTasksRequest, context: Context
    ) -> tasks_pb2.BatchSubmitTasksResponse:
        if len(request.requests) > BATCH_MAX:
            text = f"{len(request.requests)} requests, the limit is {BATCH_MAX}; send them in parts"
            raise invalid([Violation("requests", text)])
        turns, admitted = Turns(), []
        for one in request.requests:
            admitted.append(await self._try_admit(one))
            await turns.take()
        accepted = [one for one in admitted if isinstance(one, commands.SubmitTask)]
        outcomes = iter(await self._submit(accepted, context))
        response = tasks_pb2.BatchSubmitTasksResponse()
        size = 0
        for result in admitted:
            slot = response.results.add()
            await self._fill(slot, result if isinstance(result, ApiError) else next(outcomes))
            if size + slot.ByteSize() > PAGE_BYTES_MAX:
                _lighten(slot)
            size += slot.ByteSize()
            await turns.take()
        return response

    async def _submit(self, submits: Sequence[commands.SubmitTask], context: Context) -> list[Outcome]:
        """Outcomes of the submissions; assignments that fit travel along."""
        if not submits:  # none was admitted, and that can be said without the others
            return []
        await self._parts.reader.connected()
        with self._parts.optimist.with_assignments(submits) as (batch, places):
            outcomes = await self._parts.proposer.propose(batch, propose_seconds(context))
        return [outcomes[place] for place in places]

    async def _fill(
        self, slot: tasks_pb2.BatchSubmitTasksResponse.Result, result: ApiError | Outcome
    ) -> None:
        try:
            if isinstance(result, ApiError):
                raise result
            slot.task.CopyFrom(await self._answer(result))
        except (*ITS_OWN, NotCommitted) as error:  # it may have been taken: the same again finds out
            slot.status = to_status(concise(from_exception(error))).SerializeToString()

    async def _try_admit(self, request: tasks_pb2.SubmitTaskRequest) -> commands.SubmitTask | ApiError:
        try:
            return await self._admit(request)
        except ITS_OWN as error:
            return from_exception(error)

    async def _admit(self, request: tasks_pb2.SubmitTaskRequest) -> commands.SubmitTask:
        """Everything that can be refused is refused here, before anything is proposed."""
        parts = self._parts
        if parts.proposer.waiting_bytes > WAITING_BYTES_MAX:
            raise _full("too many proposals wait on this node")
        state = parts.state()
        command = await parts.reader.confirmed(lambda: self._checked(request), PROPOSE_MAX_S)
        self._refuse_when_full(state, command)
        if request.task.task_id:
            await parts.reader.refuse_known_id(command)
        if command.payload.sha256:
            await self._ensure_blob(command, request.task.payload.blob.ticket)
        return command

    def _checked(self, request: tasks_pb2.SubmitTaskRequest, origin: str = "") -> commands.SubmitTask:
        """The command for a request without mistakes. Raises ApiError with all of them."""
        parts, state, local = self._parts, self._parts.state(), self._parts.local_skills()
        skills, default_ms = known_skills(state) | local.keys(), parts.admission.attempt_timeout_ms
        command = parts.admission.command(request, parts.clock.new_id(), skills, state.nodes.keys())
        refuse_unknown_agent(state, command)
        command = with_defaults(command, request.task, state, local, default_ms)
        same_zone = request.task.constraints.prefer_same_zone
        return parts.router.stamped(command, same_zone=same_zone, origin=origin)

    def _refuse_when_full(self, state: ClusterState, command: commands.SubmitTask) -> None:
        known = f"{command.tenant}/{command.request_id}" in state.requests
        if known:  # the answer to a retry is never "full"
            return
        refused = full(state, command.tenant, len(command.payload.inline))
        if refused is not None:
            raise from_rejection(refused)
        if self._parts.ledger_backlog() > LEDGER_BACKLOG_MAX:
            raise _full("the ledger of this node cannot keep up")
        if not self._parts.takes_new_work():
            raise disk_full("a disk is nearly full: running work goes on, new work has to wait for room")

    async def _ensure_blob(self, command: commands.SubmitTask, ticket: str) -> None:
        payload = command.payload
        try:
            Tickets(self._parts.state).check_caller(payload.sha256, ticket)
            await self._parts.exchange.secure(payload)
        except ApiError as error:
            if error.reason != "BLOB_NOT_FOUND":
                raise
            text = f"no node has blob {payload.sha256}; send the reference that Blobs.PutBlob gave for it"
            raise invalid([Violation("task.payload.blob", text)]) from error

    async def _answer(self, outcome: Outcome) -> tasks_pb2.Task:
        if not isinstance(outcome, Accepted):
            raise from_rejection(outcome)
        if not outcome.duplicate:
            self._parts.metrics.task_submitted()
        task = self._parts.state().task(outcome.task_id)
        if task is None:  # finished and evicted meanwhile
            found = await self._parts.reader.get(outcome.task_id, PROPOSE_MAX_S)
            task = found.task
        return self._parts.reader.to_pb(Found(task))

    @unary
    async def GetTask(self, request: tasks_pb2.GetTaskRequest, context: Context) -> tasks_pb2.Task:
        task_id = task_id_of(request.name)
        reader = self._parts.reader
        await reader.barrier(request.read_mode, seconds_left(context))
        whole = request.include_steps and request.read_mode != tasks_pb2.STALE
        get = reader.get_with_steps if whole else reader.get
        found = await get(task_id, seconds_left(context))
        task = reader.to_pb(found, with_steps=request.include_steps, with_payload=request.include_payload)
        if task.ByteSize() > ANSWER_BYTES_MAX:
            message = f"{task.ByteSize()} bytes with its steps, the limit is {ANSWER_BYTES_MAX}; leave "
            message += (
                "them out: Debugger.GetHistory lists them without their results, a backup holds them whole"
            )
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "TOO_LARGE", message)
        return task

    @unary
    async def ListTasks(
        self, request: tasks_pb2.ListTasksRequest, context: Context
    ) -> tasks_pb2.ListTasksResponse:
        query = parse_filter(request.filter, tenant=tenant_of(request.parent))
        limit, before = check_page_size(request.page_size), _page_start(request.page_token)
        reader = self._parts.reader
        await reader.barrier(request.read_mode, seconds_left(context))
        reader.has_whole_history(request.read_mode)
        page, more = await reader.page_that_fits(query, before, limit)
        reader.has_whole_history(request.read_mode)  # a snapshot may have been installed meanwhile
        response = tasks_pb2.ListTasksResponse()
        size = 0
        for found in page:
            task = reader.to_pb(found)
            size += task.ByteSize()
            if response.tasks and size > PAGE_BYTES_MAX:
                break
            response.tasks.append(task)
        if page and (more or len(response.tasks) < len(page)):
            response.next_page_token = str(page[len(response.tasks) - 1].task.order)
        return response

    @unary
    async def WaitTask(self, request: tasks_pb2.WaitTaskRequest, context: Context) -> tasks_pb2.Task:
        task_id = task_id_of(request.name)
        left = seconds_left(context) - DEADLINE_MARGIN_S
        timeout = min(left, request.timeout_ms / 1000) if request.timeout_ms else left
        reader = self._parts.reader
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        found = await reader.get(task_id, left)
        while found.task.state not in TERMINAL and (left := end - loop.time()) > 0:
            await self._until_finished(task_id, min(left, RECHECK_S))
            await reader.still_connected()
            found = await reader.get(task_id, max(0.0, end - loop.time()))
        return reader.to_pb(found)

    async def _until_finished(self, task_id: TaskId, timeout_s: float) -> None:
        done: asyncio.Future[Task] = asyncio.get_running_loop().create_future()

        def finished(task: Task) -> None:
            if not done.done():
                done.set_result(task)

        self._parts.hub.on_finished(task_id, finished)
        try:
            await asyncio.wait([done], timeout=timeout_s)
        finally:
            self._parts.hub.forget(task_id, finished)

    @streaming
    async def WaitTasks(
        self, request_iterator: Any, context: Context
    ) -> AsyncIterator[tasks_pb2.WaitTasksResponse]:
        waits = wait_many(request_iterator, self._parts.hub, self._parts.reader)
        async with aclosing(waits) as responses:
            async for response in responses:
                yield response

    @streaming
    async def WatchTask(
        self, request: tasks_pb2.WatchTaskRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        task_id = task_id_of(request.name)
        watcher = self._parts.tokens if request.include_tokens else self._parts.watcher
        async with aclosing(watcher.events(task_id, request.resume_token)) as events:
            async for event in events:
                yield event

    @unary
    async def CancelTask(self, request: tasks_pb2.CancelTaskRequest, context: Context) -> tasks_pb2.Task:
        return await self._control.cancel(request, propose_seconds(context))

    @unary
    async def PauseTask(self, request: tasks_pb2.PauseTaskRequest, context: Context) -> tasks_pb2.Task:
        return await self._control.pause(request, propose_seconds(context))

    @unary
    async def ResumeTask(self, request: tasks_pb2.ResumeTaskRequest, context: Context) -> tasks_pb2.Task:
        return await self._control.resume(request, propose_seconds(context))

    @unary
    async def SignalTask(self, request: tasks_pb2.SignalTaskRequest, context: Context) -> tasks_pb2.Task:
        return await self._control.signal(request, propose_seconds(context))

    @unary
    async def RetryTask(self, request: tasks_pb2.RetryTaskRequest, context: Context) -> tasks_pb2.Task:
        return await self._control.retry(request, propose_seconds(context))

    @unary
    async def RouteTask(self, request: tasks_pb2.RouteTaskRequest, context: Context) -> tasks_pb2.Route:
        parts, subject = self._parts, request.WhichOneof("subject")
        if subject is None:
            raise invalid([Violation("subject", "is missing; give a task, or the name of one that exists")])
        if subject == "name":  # whether the caller may see it is known here only
            await parts.reader.get(task_id_of(request.name), seconds_left(context))
        asked = await parts.router.ask_leader(request)
        if asked is not None:
            return asked
        if subject == "task":
            submit = tasks_pb2.SubmitTaskRequest(parent=request.parent, task=request.task)
            return parts.router.dry_run(self._checked(submit, request.origin), request.strategy)
        found = await parts.reader.get(task_id_of(request.name), seconds_left(context))
        route = parts.router.explain(found, request.strategy)
        route.task.CopyFrom(parts.reader.to_pb(found))
        return route


class BlobsService(tasks_pb2_grpc.BlobsServicer):
    """Content beside the log."""

    def __init__(
        self, store: BlobStore, exchange: BlobExchange, reader: Reader, tickets: Tickets, gate: Gate
    ) -> None:
        self._store, self._exchange, self._reader, self.gate = store, exchange, reader, gate
        self._tickets = tickets

    @unary
    async def PutBlob(self, request_iterator: Any, context: Context) -> tasks_pb2.BlobRef:
        ref = await receive_blob(self._store, arriving(request_iterator), shown=not caller().everywhere)
        await self._exchange.spread(ref.sha256, ref.size_bytes)
        ticket = self._tickets.give(ref.sha256)
        return tasks_pb2.BlobRef(sha256=ref.sha256, size_bytes=ref.size_bytes, ticket=ticket)

    @streaming
    async def GetBlob(
        self, request: tasks_pb2.GetBlobRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.BlobChunk]:
        if not caller().everywhere:
            await self._refuse_strangers(request, seconds_left(context))
        await self._exchange.ensure(request.sha256)
        async for part in self._store.open_chunks(request.sha256, CHUNK_BYTES):
            yield tasks_pb2.BlobChunk(data=part)

    async def _refuse_strangers(self, request: tasks_pb2.GetBlobRequest, timeout_s: float) -> None:
        """A caller of one tenant reads what a task refers to that they see. Raises ApiError NOT_FOUND."""
        found = await self._reader.get(task_id_of(request.task), timeout_s)
        task = found.task
        held = [task.payload, task.checkpoint, task.result, *(step.result for step in found.steps)]
        held += [signal.payload for signal in task.signals]
        if not any(data is not None and data.sha256 == request.sha256 for data in held):
            raise not_found("BLOB", request.sha256)


def _full(message: str) -> ApiError:
    return ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", message, retry_after_ms=500)


def _lighten(slot: tasks_pb2.BatchSubmitTasksResponse.Result) -> None:
    """Take out what GetTask and the waits give too: that the task was taken has to reach the caller."""
    if slot.HasField("task"):
        slot.task.ClearField("result")
        slot.task.ClearField("checkpoint")


def _page_start(token: str) -> int | None:
    if not token:
        return None
    if not token.isdecimal() or len(token) > 18:
        raise invalid([Violation("page_token", f"{token!r} is not a token this cluster gave out")])
    return int(token)
