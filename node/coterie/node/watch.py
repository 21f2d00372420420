"""Events of one task: history from the ledger, then live, with tokens that hold on every node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import grpc

from coterie.core.nouns import Event, TaskId
from coterie.core.transitions import TERMINAL
from coterie.node import convert
from coterie.node.errors import ApiError, Violation, invalid
from coterie.node.hub import Hub, Subscription
from coterie.node.ledger import Ledger
from coterie.node.reads import Found, Reader
from coterie.v1 import tasks_pb2

HEARTBEAT_S = 5.0
PAGE = 500
BARRIER_S = 10.0
END_TYPES = {state.name.lower() for state in TERMINAL}


class Watcher:
    """Serves WatchTask."""

    def __init__(
        self,
        hub: Hub,
        reader: Reader,
        ledger: Ledger,
        has_quorum: Callable[[], bool],
        epoch: Callable[[], str] = str,
    ) -> None:
        """`epoch`: of the state. The number of an event says nothing about another epoch's events."""
        self._hub, self._reader, self._ledger = hub, reader, ledger
        self._has_quorum, self._epoch = has_quorum, epoch

    async def events(self, task_id: TaskId, token: str) -> AsyncGenerator[tasks_pb2.TaskEvent, None]:
        """From the event after the token to the last one. Sequence numbers are dense; a hole is a Gap."""
        epoch = self._epoch()
        seen = _sequence(task_id, token, epoch)
        now = await self._reader.get(task_id, BARRIER_S)
        if seen > now.task.sequence:  # this node lags behind the one that gave out the token, or nobody did
            await self._reader.barrier(tasks_pb2.LINEARIZABLE, BARRIER_S)
            now = await self._reader.get(task_id, BARRIER_S)
            if seen > now.task.sequence:
                raise _bad_token(task_id, token)
        if now.task.state in TERMINAL and seen >= now.task.sequence:
            return
        with self._hub.watch(task_id) as live:
            first = True
            async for event in self._all(task_id, seen, live):
                if event.WhichOneof("live") is None and (first or event.type in END_TYPES):
                    event.task.CopyFrom(self._reader.to_pb(await self._found(task_id)))
                    first = False
                yield _stamped(event, task_id, epoch)

    async def _all(
        self, task_id: TaskId, seen: int, live: Subscription
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        while True:
            # Looked at first: when it has ended by now, its end is in the history, if anywhere.
            now = (await self._found(task_id)).task
            async for event in self._history(task_id, seen):
                seen = event.sequence or seen
                yield event
                if event.type in END_TYPES:
                    return
            if now.state in TERMINAL:  # it ended where this ledger has a gap
                if now.sequence > seen + 1:
                    yield _gap(seen + 1, now.sequence)
                yield convert.end_to_pb(now)
                return
            async for event in self._live(task_id, seen, live):
                seen = event.sequence or seen
                yield event
                if event.type in END_TYPES:
                    return
            live.overflowed = False  # the reader was too slow: what it missed is in the ledger

    async def _history(self, task_id: TaskId, seen: int) -> AsyncIterator[tasks_pb2.TaskEvent]:
        while rows := await self._ledger.events(task_id, seen, PAGE):
            for row in rows:
                if row.sequence != seen + 1:
                    yield _gap(seen + 1, row.sequence)
                seen = row.sequence
                yield convert.record_to_event(row.record)

    async def _live(
        self, task_id: TaskId, seen: int, live: Subscription
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        """Until the subscription has overflowed and is empty, a hole shows, or the state is ahead of what was
        heard, as after a snapshot."""
        while not (live.overflowed and live.queue.empty()):
            event = await _next(live)
            if event is None:
                if not self._has_quorum():  # cut off: what happens to the task is not known here
                    raise ApiError(grpc.StatusCode.UNAVAILABLE, "NO_QUORUM", "this node is cut off")
                yield tasks_pb2.TaskEvent(heartbeat=tasks_pb2.Heartbeat())
                known = self._reader.peek(task_id)
                if live.queue.empty() and (known is None or known.sequence > seen):
                    return
                continue
            sequence = event.task.sequence
            if sequence <= seen:
                continue
            if sequence > seen + 1:
                return  # read the missing ones from the ledger
            seen = sequence
            yield convert.event_to_pb(event)

    async def _found(self, task_id: TaskId) -> Found:
        return await self._reader.get(task_id, BARRIER_S)


async def _next(live: Subscription) -> Event | None:
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            return await live.queue.get()
    except TimeoutError:
        return None


def _stamped(event: tasks_pb2.TaskEvent, task_id: TaskId, epoch: str) -> tasks_pb2.TaskEvent:
    if epoch and event.resume_token:
        event.resume_token = f"{task_id}@{epoch}.{event.sequence}"
    return event


def _sequence(task_id: TaskId, token: str, epoch: str) -> int:
    """The sequence number in a token. Raises ApiError for one of another task, another epoch, or nobody."""
    if not token:
        return 0
    owner, _, number = token.rpartition(".")
    expected = f"{task_id}@{epoch}" if epoch else task_id
    if owner != expected and (owner == task_id or owner.startswith(f"{task_id}@")):
        text = f"{token[:200]!r} is of the cluster before it was restored from a backup: watch without it"
        raise invalid([Violation("resume_token", text)])
    if owner != expected or not number.isdecimal() or len(number) > 18:
        raise _bad_token(task_id, token)
    return int(number)


def _bad_token(task_id: TaskId, token: str) -> ApiError:
    return invalid([Violation("resume_token", f"{token[:200]!r} is not a token of task {task_id}")])


def _gap(first: int, present: int) -> tasks_pb2.TaskEvent:
    reason = f"events {first} to {present - 1} are not in the ledger of this node"
    return tasks_pb2.TaskEvent(gap=tasks_pb2.Gap(reason=reason))
