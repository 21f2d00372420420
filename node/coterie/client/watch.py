"""A watch that survives nodes: it goes on after the last event seen, without a gap or a repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import grpc.aio

from coterie.client.caller import Backoff, Caller
from coterie.client.endpoints import Endpoint
from coterie.client.errors import ClusterError
from coterie.client.models import GAP_EVENT, TOKEN_EVENT, Event, terminal
from coterie.client.streams import Outage
from coterie.v1 import tasks_pb2

_HOLES_MAX = 5

WatchStream = grpc.aio.UnaryStreamCall[tasks_pb2.WatchTaskRequest, tasks_pb2.TaskEvent]


class _Hole(ClusterError):
    """A durable event is missing on this stream; the next one, from the last token, may have it."""


class Watch:
    """The events of one task, from the beginning or after `resume_token`, to the terminal one.

    A broken or silent stream is opened again on another node with the token of the last event. Nodes
    deliver at least once; the sequence numbers make that exactly once: what was seen is dropped, and
    a hole makes the watch open the stream again from the last good token. A hole that no node can fill
    is an event of type "gap", never silence. With `tokens`, events of type "token" carry the words of
    language models as they come; joined, they are the recorded answers byte for byte.
    """

    def __init__(self, caller: Caller, name: str, resume_token: str = "", tokens: bool = False) -> None:
        self._caller = caller
        self._name = name
        self._token = resume_token
        self._tokens, self._resumed = tokens, bool(resume_token)
        self._places: dict[str, tuple[tuple[int, int], int]] = {}  # how far the text of a step was seen
        self._sequence = 0
        self._holes = 0
        self._gap: tasks_pb2.TaskEvent | None = None
        self._over = False  # the task was, before the stream was opened
        self._outage = Outage(caller)
        self._heard = False

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yields each event once, in order; ends after the terminal event."""
        backoff = Backoff()
        endpoint: Endpoint | None = None
        while True:
            endpoint = self._caller.pool.pick(avoid=endpoint)
            self._heard, self._gap = False, None
            failure: ClusterError
            try:
                with self._caller.using(endpoint):
                    call: WatchStream = endpoint.tasks.WatchTask(
                        tasks_pb2.WatchTaskRequest(
                            name=self._name, resume_token=self._token, include_tokens=self._tokens
                        )
                    )
                    try:
                        while (news := await self._next(endpoint, call)) is not None:
                            for event in news:
                                yield event
                                if event.terminal:
                                    return
                    finally:
                        call.cancel()
                if await self._finished():
                    return
                failure = ClusterError("the node ended the watch", code="UNAVAILABLE", reason="SHUTTING_DOWN")
            except ClusterError as error:
                failure = error
            if self._heard:
                backoff.reset()
            await self._pause(failure, backoff)

    async def _next(self, endpoint: Endpoint, call: WatchStream) -> list[Event] | None:
        """The next events that were not seen yet; None when the stream has no more."""
        while True:
            raw = await self._receive(endpoint, call)
            if raw is None:
                return None
            self._heard = True
            self._outage.over()
            if news := self._accept(raw):
                self._over = False
                return news

    async def _receive(self, endpoint: Endpoint, call: WatchStream) -> tasks_pb2.TaskEvent | None:
        try:
            async with asyncio.timeout(self._caller.timeouts.stream_silence):
                message = await call.read()
        except TimeoutError:
            raise self._caller.silent(endpoint, "the node sent no heartbeat") from None
        return message if isinstance(message, tasks_pb2.TaskEvent) else None

    def _accept(self, raw: tasks_pb2.TaskEvent) -> list[Event]:
        """What a message adds: nothing for heartbeats and repeats. Raises at a hole that may be mended."""
        if raw.WhichOneof("live") == GAP_EVENT:
            self._gap = raw  # Given out with the next event, unless another node can fill it.
            return []
        if raw.WhichOneof("live") == TOKEN_EVENT:
            return self._accept_token(raw)
        if not raw.type:
            return []  # Neither a sign of life nor a bare snapshot of the task is an event.
        if raw.sequence:
            if raw.sequence <= self._sequence:
                return []
            # A token does not say which number comes next; there only the node can tell of a hole.
            known = self._sequence or not self._resumed or self._gap is not None
            if known and raw.sequence > self._sequence + 1:
                self._note_hole(raw.sequence)
            self._sequence = raw.sequence
            self._holes = 0
        if raw.resume_token:
            self._token = raw.resume_token
        news = [Event.of(raw)] if self._gap is None else [Event.of(self._gap), Event.of(raw)]
        self._gap = None
        return news

    def _accept_token(self, raw: tasks_pb2.TaskEvent) -> list[Event]:
        """A chunk that goes on where the text of its step stands. A repeat adds nothing; raises at a hole,
        which becomes a gap when no node fills it."""
        event = Event.of(raw)
        chunk = event.token
        assert chunk is not None
        order, end = self._places.get(chunk.step, ((0, 0), 0 if not self._resumed else chunk.offset))
        if chunk.order < order:
            return []
        if chunk.order > order and chunk.step in self._places:
            end = 0
        gaps: list[Event] = []
        if chunk.offset > end:
            self._holes += 1
            reason = f"step {chunk.step}: text before byte {chunk.offset} is missing"
            if self._holes <= _HOLES_MAX:
                raise _Hole(reason)
            gaps = [Event.of(tasks_pb2.TaskEvent(gap=tasks_pb2.Gap(reason=reason)))]
        fresh = chunk.after(end)
        if not fresh.text and chunk.order == order:
            return []
        self._holes = 0
        self._places[chunk.step] = (chunk.order, fresh.offset + len(fresh.text.encode()))
        self._token = raw.resume_token or self._token
        return [*gaps, replace(event, token=fresh)]

    def _note_hole(self, sequence: int) -> None:
        self._holes += 1
        if self._gap is None or self._holes <= _HOLES_MAX:
            self._gap = None
            since = self._sequence or ("the token" if self._resumed else 0)
            raise _Hole(f"events after {since} and before {sequence} are missing")
        # Every node says that it has them no more: the reader is told by a gap event.

    async def _finished(self) -> bool:
        """After a stream that ended by itself: True when the task was over before the stream began, as when
        the resume token is that of the terminal event. A node that leaves ends its streams early, so what is
        over by now may still have news."""
        if self._over:
            return True
        task = await self._caller.unary(
            lambda endpoint: endpoint.tasks.GetTask, tasks_pb2.GetTaskRequest(name=self._name)
        )
        self._over = terminal(task)
        return False

    async def _pause(self, failure: ClusterError, backoff: Backoff) -> None:
        if isinstance(failure, _Hole):
            if self._holes > _HOLES_MAX:
                raise ClusterError(
                    f"the history of {self._name} has a hole: {failure.message}", reason="HISTORY_GAP"
                ) from failure
            failure = ClusterError(failure.message, code="UNAVAILABLE", reason="HISTORY_GAP")
        await self._caller.before_retry(failure, backoff, self._outage.ends_at())
