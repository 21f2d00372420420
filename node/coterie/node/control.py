"""What callers do to a task that exists: pause, resume, signal, run it again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from coterie.core import commands
from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.nouns import Data, Step, Task, TaskId, TaskState
from coterie.core.runs.run import WORKFLOW
from coterie.core.state import ClusterState
from coterie.core.submit_rules import full
from coterie.core.transitions import TERMINAL
from coterie.node import convert
from coterie.node.admission import Admission, request_id_faults, signal_faults, task_id_of
from coterie.node.blob_exchange import BlobExchange
from coterie.node.clock import Clock
from coterie.node.errors import ApiError, Violation, disk_full, from_rejection, invalid
from coterie.node.proposer import Proposer
from coterie.node.reads import Found, Reader
from coterie.node.security.tickets import Tickets
from coterie.node.workflows.runs import kept_steps, repeated
from coterie.v1 import tasks_pb2

REASON_CHARS_MAX = 1_000
CATCH_UP_RETRY_MS = 500
SECURED_AT_ONCE = 16  # blobs of steps
ELSEWHERE = frozenset({"STEPS_ELSEWHERE", "TASK_NOT_FOUND", "IS_A_RUN"})  # not from the state


@dataclass(frozen=True, slots=True)
class Again:
    """A new run that is asked for. `digest` tells a repeated request from another one with the same id."""

    source: TaskId
    new_id: TaskId
    request_id: str
    digest: bytes
    keep_steps: bool


@dataclass(frozen=True, slots=True)
class Control:
    """Carries out what the Tasks and DeadLetters services are asked; answers with the task as it is then."""

    state: Callable[[], ClusterState]
    reader: Reader
    proposer: Proposer
    exchange: BlobExchange
    admission: Admission
    clock: Clock
    takes_new_work: Callable[[], bool]

    async def cancel(self, request: tasks_pb2.CancelTaskRequest, timeout_s: float) -> tasks_pb2.Task:
        task_id, reason = task_id_of(request.name), request.reason[:REASON_CHARS_MAX]
        command = commands.CancelTask(task_id, reason, *once(request.request_id, "cancel", reason))
        await self.reader.connected()
        outcome = await self.proposer.one(command, timeout_s)
        if isinstance(outcome, Rejected) and outcome.code != "TASK_NOT_FOUND":
            raise from_rejection(outcome)
        found = await self.reader.get(task_id, timeout_s)
        if isinstance(outcome, Rejected) and not found.task.cancel_requested:
            raise _has_ended(found.task)
        return self.reader.to_pb(found)

    async def pause(self, request: tasks_pb2.PauseTaskRequest, timeout_s: float) -> tasks_pb2.Task:
        task_id = task_id_of(request.name)
        reason = request.reason[:REASON_CHARS_MAX]
        command = commands.PauseTask(task_id, reason, *once(request.request_id, "pause", reason))
        return await self._tell(task_id, command, timeout_s)

    async def resume(self, request: tasks_pb2.ResumeTaskRequest, timeout_s: float) -> tasks_pb2.Task:
        task_id = task_id_of(request.name)
        command = commands.ResumeTask(task_id, *once(request.request_id, "resume"))
        return await self._tell(task_id, command, timeout_s)

    async def signal(self, request: tasks_pb2.SignalTaskRequest, timeout_s: float) -> tasks_pb2.Task:
        task_id, payload = task_id_of(request.name), convert.data_from_pb(request.payload)
        wrong = signal_faults(request) + self.admission.data_faults("payload", payload)
        if wrong:
            raise invalid(wrong)
        await self._secure(payload, request.payload.blob.ticket)
        # A proposal whose outcome was unknown is made again: without an id it would be a second signal.
        signal_id = request.request_id or self.clock.new_id()
        said = (payload.inline.hex(), payload.sha256)
        once_only = once(request.request_id, "signal", request.signal, *said)
        command = commands.SignalTask(task_id, request.signal, payload, signal_id, *once_only)
        return await self._tell(task_id, command, timeout_s)

    async def retry(self, request: tasks_pb2.RetryTaskRequest, timeout_s: float) -> tasks_pb2.Task:
        """Ends the waiting of a live task, or runs again one that has ended."""
        task_id = task_id_of(request.name)
        again = _run_again(task_id, not request.discard_steps)
        command = commands.RetryTask(task_id, *once(request.request_id, *again))
        await self.reader.barrier(tasks_pb2.LINEARIZABLE, timeout_s)
        found = await self.reader.get(task_id, timeout_s)
        if found.task.state in TERMINAL:
            return await self.run_again(task_id, request.request_id, not request.discard_steps, timeout_s)
        return await self._tell(task_id, command, timeout_s)

    async def run_from(
        self, task_id: TaskId, request_id: str, from_node: str, timeout_s: float
    ) -> tasks_pb2.Task:
        """A new run of an ended run of a workflow: what stands on `from_node`, and itself, is done again;
        without one, what did not succeed. Raises ApiError."""
        self.refuse_without_room()
        await self.reader.barrier(tasks_pb2.LINEARIZABLE, timeout_s)
        found = await self.reader.get(task_id, timeout_s)
        if found.task.type != WORKFLOW:
            text = f"task {task_id} is not a run of a workflow"
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "NOT_A_RUN", text)
        if not from_node or found.task.state not in TERMINAL:
            _check_ended_badly(found.task)
        if len(found.steps) < found.task.step_count:
            message = f"the steps of run {task_id} are not in this node's history yet; try again"
            raise ApiError(
                grpc.StatusCode.UNAVAILABLE, "CATCHING_UP", message, retry_after_ms=CATCH_UP_RETRY_MS
            )
        new_id = self.clock.new_id()
        digest = digest_of("run from", task_id, from_node)
        again = Again(task_id, TaskId(new_id), request_id or new_id, digest, True)
        steps = kept_steps(found.task, found.steps, from_node)
        await self.secure_all(found.task.payload, steps)
        command = repeated(found.task, new_run(found.task, steps, again))
        return await self.answer(await self.proposer.one(command, timeout_s), timeout_s)

    async def run_again(
        self, task_id: TaskId, request_id: str, keep_steps: bool, timeout_s: float
    ) -> tasks_pb2.Task:
        """A new run of a task that has ended: from the state, or from the history when only that has it."""
        new_id = self.clock.new_id()
        digest = digest_of(*_run_again(task_id, keep_steps))
        again = Again(task_id, TaskId(new_id), request_id or new_id, digest, keep_steps)
        self.refuse_without_room()
        await self.reader.connected()
        command = commands.ReplayTask(task_id, again.new_id, again.request_id, digest, keep_steps)
        outcome = await self.proposer.one(command, timeout_s)
        if isinstance(outcome, Rejected) and outcome.code in ELSEWHERE:
            found = await self.reader.get(task_id, timeout_s)
            outcome = await self._from_history(found, again, timeout_s)
        return await self.answer(outcome, timeout_s)

    async def _from_history(self, found: Found, again: Again, timeout_s: float) -> Outcome:
        task, steps = found.task, found.steps if again.keep_steps else ()
        _check_ended_badly(task)
        if again.keep_steps and len(steps) < task.step_count:
            message = f"the steps of task {task.task_id} are not in this node's history yet; try again"
            raise ApiError(
                grpc.StatusCode.UNAVAILABLE, "CATCHING_UP", message, retry_after_ms=CATCH_UP_RETRY_MS
            )
        if task.type == WORKFLOW:
            steps = kept_steps(task, steps, "")
        refused = full(self.state(), task.tenant, len(task.payload.inline))
        if refused is not None:
            raise from_rejection(refused)
        await self.secure_all(task.payload, steps)
        submit = new_run(task, steps, again)
        command = repeated(task, submit) if task.type == WORKFLOW else submit
        return await self.proposer.one(command, timeout_s)

    async def _tell(self, task_id: TaskId, command: commands.Command, timeout_s: float) -> tasks_pb2.Task:
        await self.reader.connected()
        outcome = await self.proposer.one(command, timeout_s)
        if isinstance(outcome, Rejected) and outcome.code == "TASK_NOT_FOUND":
            found = await self.reader.get(task_id, timeout_s)  # the state forgets what has ended long ago
            raise _has_ended(found.task)
        return await self.answer(outcome, timeout_s)

    async def answer(self, outcome: Outcome, timeout_s: float) -> tasks_pb2.Task:
        """The task that a command made or changed. Raises ApiError where it was refused."""
        if not isinstance(outcome, Accepted):
            raise from_rejection(outcome)
        return self.reader.to_pb(await self.reader.get(outcome.task_id, timeout_s))

    def refuse_without_room(self) -> None:
        """Raises ApiError on a node whose disk is nearly full."""
        if not self.takes_new_work():
            raise disk_full("a disk is nearly full: running work goes on, new work has to wait for room")

    async def secure_all(self, payload: Data, steps: Sequence[Step]) -> None:
        """Before a new task takes them over: every blob is on a majority. Raises ApiError naming a step whose
        result is gone: what ended long ago may have lost some."""
        await self._secure(payload)
        large = list({step.result.sha256: step for step in steps if step.result.sha256}.values())
        for first in range(0, len(large), SECURED_AT_ONCE):
            await asyncio.gather(*map(self._secure_step, large[first : first + SECURED_AT_ONCE]))

    async def _secure_step(self, step: Step) -> None:
        try:
            await self.exchange.secure(step.result)
        except ApiError as error:
            if error.reason != "BLOB_NOT_FOUND":
                raise
            text = f"no node has its result any more, blob {step.result.sha256}; go on from an earlier point"
            raise invalid([Violation(f"steps.{step.key}", text)]) from error

    async def _secure(self, payload: Data, ticket: str | None = None) -> None:
        """`ticket`: where the caller names the blob; None: what they see refers to it."""
        if not payload.sha256:
            return
        try:
            if ticket is not None:
                Tickets(self.state).check_caller(payload.sha256, ticket)
            await self.exchange.secure(payload)
        except ApiError as error:
            if error.reason != "BLOB_NOT_FOUND":
                raise
            text = f"no node has blob {payload.sha256}; send the reference that Blobs.PutBlob gave for it"
            raise invalid([Violation("payload.blob", text)]) from error


def digest_of(*said: str) -> bytes:
    """Tells a repeated request from another one with the same id."""
    return hashlib.sha256("\0".join(said).encode("utf-8", "surrogatepass")).digest()[:16]


def once(request_id: str, *said: str) -> tuple[str, bytes]:
    """The last two fields of a command that is done once for each request id. Raises ApiError: a bad id."""
    if wrong := request_id_faults(request_id):
        raise invalid(wrong)
    return request_id, digest_of(*said) if request_id else b""


def _has_ended(task: Task) -> ApiError:
    message = f"task {task.task_id} has ended as {task.state.name}"
    return ApiError(grpc.StatusCode.FAILED_PRECONDITION, "TASK_TERMINAL", message)


def _run_again(task_id: TaskId, keep_steps: bool) -> tuple[str, ...]:
    return "run again", task_id, str(keep_steps)


def _check_ended_badly(task: Task) -> None:
    """Raises ApiError unless the task has ended without success."""
    if task.state is TaskState.SUCCEEDED:
        reason, message = "TASK_SUCCEEDED", f"task {task.task_id} has succeeded; submit a new one"
    elif task.state not in TERMINAL:
        reason, message = "TASK_LIVE", f"task {task.task_id} has not ended"
    else:
        return
    raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, reason, message)


def new_run(task: Task, steps: Sequence[Step], again: Again) -> commands.SubmitTask:
    """The same task again, as the state machine makes one of what it still has."""
    return commands.SubmitTask(
        task_id=again.new_id,
        tenant=task.tenant,
        type=task.type,
        payload=task.payload,
        priority=task.priority,
        retry=task.retry,
        request_id=again.request_id,
        digest=again.digest,
        attempt_timeout_ms=task.attempt_timeout_ms,
        deadline_after_ms=task.deadline_at_ms - task.created_at_ms if task.deadline_at_ms else 0,
        checkpointing=task.checkpointing,
        labels=task.labels,
        constraints=task.constraints,
        key=task.key,
        agent=task.agent,
        retry_of=task.task_id,
        steps=tuple(steps),
    )
