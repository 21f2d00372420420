"""Events of a task with the words of its model calls between them, from any node, across failovers.

The words come live from the node that runs the task. What of them a reader has not got when the step is
recorded comes from the recorded answer, before the event of the step: so nothing is missing, whoever died
meanwhile. A resume token holds the place in the durable events, and in the text of each step that is not
recorded yet."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from coterie.core.nouns import NodeId, Step, TaskId
from coterie.core.state import ClusterState
from coterie.core.task_rules import STEP_KEY_CHARS_MAX
from coterie.core.transitions import HELD
from coterie.node.blob_exchange import BlobExchange
from coterie.node.errors import Violation, invalid
from coterie.node.links import PeerChannels
from coterie.node.llm.completion import OBJECT
from coterie.node.llm.tokens import Piece, TokenBoard, TokenHub
from coterie.node.reads import Reader
from coterie.node.watch import Watcher
from coterie.v1 import peer_pb2, tasks_pb2

MARK = "~"  # in a token, before the places in the texts
LOOK_S = 0.1
STEPS_MAX = 256  # in a token
PLACE_MAX = (1 << 63) - 1
# A step's key, escaped as JSON does it, with three numbers beside it; in base64.
CODED_CHARS_MAX = STEPS_MAX * (12 * STEP_KEY_CHARS_MAX + 3 * 20 + 8) * 4 // 3 + 8
READ_S = 10.0

Cursors = dict[str, tuple[int, int, int]]  # attempt, stream, offset by step


@dataclass(frozen=True, slots=True)
class TokenParts:
    """What it works on."""

    me: NodeId
    state: Callable[[], ClusterState]
    watcher: Watcher
    hub: TokenHub
    channels: PeerChannels
    reader: Reader
    blobs: BlobExchange


class TokenWatcher:
    """Serves WatchTask with tokens."""

    def __init__(self, parts: TokenParts) -> None:
        self._parts = parts

    async def events(self, task_id: TaskId, token: str) -> AsyncGenerator[tasks_pb2.TaskEvent, None]:
        """Durable events and chunks of text, each with the token to go on after it."""
        durable, cursors = split_token(token)
        board = TokenBoard()
        feed = asyncio.create_task(self._feed(task_id, board), name=f"tokens-{task_id}")
        try:
            async with aclosing(self._parts.watcher.events(task_id, durable)) as events:
                reading = _Reading(task_id, durable or f"{task_id}.0", cursors, board)
                async for event in self._merged(reading, events):
                    yield event
        finally:
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)

    async def _merged(
        self, reading: _Reading, events: AsyncGenerator[tasks_pb2.TaskEvent, None]
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        bell = reading.board.listener()
        upcoming: asyncio.Future[Any] = asyncio.ensure_future(anext(events, None))
        waiting = asyncio.ensure_future(bell.wait())
        try:
            while True:
                await asyncio.wait([upcoming, waiting], return_when=asyncio.FIRST_COMPLETED)
                if upcoming.done():
                    event = upcoming.result()
                    if event is None:
                        return
                    async for told in self._durable(reading, event):
                        yield told
                    upcoming = asyncio.ensure_future(anext(events, None))
                bell.clear()
                while pieces := reading.fresh(self._recorded):
                    for piece in pieces:
                        yield reading.chunk(piece)
                if waiting.done():
                    waiting = asyncio.ensure_future(bell.wait())
        finally:
            for future in (upcoming, waiting):
                future.cancel()
            await asyncio.gather(upcoming, waiting, return_exceptions=True)

    async def _durable(
        self, reading: _Reading, event: tasks_pb2.TaskEvent
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        if event.type == "step":
            piece = await self._rest(reading, event.detail)
            if piece is not None:
                yield reading.chunk(piece, replayed=True)
            reading.cursors.pop(event.detail, None)
            reading.done.add(event.detail)
        yield reading.stamped(event)

    async def _rest(self, reading: _Reading, step: str) -> Piece | None:
        """What the reader has not got of the recorded answer that this step is."""
        if step not in reading.steps:
            found = await self._parts.reader.get(reading.task_id, READ_S)
            reading.steps = {one.key: one for one in found.steps}
        recorded = reading.steps.get(step)
        if recorded is None:
            return None
        answer = answer_of(await self._parts.blobs.load(recorded.result))
        if answer is None:
            return None
        attempt, stream, text = answer
        at = reading.cursors.get(step, (0, 0, 0))
        offset = at[2] if at[:2] == (attempt, stream) else 0
        if at[:2] == (attempt, stream) and offset >= len(text):
            return None
        return Piece(step, attempt, stream, offset, text[offset:])

    def _recorded(self, task_id: TaskId, step: str) -> bool:
        """Its event comes, or came, with what is left of the text."""
        state = self._parts.state()
        steps = state.steps.get(task_id)
        return task_id not in state.tasks or (steps is not None and steps.find(step) is not None)

    # --- live

    async def _feed(self, task_id: TaskId, board: TokenBoard) -> None:
        """Fill the board from whichever node runs the task."""
        while True:
            holder = self._holder(task_id)
            if holder is None:
                await asyncio.sleep(LOOK_S)
                continue
            pump = asyncio.create_task(self._pump(task_id, holder[0], board))
            while self._holder(task_id) == holder and not pump.done():
                await asyncio.wait([pump], timeout=LOOK_S)
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            await asyncio.sleep(LOOK_S)

    def _holder(self, task_id: TaskId) -> tuple[NodeId, int] | None:
        task = self._parts.state().tasks.get(task_id)
        return (task.node_id, task.attempt) if task is not None and task.state in HELD else None

    async def _pump(self, task_id: TaskId, node_id: NodeId, board: TokenBoard) -> None:
        parts = self._parts
        if node_id == parts.me:
            async with aclosing(parts.hub.follow(task_id)) as pieces:
                async for piece in pieces:
                    board.add(piece)
        elif node_id in parts.channels.peers:
            call = parts.channels.stub(node_id).WatchTokens(
                peer_pb2.WatchTokensRequest(task_id=task_id), metadata=parts.channels.metadata
            )
            try:
                async for raw in call:
                    board.add(Piece(raw.step, raw.attempt, raw.stream, raw.offset, raw.text.encode()))
            except grpc.aio.AioRpcError:
                return  # the node is gone, or not there yet: looked at again
            finally:
                call.cancel()


class _Reading:
    """Where one reader stands."""

    def __init__(self, task_id: TaskId, durable: str, cursors: Cursors, board: TokenBoard) -> None:
        self.task_id, self._durable, self.cursors, self.board = task_id, durable, cursors, board
        self.steps: dict[str, Step] = {}  # recorded ones, as last looked at
        self.done: set[str] = set()  # steps whose event was given out

    def fresh(self, recorded: Callable[[TaskId, str], bool]) -> list[Piece]:
        """Live pieces that are new, of steps that are not recorded yet."""
        for step in [step for step in self.board.words if step in self.done]:
            del self.board.words[step]
        return [piece for piece in self.board.beyond(self.cursors) if not recorded(self.task_id, piece.step)]

    def chunk(self, piece: Piece, replayed: bool = False) -> tasks_pb2.TaskEvent:
        """A piece as an event; the reader stands behind it from now on."""
        end = piece.offset + len(piece.text)
        self.cursors[piece.step] = (piece.attempt, piece.stream, end)
        chunk = tasks_pb2.TokenChunk(
            step=piece.step,
            attempt=piece.attempt,
            stream=piece.stream,
            offset=piece.offset,
            text=piece.text.decode("utf-8", "replace"),  # a reader may say that it stands within a character
            replayed=replayed,
        )
        return tasks_pb2.TaskEvent(resume_token=self._token(), token=chunk)

    def stamped(self, event: tasks_pb2.TaskEvent) -> tasks_pb2.TaskEvent:
        """A durable event, whose token also says where the reader stands in the texts."""
        if event.resume_token:
            self._durable = event.resume_token
            event.resume_token = self._token()
        return event

    def _token(self) -> str:
        places = [[step, *at] for step, at in list(self.cursors.items())[-STEPS_MAX:]]
        if not places:
            return self._durable
        text = json.dumps(places, separators=(",", ":")).encode()
        return f"{self._durable}{MARK}{base64.urlsafe_b64encode(text).decode().rstrip('=')}"


def split_token(token: str) -> tuple[str, Cursors]:
    """The token of the durable events, and the places in the texts. Raises ApiError for one of nobody's."""
    durable, mark, coded = token.rpartition(MARK)
    if not mark or "." in coded:  # it was the mark in the id of a child: the number of an event follows
        durable, mark = token, ""
    if durable.endswith(".0"):
        durable = ""  # before the first event
    if not mark:
        return durable, {}
    try:
        cursors = _cursors(coded)
    except (ValueError, TypeError, OverflowError, RecursionError):
        cursors = None
    if cursors is None or any(not 0 <= place <= PLACE_MAX for at in cursors.values() for place in at):
        raise invalid([Violation("resume_token", f"{token[:200]!r} is not a token of a task")])
    return durable, cursors


def _cursors(coded: str) -> Cursors | None:
    """Raises ValueError and its like for what is none; None: it is too large to be one."""
    if len(coded) > CODED_CHARS_MAX:
        return None
    places = json.loads(base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)))
    if len(places) > STEPS_MAX:
        return None
    return {str(step): (int(one), int(two), int(three)) for step, one, two, three in places}


def answer_of(result: bytes) -> tuple[int, int, bytes] | None:
    """Attempt, stream and text of a recorded answer of a model; None: the step is something else."""
    if not result.startswith(b'{"object":"' + OBJECT.encode()):
        return None
    record = json.loads(result)
    return int(record["attempt"]), int(record.get("stream", 1)), record["text"].encode()
