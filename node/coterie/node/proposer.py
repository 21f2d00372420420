"""Group commit: commands proposed at about the same time travel in one log entry."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from coterie.core.commands import Command, Outcome
from coterie.core.ports import Engine, NotCommitted
from coterie.node.metrics import NodeMetrics
from coterie.raft import codec

COMMANDS_MAX = 512  # per entry
BYTES_MAX = 1 << 20  # of payload per entry, about
IN_FLIGHT_MAX = 1  # entries not yet answered
TRY_S = 5.0  # one try; the same commands are proposed again until the caller's deadline
RETRY_PAUSE_S = 0.02


@dataclass(slots=True)
class _Item:
    commands: Sequence[Command]
    size: int
    deadline: float
    answer: asyncio.Future[list[Outcome]] = field(repr=False)


class Proposer:
    """Proposes commands and returns their outcomes. Every command must be safe to propose twice."""

    def __init__(self, engine: Engine, metrics: NodeMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._queue: deque[_Item] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def propose(self, commands: Sequence[Command], timeout_s: float, size: int = 0) -> list[Outcome]:
        """Outcomes in the order of the commands, once they are durable on a majority and applied here.
        `size` is roughly the bytes they carry. Raises NotCommitted at the deadline: outcome unknown."""
        if not commands:
            return []
        loop = asyncio.get_running_loop()
        item = _Item(commands, size, loop.time() + timeout_s, loop.create_future())
        self._queue.append(item)
        self._schedule(loop)
        return await item.answer

    async def one(self, command: Command, timeout_s: float, size: int = 0) -> Outcome:
        return (await self.propose([command], timeout_s, size))[0]

    async def close(self) -> None:
        for task in list(self._in_flight):
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        while self._queue:
            _fail(self._queue.popleft(), NotCommitted("the node is stopping"))

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._scheduled and len(self._in_flight) < IN_FLIGHT_MAX:
            self._scheduled = True
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        while self._queue and len(self._in_flight) < IN_FLIGHT_MAX:
            items = self._take()
            task = asyncio.get_running_loop().create_task(self._send(items), name="propose")
            self._in_flight.add(task)
            task.add_done_callback(self._sent)

    def _take(self) -> list[_Item]:
        items: list[_Item] = []
        count = size = 0
        while self._queue and count < COMMANDS_MAX and (not items or size < BYTES_MAX):
            item = self._queue.popleft()
            if not item.answer.done():
                items.append(item)
                count += len(item.commands)
                size += item.size
        return items

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._queue:
            self._schedule(asyncio.get_running_loop())

    async def _send(self, items: list[_Item]) -> None:
        loop = asyncio.get_running_loop()
        try:
            while items:
                entry = codec.encode_batch(c for item in items for c in item.commands)
                left = max(item.deadline for item in items) - loop.time()
                began = loop.time()
                try:
                    committed = await self._engine.propose(entry, max(0.01, min(TRY_S, left)))
                except NotCommitted as error:
                    items = _still_wanted(items, loop.time(), error)
                    await asyncio.sleep(RETRY_PAUSE_S)
                    continue
                self._metrics.committed(loop.time() - began, len(items))
                _answer(items, committed.result)
                return
        except asyncio.CancelledError:
            for item in items:
                _fail(item, NotCommitted("the node is stopping"))
            raise
        except Exception as error:
            for item in items:
                _fail(item, error)


def _still_wanted(items: list[_Item], now: float, error: NotCommitted) -> list[_Item]:
    wanted = []
    for item in items:
        if item.answer.done():
            continue
        if item.deadline <= now:
            _fail(item, error)
        else:
            wanted.append(item)
    return wanted


def _fail(item: _Item, error: Exception) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)


def _answer(items: list[_Item], result: object) -> None:
    assert isinstance(result, list)
    at = 0
    for item in items:
        end = at + len(item.commands)
        if not item.answer.done():
            item.answer.set_result(result[at:end])
        at = end
