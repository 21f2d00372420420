"""Many waits on one stream: names in, finished tasks out, coalesced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

import grpc

from coterie.core.nouns import Task, TaskId
from coterie.core.transitions import TERMINAL
from coterie.node.admission import task_id_of
from coterie.node.errors import ApiError, Violation, invalid
from coterie.node.hub import Hub, wait_for_bell
from coterie.node.reads import Found, Reader
from coterie.node.security.principal import caller
from coterie.node.turns import Turns
from coterie.v1 import tasks_pb2

NAMES_MAX = 100_000  # waited for on one stream
BYTES_MAX = 3 << 20  # of one message, about
TASKS_MAX = 256
MISSING_MAX = 4_096  # names in one message
BARRIER_S = 10.0
READY_BYTES_MAX = 64 << 20  # of what tasks hold that wait for a slow reader; the rest is read again
RECHECK_S = 5.0  # between two looks at what is waited for: a snapshot brings ends without their events


class Waits:
    """The set one stream waits for, and what is ready to be sent."""

    def __init__(self, hub: Hub, reader: Reader) -> None:
        self._hub, self._reader = hub, reader
        self._caller = caller()  # ends are heard of outside the call
        self._names: dict[TaskId, str] = {}  # as they were asked for
        self._ready: list[Task] = []
        self._ready_bytes = 0
        self._later: dict[TaskId, None] = {}  # ended, and not held for want of room; in their order
        self._missing: list[str] = []
        self._bell = asyncio.Event()
        self._recheck_at = asyncio.get_running_loop().time() + RECHECK_S

    async def add(self, names: Iterable[str]) -> None:
        """Wait for these too; what has ended already is ready at once."""
        turns, fresh = Turns(), dict[TaskId, str]()
        held = len(self._names) + len(self._ready) + len(self._missing)
        for name in names:
            task_id = task_id_of(name)
            if task_id not in self._names:
                fresh[task_id] = name
            if held + len(fresh) > NAMES_MAX:
                raise invalid([Violation("names", f"more than {NAMES_MAX} on one stream; open another")])
            await turns.take()
        for task_id, name in fresh.items():
            self._names[task_id] = name
            self._hub.on_finished(task_id, self._finished)
            await turns.take()
        for task_id in fresh:
            await self._look(task_id)
            await turns.take()

    async def _look(self, task_id: TaskId) -> None:
        known = self._reader.peek(task_id)
        if known is not None:
            self._take_if_ended(known)
            return
        try:
            found = await self._reader.get(task_id, BARRIER_S)
        except ApiError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            if name := self._drop(task_id):
                self._missing.append(name)
                self._bell.set()
            return
        self._take_if_ended(found.task)

    def _take_if_ended(self, task: Task) -> None:
        if task.state in TERMINAL and task.task_id in self._names:
            self._hub.forget(task.task_id, self._finished)
            self._finished(task)

    def _finished(self, task: Task) -> None:
        if task.task_id not in self._names or not self._caller.sees(task.tenant):
            return
        if self._ready_bytes > READY_BYTES_MAX:
            self._later[task.task_id] = None
            return
        del self._names[task.task_id]
        self._ready.append(task)
        self._ready_bytes += _held(task)
        self._bell.set()

    def _drop(self, task_id: TaskId) -> str:
        """Its name; empty: nobody waits for it any more."""
        self._hub.forget(task_id, self._finished)
        self._later.pop(task_id, None)
        return self._names.pop(task_id, "")

    async def next(self) -> tasks_pb2.WaitTasksResponse:
        """The next message, as full as what is ready."""
        await self._take_later()
        await self._until_something()
        response = tasks_pb2.WaitTasksResponse(not_found=self._missing[:MISSING_MAX])
        del self._missing[:MISSING_MAX]
        size = response.ByteSize()
        for task in self._ready[:TASKS_MAX]:
            told = self._reader.to_pb(Found(task))
            size += told.ByteSize()
            if response.tasks and size > BYTES_MAX:
                break
            response.tasks.append(told)
            self._ready_bytes -= _held(task)
        del self._ready[: len(response.tasks)]
        return response

    async def _take_later(self) -> None:
        """Read again what there was no room for, as far as there is now."""
        while self._later and self._ready_bytes <= READY_BYTES_MAX:
            task_id = next(iter(self._later))
            del self._later[task_id]
            await self._look(task_id)

    async def _until_something(self) -> None:
        """Until something can be said. Looks for itself now and then, come what may."""
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() >= self._recheck_at:
                await self._recheck()
                self._recheck_at = loop.time() + RECHECK_S
            if self._ready or self._missing:
                return
            self._bell.clear()
            await wait_for_bell(self._bell, self._recheck_at - loop.time())

    async def _recheck(self) -> None:
        """Level-triggered: what has ended unheard is taken now. Raises NoQuorum on a node that is cut off."""
        await self._reader.still_connected()
        turns = Turns()
        for task_id in self._names.keys() - self._later.keys():
            known = self._reader.peek(task_id)
            if known is None or known.state in TERMINAL:
                await self._look(task_id)
            await turns.take()

    def close(self) -> None:
        for task_id in list(self._names):
            self._drop(task_id)


def _held(task: Task) -> int:
    return len(task.result.inline) + len(task.checkpoint.inline) + len(task.payload.inline)


async def wait_many(
    requests: AsyncIterator[tasks_pb2.WaitTasksRequest], hub: Hub, reader: Reader
) -> AsyncGenerator[tasks_pb2.WaitTasksResponse, None]:
    """Serve one WaitTasks stream until the caller hangs up or sends something wrong."""
    waits = Waits(hub, reader)

    async def take() -> None:
        async for request in requests:
            await waits.add(request.names)

    taking = asyncio.create_task(take(), name="wait-tasks-in")
    ready: asyncio.Future[tasks_pb2.WaitTasksResponse] | None = None
    try:
        while True:
            ready = asyncio.ensure_future(waits.next())
            await asyncio.wait({ready, taking}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done() and taking.done() and taking.exception() is None:
                await ready  # the caller adds no more names but still wants the rest
            if not ready.done():
                await taking  # raises what was wrong
                return
            yield ready.result()
    finally:
        ending = [task for task in (taking, ready) if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        waits.close()
