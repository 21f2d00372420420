"""The time machine: the state at an earlier index of the log, rebuilt beside the one in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields

import grpc

from coterie.core.state import ClusterState
from coterie.node.errors import ApiError
from coterie.node.turns import Turns
from coterie.raft.past import NotKept, Past
from coterie.raft.replica import Replica

PART = 500  # records thrown away without a turn for the node's other duties


@dataclass(frozen=True, slots=True)
class Then:
    """A state, and where in the log it was."""

    state: ClusterState
    index: int
    at_ms: int
    oldest: int
    newest: int


@dataclass(frozen=True, slots=True)
class TimeMachine:
    """`past`: what the engine has of an index. One state at a time: each is as large as the present one."""

    past: Callable[[int], Past]
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)
    _visited: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def at(self, index: int) -> Then:
        """The state right after the entry `index`; 0: the present one. Raises ApiError OUT_OF_RANGE."""
        async with self._one:
            try:
                past = self.past(index)
            except NotKept as error:
                raise _compacted(index, error) from error
            try:
                state = await _rebuilt(past)
            finally:
                past.close()
        return Then(state, past.index, past.at_ms, past.oldest, past.newest)

    @asynccontextmanager
    async def visit(self, index: int) -> AsyncIterator[Then]:
        """As `at`, for as long as it is looked at. Throwing a million records away at once would take as long
        as making them: they go in portions."""
        async with self._visited:
            then = await self.at(index)
            try:
                yield then
            finally:
                await _thrown_away(then.state)


async def _thrown_away(state: ClusterState) -> None:
    turns = Turns()
    for records in [one for name in fields(state) if isinstance(one := getattr(state, name.name), dict)]:
        while records:
            for _ in range(min(PART, len(records))):
                records.popitem()
            await turns.take()


async def _rebuilt(past: Past) -> ClusterState:
    """In slices: the node's other duties have their turns."""
    replica = Replica(lambda index, events: None, lambda index: None)
    turns = Turns()
    for _ in _rebuilding(replica, past):
        await turns.take()
    return replica.state


def _rebuilding(replica: Replica, past: Past) -> Iterator[None]:
    """The image, then the entries, in small portions."""
    if past.snapshot is not None:
        rebuilt = replica.begin_restore()
        for chunk in past.snapshot.chunks():
            rebuilt.feed(chunk)
            yield
        while rebuilt.settle():
            yield
        rebuilt.adopt(past.oldest)
    for index, at_ms, body in past.entries:
        replica.apply(index, at_ms, body)
        yield


def _compacted(index: int, error: NotKept) -> ApiError:
    asked = "lies ahead" if index > error.newest else "is older than what this node's snapshot and log hold"
    text = f"index {index} {asked}: it can show {error.oldest} to {error.newest}; `history` goes further back"
    metadata = {"oldest_index": str(error.oldest), "newest_index": str(error.newest)}
    return ApiError(grpc.StatusCode.OUT_OF_RANGE, "HISTORY_COMPACTED", text, metadata=metadata)
