"""Coalesces submits: whatever is submitted in one turn of the event loop goes out in one RPC."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from coterie.client.caller import Backoff, Caller
from coterie.client.errors import (
    ClusterClosed,
    ClusterError,
    CoterieError,
    ResourceExhausted,
    Unavailable,
    own_copy,
)
from coterie.client.owned import TaskSet
from coterie.client.rpc_errors import decode_status
from coterie.v1 import tasks_pb2

BATCH_TASKS_MAX = 256
BATCH_BYTES_MAX = 3 * 1024 * 1024
BATCHES_IN_FLIGHT_MAX = 2
ELSEWHERE_TRIES = 5  # of a task that a node refused because a disk is full
_FULL_PAUSE_MAX_S = 10.0


@dataclass(slots=True)
class _Entry:
    request: tasks_pb2.SubmitTaskRequest
    size_bytes: int
    future: asyncio.Future[tasks_pb2.Task]


class Submitter:
    """Turns single submits into BatchSubmitTasks calls.

    A lone submit leaves in the same turn of the loop; concurrent ones share a call of up to 256 tasks and
    3 MiB. At most two calls are under way: while the cluster is busy the next batch grows, which is group
    commit seen from the client.
    """

    def __init__(self, caller: Caller, tasks: TaskSet) -> None:
        self._caller = caller
        self._tasks = tasks
        self._queue: deque[_Entry] = deque()
        self._in_flight = 0
        self._flush_scheduled = False

    async def submit(
        self, request: tasks_pb2.SubmitTaskRequest, *, wait_when_full: bool = False
    ) -> tasks_pb2.Task:
        """The committed task. Raises ClusterError when it was refused.

        With `wait_when_full` a refusal that names a time to come back is retried until `timeouts.call`.
        """
        deadline = self._caller.clock() + self._caller.timeouts.call
        backoff, elsewhere = Backoff(), ELSEWHERE_TRIES
        while True:
            try:
                return await self._enqueue(request)
            except Unavailable as failure:
                # The whole call was retried already when it lists the endpoints; one entry was not.
                if failure.endpoints:
                    failure.request_id = request.request_id
                    raise
                await self._caller.before_retry(failure, backoff, deadline, request.request_id)
            except ResourceExhausted as failure:
                if failure.reason == "DISK_FULL" and elsewhere > 0:
                    elsewhere -= 1  # it may be the disk of that node alone
                    await self._caller.rest(backoff.pause(failure))
                    continue
                if not wait_when_full or failure.retry_after is None:
                    raise
                pause = min(_FULL_PAUSE_MAX_S, failure.retry_after) + backoff.pause()
                if self._caller.clock() + pause >= deadline:
                    raise
                await self._caller.rest(pause)
            except ClusterError as failure:
                await self._caller.before_retry(failure, backoff, deadline, request.request_id)

    def close(self) -> None:
        """Fails what has not been sent."""
        while self._queue:
            _fail(self._queue.popleft(), ClusterClosed("the Cluster was closed before the task was sent"))

    async def _enqueue(self, request: tasks_pb2.SubmitTaskRequest) -> tasks_pb2.Task:
        if self._caller.closed:
            raise ClusterClosed("this Cluster is closed: use it inside `async with Cluster(...) as c:`")
        loop = asyncio.get_running_loop()
        entry = _Entry(request, request.ByteSize() + 8, loop.create_future())
        self._queue.append(entry)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            loop.call_soon(self._flush)
        return await entry.future

    def _flush(self) -> None:
        self._flush_scheduled = False
        while self._queue and self._in_flight < BATCHES_IN_FLIGHT_MAX and not self._caller.closed:
            batch = self._next_batch()
            if batch:
                self._in_flight += 1
                self._tasks.start(self._send(batch), "submit")

    def _next_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        size_bytes = 0
        while self._queue and len(batch) < BATCH_TASKS_MAX:
            entry = self._queue[0]
            if batch and size_bytes + entry.size_bytes > BATCH_BYTES_MAX:
                break
            self._queue.popleft()
            if not entry.future.done():  # Cancelled by its caller before it was sent.
                batch.append(entry)
                size_bytes += entry.size_bytes
        return batch

    async def _send(self, batch: list[_Entry]) -> None:
        request = tasks_pb2.BatchSubmitTasksRequest(requests=[entry.request for entry in batch])
        try:
            response = await self._caller.unary(lambda endpoint: endpoint.tasks.BatchSubmitTasks, request)
            _settle(batch, response)
        except CoterieError as error:
            for entry in batch:
                _fail(entry, own_copy(error))
        finally:
            for entry in batch:
                _fail(entry, ClusterClosed("the Cluster was closed while the task was being submitted"))
            self._in_flight -= 1
            self._flush()


def _settle(batch: list[_Entry], response: tasks_pb2.BatchSubmitTasksResponse) -> None:
    if len(response.results) != len(batch):
        found = f"{len(response.results)} results for {len(batch)} tasks"
        raise ClusterError(f"the node answered with {found}: it does not speak this protocol")
    for entry, result in zip(batch, response.results, strict=True):
        if result.status:
            _fail(entry, decode_status(result.status))
        elif not entry.future.done():
            entry.future.set_result(result.task)


def _fail(entry: _Entry, error: CoterieError) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)
