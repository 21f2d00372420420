"""All waits of a client share one WaitTasks stream, which moves to another node when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc.aio

from coterie.client.caller import Backoff, Caller
from coterie.client.endpoints import Endpoint
from coterie.client.errors import ClusterClosed, ClusterError, CoterieError, NotFound, own_copy
from coterie.client.models import terminal
from coterie.client.owned import TaskSet, log
from coterie.client.rpc_errors import Verdict, decode_rpc_error, verdict_of
from coterie.v1 import tasks_pb2

NAMES_PER_MESSAGE_MAX = 512
_PROBE_FAILURES_MAX = 2

WaitStream = grpc.aio.StreamStreamCall[tasks_pb2.WaitTasksRequest, tasks_pb2.WaitTasksResponse]


class _Moved(Exception):
    """The stream's node no longer serves it; the reason is in the text."""


class Waiter:
    """Resolves task ids to terminal tasks.

    One long-lived stream carries all names. When it breaks, or its node stops answering probes, it is
    opened again on another node with every name still outstanding; so a wait outlives any node. When no node
    serves it for `timeouts.outage` seconds, the outstanding waits end with Unavailable.
    """

    def __init__(self, caller: Caller, tasks: TaskSet) -> None:
        self._caller = caller
        self._tasks = tasks
        self._runner: asyncio.Task[None] | None = None
        self._waiting: dict[str, list[asyncio.Future[tasks_pb2.Task]]] = {}
        self._unsent: list[str] = []
        self._wanted = asyncio.Event()
        self._heard_at = 0.0
        self._deadline = 0.0

    async def wait(self, name: str) -> tasks_pb2.Task:
        """The task in its terminal state. Raises NotFound, or what makes waiting pointless."""
        # By its bare id: the task may be of another tenant than the one whose name was put before it.
        name = name.rpartition("/")[2]
        backoff = Backoff()
        while True:
            try:
                return await self._wait_on_stream(name)
            except NotFound:
                # The node of the stream may lag behind, or be cut off: only a linearizable read can say so.
                task = await self._get(name)
                if terminal(task):
                    return task
                await asyncio.sleep(backoff.pause())

    def close(self) -> None:
        """Fails what still waits."""
        self._fail_all(ClusterClosed("the Cluster was closed during the wait"))

    async def _wait_on_stream(self, name: str) -> tasks_pb2.Task:
        if self._caller.closed:
            raise ClusterClosed("this Cluster is closed: use it inside `async with Cluster(...) as c:`")
        future: asyncio.Future[tasks_pb2.Task] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._deadline = self._caller.clock() + self._caller.timeouts.outage
        if name not in self._waiting:
            self._waiting[name] = []
            self._unsent.append(name)
            self._wanted.set()
        self._waiting[name].append(future)
        if self._runner is None or self._runner.done():
            self._runner = self._tasks.start(self._run(), "waits")
        try:
            return await future
        finally:
            self._forget(name, future)

    def _forget(self, name: str, future: asyncio.Future[tasks_pb2.Task]) -> None:
        futures = self._waiting.get(name)
        if futures and future in futures:
            futures.remove(future)
            if not futures:
                del self._waiting[name]

    async def _run(self) -> None:
        try:
            await self._serve_for_ever()
        except Exception as error:  # a fault of this program: nobody may wait for ever because of it
            log.exception("the stream of waits failed")
            self._fail_all(ClusterError(f"the stream of waits failed: {error!r}"))
            raise

    async def _serve_for_ever(self) -> None:
        backoff = Backoff()
        endpoint: Endpoint | None = None
        while True:
            if not self._waiting:
                self._wanted.clear()
                await self._wanted.wait()
            endpoint = self._caller.pool.pick(avoid=endpoint)
            self._heard_at = 0.0
            try:
                await self._serve(endpoint)
            except ClusterError as failure:
                if self._heard_at:
                    backoff.reset()
                await self._pause(failure, backoff)

    async def _pause(self, failure: ClusterError, backoff: Backoff) -> None:
        try:
            await self._caller.before_retry(failure, backoff, self._deadline, urgent=True)
        except ClusterError as final:
            self._fail_all(final)

    def _heard(self) -> None:
        self._heard_at = self._caller.clock()
        self._deadline = self._heard_at + self._caller.timeouts.outage

    async def _serve(self, endpoint: Endpoint) -> None:
        """One stream on one endpoint, until it breaks; always ends with a ClusterError."""
        with self._caller.using(endpoint):
            call: WaitStream = endpoint.tasks.WaitTasks()
            # Everything outstanding is asked for again: the new node knows nothing of the old stream.
            self._unsent = list(self._waiting)
            self._wanted.set()
            parts = [
                asyncio.create_task(self._read(call), name="coterie-client-waits-read"),
                asyncio.create_task(self._write(call), name="coterie-client-waits-write"),
                asyncio.create_task(self._probe(endpoint), name="coterie-client-waits-probe"),
            ]
            try:
                done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for part in parts:
                    part.cancel()
                call.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
            error = _first_error(done)
            if isinstance(error, _Moved):
                raise self._caller.silent(endpoint, str(error))
            if isinstance(error, asyncio.InvalidStateError):
                raise ClusterError(f"the stream broke: {error}", code="UNAVAILABLE", reason="SHUTTING_DOWN")
            raise error

    async def _read(self, call: WaitStream) -> None:
        async for response in call:
            self._heard()
            for task in response.tasks:
                self._resolve(task)
            for name in response.not_found:
                self._settle(name, NotFound(f"task {name} is not known to the cluster", reason="TASK"))
        raise ClusterError("the node ended the stream", code="UNAVAILABLE", reason="SHUTTING_DOWN")

    async def _write(self, call: WaitStream) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            names = [name for name in self._unsent if name in self._waiting]
            self._unsent = []
            for start in range(0, len(names), NAMES_PER_MESSAGE_MAX):
                batch = names[start : start + NAMES_PER_MESSAGE_MAX]
                try:
                    await call.write(tasks_pb2.WaitTasksRequest(names=batch))
                except asyncio.InvalidStateError:  # the call has just ended; the reader learns why
                    await asyncio.Event().wait()

    async def _probe(self, endpoint: Endpoint) -> None:
        """Asks the node for one awaited task when the stream has been silent.

        A stopped process keeps its connection, and a node cut off from the majority keeps its stream: only
        a linearizable answer shows that news would get through. The answer also mends a missed message.
        """
        interval = self._caller.timeouts.probe
        failures = 0
        while True:
            await asyncio.sleep(interval)
            silent_for = self._caller.clock() - self._heard_at
            name = next(iter(self._waiting), None)
            if name is None or silent_for < interval:
                continue
            try:
                task = await endpoint.tasks.GetTask(
                    tasks_pb2.GetTaskRequest(name=name), timeout=max(interval, 1.0)
                )
            except grpc.aio.AioRpcError as error:
                failures = self._judge_probe(error, failures)
                continue
            failures = 0
            self._heard()
            if terminal(task):
                self._resolve(task)
            elif name in self._waiting:
                # The next probe looks at another task.
                self._waiting[name] = self._waiting.pop(name)

    def _judge_probe(self, error: grpc.aio.AioRpcError, failures: int) -> int:
        failure = decode_rpc_error(error)
        verdict = verdict_of(failure)
        if verdict is Verdict.FATAL:
            return 0  # It answers, if only to say that the task is unknown.
        if verdict is Verdict.TIMED_OUT or failures + 1 >= _PROBE_FAILURES_MAX:
            raise _Moved(f"the node did not answer a probe: {failure.message}")
        return failures + 1

    def _resolve(self, task: tasks_pb2.Task) -> None:
        if not terminal(task):
            log.warning("node reported a task as finished that is not", extra={"task_id": task.task_id})
            return
        self._settle(task.task_id, task)

    def _settle(self, name: str, outcome: tasks_pb2.Task | CoterieError) -> None:
        _set(self._waiting.pop(name, ()), outcome)

    def _fail_all(self, error: CoterieError) -> None:
        while self._waiting:
            _, futures = self._waiting.popitem()
            _set(futures, error)

    async def _get(self, name: str) -> tasks_pb2.Task:
        request = tasks_pb2.GetTaskRequest(name=name)
        return await self._caller.unary(lambda endpoint: endpoint.tasks.GetTask, request)


def _set(futures: Iterable[asyncio.Future[tasks_pb2.Task]], outcome: tasks_pb2.Task | CoterieError) -> None:
    for future in futures:
        if future.done():
            continue
        if isinstance(outcome, CoterieError):
            future.set_exception(own_copy(outcome))
        else:
            future.set_result(outcome)


def _first_error(done: Iterable[asyncio.Task[None]]) -> BaseException:
    # The reader's error is the informative one: a writer only learns that the stream is over.
    for part in sorted(done, key=lambda part: "read" not in part.get_name()):
        if not part.cancelled() and (error := part.exception()) is not None:
            return error
    return ClusterError("the stream was cut", code="UNAVAILABLE", reason="SHUTTING_DOWN")
