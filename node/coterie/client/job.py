"""Job: the handle on one submitted task. It holds no connection; any node can serve it."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from coterie.client.connection import Connection
from coterie.client.errors import (
    CoterieError,
    NodeLost,
    TaskCancelled,
    TaskDeadLettered,
    TaskError,
    TaskFailed,
    TaskTimedOut,
    WaitTimeout,
)
from coterie.client.models import Event, Progress, TaskInfo, decode_json, state_name, terminal
from coterie.client.owned import log
from coterie.client.record import recorded
from coterie.client.routes import Route
from coterie.client.sizes import send_sized
from coterie.client.spec import encode_payload
from coterie.client.units import Duration, optional_seconds
from coterie.client.watch import Watch
from coterie.v1 import tasks_pb2

ProgressCallback = Callable[[Progress], Awaitable[None] | None]

_LAST_PROGRESS_S = 1.0
_LOSS_EVENTS = frozenset({"released", "assigned", "retry"})
_ENDS: dict[str, type[TaskError]] = {
    "CANCELLED": TaskCancelled,
    "TIMED_OUT": TaskTimedOut,
    "DEAD_LETTERED": TaskDeadLettered,
}


class Job:
    """A task in the cluster. Get one from `submit_task`, `submit_tasks`, or `cluster.job(id)`.

    - `id`: the task's id; keep it, and `cluster.job(id)` gives the handle back in any process.
    - `name`: its full name, `tenants/<tenant>/tasks/<id>`.
    - `request_id`: the idempotency key it was submitted with; empty for `cluster.job(id)`.
    """

    def __init__(self, connection: Connection, name: str, raw: tasks_pb2.Task | None = None) -> None:
        self.name = name
        self.id = name.rpartition("/")[2]
        self.request_id = raw.request_id if raw is not None else ""
        self._connection = connection
        self._raw = raw
        self._losses = raw.losses if raw is not None else None
        self._progress: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = f" {state_name(self._raw.state)}" if self._raw is not None else ""
        return f"<Job {self.id}{state}>"

    @property
    def task(self) -> TaskInfo | None:
        """The task as last seen by this handle, without a call; None when it was not seen yet."""
        return TaskInfo.of(self._raw) if self._raw is not None else None

    async def get(
        self,
        *,
        include_steps: bool = False,
        include_payload: bool = False,
        stale: bool = False,
        timeout: Duration | None = None,
    ) -> TaskInfo:
        """The task as it is now. `stale=True` reads one node's replica without asking the leader.

        Raises NotFound, Unavailable (no node answered within `timeout`).
        """
        request = tasks_pb2.GetTaskRequest(
            name=self.name,
            include_steps=include_steps,
            include_payload=include_payload,
            read_mode=tasks_pb2.STALE if stale else tasks_pb2.LINEARIZABLE,
        )
        reading = self._connection.caller.unary(
            lambda endpoint: endpoint.tasks.GetTask, request, timeout=optional_seconds(timeout)
        )
        self._raw = await (reading if stale else self._recorded("read", reading))
        return TaskInfo.of(self._raw)

    async def wait(self, *, failover: bool = True, timeout: Duration | None = None) -> Any:
        """Waits for the result: a Python value when it is JSON, else bytes; None when there is none.

        Leader changes, dead nodes and broken connections are waited through. With `failover=False` the
        loss of the node that runs the task raises NodeLost (the task goes on elsewhere all the same).

        Raises TaskFailed, TaskCancelled, TaskTimedOut or TaskDeadLettered when the task ended without a
        result; WaitTimeout after `timeout` (the task goes on); NotFound; Unavailable when no node
        answered for `timeouts.outage` seconds.
        """
        scope = asyncio.timeout(optional_seconds(timeout))
        try:
            async with scope:
                await (self._wait_through() if failover else self._wait_here())
                return await self._result()
        except TimeoutError:
            if not scope.expired():
                raise
            raise WaitTimeout(f"task {self.id} did not finish within {timeout}; it goes on") from None

    async def result(self) -> Any:
        """The result of a finished task, like `wait`, but raises asyncio's InvalidStateError while it
        is not finished."""
        if not (await self.get()).done:
            raise asyncio.InvalidStateError(f"task {self.id} is not finished: use wait()")
        return await self._result()

    def watch(self, *, resume_token: str = "") -> AsyncGenerator[Event, None]:
        """The task's events from the first (or after `resume_token`) to the terminal one.

        A break is mended on another node with the last token: no event is missed or repeated.
        Raises NotFound, OutOfRange (the token is older than the history), Unavailable.
        """
        return Watch(self._connection.caller, self.name, resume_token).events()

    def stream(self, *, tokens: bool = True, resume_token: str = "") -> AsyncGenerator[Event, None]:
        """As `watch`, and with `tokens` events of type "token" with the words of language models as they come
        (`event.token`, see TokenChunk; TokenText joins them). Kill any node: the joined text is the recorded
        answer, byte for byte."""
        return Watch(self._connection.caller, self.name, resume_token, tokens).events()

    async def explain(self, *, strategy: str = "") -> Route:
        """Why the task waits, or how the nodes compare for it now, recomputed from the present state.
        Raises NotFound, Unavailable."""
        request = tasks_pb2.RouteTaskRequest(name=self.name, strategy=strategy)
        return Route.of(
            await self._connection.caller.unary(lambda endpoint: endpoint.tasks.RouteTask, request)
        )

    async def cancel(self, reason: str = "", *, request_id: str = "") -> TaskInfo:
        """Asks for the task to be cancelled; a running skill is told to stop and may finish first.

        Raises FailedPrecondition when the task is already finished, NotFound, Unavailable.

        Here and in `pause`, `resume`, `signal` and `retry`: the same `request_id` is the same call. What was
        done once is answered again, and not done again, whatever has become of the task since; the client's
        own retries are such calls.
        """
        request_id = request_id or uuid.uuid4().hex
        request = tasks_pb2.CancelTaskRequest(name=self.name, reason=reason, request_id=request_id)
        return await self._told("cancel", lambda endpoint: endpoint.tasks.CancelTask, request)

    async def pause(self, reason: str = "", *, request_id: str = "") -> TaskInfo:
        """Stops the task where it is: at once when it waits, after its next completed step when it runs.
        It keeps its place in the queue. Raises FailedPrecondition (it has ended), NotFound, Unavailable."""
        request_id = request_id or uuid.uuid4().hex
        request = tasks_pb2.PauseTaskRequest(name=self.name, reason=reason, request_id=request_id)
        return await self._told("pause", lambda endpoint: endpoint.tasks.PauseTask, request)

    async def resume(self, *, request_id: str = "") -> TaskInfo:
        """Ends a pause; a task that is not paused stays as it is. Raises as `pause` does."""
        request_id = request_id or uuid.uuid4().hex
        request = tasks_pb2.ResumeTaskRequest(name=self.name, request_id=request_id)
        return await self._told("resume", lambda endpoint: endpoint.tasks.ResumeTask, request)

    async def signal(self, signal: str, payload: Any = None, *, request_id: str = "") -> TaskInfo:
        """Tells the task something: the n-th `ctx.wait_signal(signal)` of its skill gets the n-th payload of
        that name, now or when it comes to it. `payload` is any JSON value or bytes. The same `request_id` is
        the same signal. Raises InvalidRequest, ResourceExhausted (too many signals), and as `pause` does."""
        request_id = request_id or uuid.uuid4().hex
        request = tasks_pb2.SignalTaskRequest(name=self.name, signal=signal, request_id=request_id)
        content = encode_payload(payload)
        return await send_sized(
            self._connection,
            content,
            request.payload,
            lambda: self._told("signal", lambda endpoint: endpoint.tasks.SignalTask, request),
        )

    async def retry(self, *, discard_steps: bool = False, request_id: str = "") -> Job:
        """Runs the task now instead of later (this Job again), or anew when it has ended without success:
        then the Job of the new run, which keeps the completed steps unless `discard_steps`. The same
        `request_id` gives the same run. Raises FailedPrecondition (it runs, or succeeded), QueueFull."""
        request_id = request_id or uuid.uuid4().hex
        request = tasks_pb2.RetryTaskRequest(
            name=self.name, request_id=request_id, discard_steps=discard_steps
        )
        raw = await self._connection.caller.unary(
            lambda endpoint: endpoint.tasks.RetryTask, request, request_id=request_id
        )
        if raw.task_id != self.id:
            return Job(self._connection, raw.name, raw)
        self._raw = raw
        return self

    def follow(self, on_progress: ProgressCallback) -> None:
        """Calls `on_progress` (a function or coroutine function) with each progress report from now on."""
        self._progress = self._connection.tasks.start(self._report(on_progress), "progress")

    async def _told(self, call: str, method: Any, request: Any) -> TaskInfo:
        telling = self._connection.caller.unary(method, request, request_id=request.request_id)
        self._raw = await self._recorded(call, telling)
        return TaskInfo.of(self._raw)

    async def _recorded(self, call: str, work: Awaitable[tasks_pb2.Task]) -> tasks_pb2.Task:
        return await recorded(self._connection.recorder, call, work, task_id=self.id)

    async def _wait_through(self) -> None:
        if self._raw is None or not terminal(self._raw) or _lacks_result(self._raw):
            self._raw = await self._recorded("read", self._connection.waiter.wait(self.name))
        if self._progress is not None:
            # The last report should not come after the result; but a callback may not hold it up.
            await asyncio.wait([self._progress], timeout=_LAST_PROGRESS_S)

    async def _wait_here(self) -> None:
        task = await self.get()
        losses = task.losses if self._losses is None else self._losses
        self._check_lost(task, losses)
        if task.done:
            return
        async with aclosing(self.watch()) as events:
            async for event in events:
                if event.type in _LOSS_EVENTS:
                    self._check_lost(await self.get(), losses)
        await self.get()

    def _check_lost(self, task: TaskInfo, losses: int) -> None:
        if task.losses > losses:
            self._losses = task.losses
            raise NodeLost(
                f"task {task.id} lost its node and runs again as attempt {task.attempt}; wait() follows it",
                task,
            )

    async def _result(self) -> Any:
        raw = self._raw
        assert raw is not None, "only called on a task that was seen"
        state = state_name(raw.state)
        if state != "SUCCEEDED":
            raise _ENDS.get(state, TaskFailed)(TaskInfo.of(raw))
        return decode_json(await self._connection.blobs.read(raw.result, raw.name))

    async def _report(self, on_progress: ProgressCallback) -> None:
        try:
            async with aclosing(self.watch()) as events:
                async for event in events:
                    if event.type == "progress":
                        outcome = on_progress(Progress(event.percent, event.detail))
                        if inspect.isawaitable(outcome):
                            await outcome
        except CoterieError as error:
            log.warning("progress of a task cannot be followed", extra={"task": self.id, "error": str(error)})


def _lacks_result(raw: tasks_pb2.Task) -> bool:
    """It has none, or there was no room for it in the answer to a batch of submissions."""
    return state_name(raw.state) == "SUCCEEDED" and not raw.HasField("result")
