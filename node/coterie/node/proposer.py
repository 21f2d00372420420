"""Group commit: commands proposed at about the same time travel in one log entry."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from coterie.core.agentbook import RollBackAgent
from coterie.core.commands import (
    AdvanceClock,
    AssignTask,
    Called,
    Command,
    Outcome,
    ReportProgress,
    SpawnChild,
    SubmitTask,
)
from coterie.core.coordination.commands import (
    ApplySchedule,
    FireSchedule,
    PublishMessage,
    PutKey,
    RunSchedule,
)
from coterie.core.meters import LeaseTokens, SettleTokens
from coterie.core.ports import Engine, NoQuorum, NotCommitted
from coterie.core.runs.commands import RunWorkflow
from coterie.core.skill_commands import RollBackSkill
from coterie.node.metrics import NodeMetrics
from coterie.node.security.principal import caller
from coterie.raft import codec
from coterie.raft.errors import NoSpace, TooManyProposals

COMMANDS_MAX = 256  # per entry, which every node applies without a turn for its event loop
BYTES_MAX = 1 << 20  # per entry, unless a single command is larger
IN_FLIGHT_MAX = 2  # entries not yet answered
TRY_S = 5.0  # one try; the same commands are proposed again until the caller's deadline
RETRY_PAUSE_S = 0.02
GROWING = (
    SubmitTask,
    RunWorkflow,
    SpawnChild,
    AssignTask,
    ReportProgress,
    PutKey,
    PublishMessage,
    ApplySchedule,
    FireSchedule,
    RunSchedule,
)  # not taken while the disks are too full for new work
# Twice is not once: the second would take back the first.
ONCE = (RollBackAgent, RollBackSkill)
# Of the node, also when a call brings them about.
OUR_OWN = (AssignTask, AdvanceClock, LeaseTokens, SettleTokens)
IN_DOUBT = "not known to be committed in time; it may be, or may yet be: look before you ask again"
LATE_S = 0.02  # the engine knows better why it is late than a clock does: it goes first


@dataclass(slots=True)
class _Item:
    """What one caller waits for. Batches are concatenated as they are: that is how protobuf joins lists."""

    batch: bytes = field(repr=False)
    count: int
    deadline: float
    vital: bool
    answer: asyncio.Future[list[Outcome]] = field(repr=False)


class Proposer:
    """Proposes commands and returns their outcomes. Every command but those in ONCE must be safe to propose
    twice."""

    def __init__(self, engine: Engine, metrics: NodeMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._queue: deque[_Item] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._scheduled = self._closed = False
        self._waiting_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """Of commands that somebody waits for: who lets clients in must refuse them when it is too much."""
        return self._waiting_bytes

    async def propose(self, commands: Sequence[Command], timeout_s: float) -> list[Outcome]:
        """Outcomes in the order of the commands, once they are durable on a majority and applied here.

        Raises NotCommitted at the deadline: outcome unknown; NoSpace, a NotCommitted, at once for new work
        for which the disks have too little room. What is wrong with the commands themselves is
        raised to their own caller and does not touch those who travel in the same entry."""
        if not commands:
            return []
        if self._closed:
            raise NotCommitted("the node is stopping")
        if any(isinstance(command, ONCE) for command in commands):
            return await self._once(commands, timeout_s)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        vital = not any(isinstance(command, GROWING) for command in commands)
        batches = _batches(_called(commands))
        items = [self._enqueue(batch, count, deadline, vital) for batch, count in batches]
        self._schedule(loop)
        try:
            async with asyncio.timeout_at(deadline + LATE_S):
                if len(items) == 1:
                    return await items[0].answer
                answers = await asyncio.gather(*(item.answer for item in items))
        except TimeoutError:
            text = "not known to be committed in time; it may be, or may yet be: propose it again"
            raise NotCommitted(text) from None
        return [outcome for answer in answers for outcome in answer]

    async def one(self, command: Command, timeout_s: float) -> Outcome:
        return (await self.propose([command], timeout_s))[0]

    async def _once(self, commands: Sequence[Command], timeout_s: float) -> list[Outcome]:
        """In an entry of their own, which the engine may follow through every change of the leader, but which
        is never proposed again when it may be in the log."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        entry = codec.encode_batch(_called(commands))
        while True:
            began = loop.time()
            try:
                committed = await self._engine.propose(entry, max(0.01, deadline - began), vital=True)
            except (NoSpace, TooManyProposals):  # certainly not in the log
                if loop.time() + RETRY_PAUSE_S >= deadline:
                    raise
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            except NoQuorum:  # likewise
                raise
            except NotCommitted:
                raise NotCommitted(IN_DOUBT) from None
            self._metrics.committed(loop.time() - began, 1)
            result = committed.result
            assert isinstance(result, list)
            return result

    async def close(self) -> None:
        self._closed = True
        for task in list(self._in_flight):
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        while self._queue:
            _fail(self._queue.popleft(), NotCommitted("the node is stopping"))

    def _enqueue(self, batch: bytes, count: int, deadline: float, vital: bool) -> _Item:
        item = _Item(batch, count, deadline, vital, asyncio.get_running_loop().create_future())
        self._waiting_bytes += len(batch)
        size = len(batch)

        def answered(_: object) -> None:
            self._waiting_bytes -= size
            item.batch = b""  # an item nobody waits for any more may stay in the queue for a while

        item.answer.add_done_callback(answered)
        self._queue.append(item)
        return item

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._scheduled and not self._closed and len(self._in_flight) < IN_FLIGHT_MAX:
            self._scheduled = True
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        while self._queue and not self._closed and len(self._in_flight) < IN_FLIGHT_MAX:
            items = self._take()
            task = asyncio.get_running_loop().create_task(self._send(items), name="propose")
            self._in_flight.add(task)
            task.add_done_callback(self._sent)

    def _take(self) -> list[_Item]:
        items: list[_Item] = []
        count = size = 0
        while self._queue:
            item = self._queue[0]
            if not item.answer.done():
                count += item.count
                size += len(item.batch)
                if items and (count > COMMANDS_MAX or size > BYTES_MAX):
                    break
                items.append(item)
            self._queue.popleft()
        return items

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._queue:
            self._schedule(asyncio.get_running_loop())

    async def _send(self, items: list[_Item]) -> None:
        loop = asyncio.get_running_loop()
        try:
            while items := [item for item in items if not item.answer.done()]:
                left = max(item.deadline for item in items) - loop.time()
                began = loop.time()
                try:
                    entry = b"".join([item.batch for item in items])
                    vital = all(item.vital for item in items)
                    committed = await self._engine.propose(entry, max(0.01, min(TRY_S, left)), vital=vital)
                except NotCommitted as error:
                    if isinstance(error, NoSpace) and _turn_away(items, error):
                        continue  # without those who bring new work
                    _fail_late(items, loop.time(), error)
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


def _called(commands: Sequence[Command]) -> Sequence[Command]:
    """The commands, with who asked for them where a caller did."""
    origin = caller().origin
    if origin is None:
        return commands
    return [one if isinstance(one, OUR_OWN) else Called(one, origin) for one in commands]


def _batches(commands: Sequence[Command]) -> list[tuple[bytes, int]]:
    """The commands in batches of at most COMMANDS_MAX and BYTES_MAX, or of one command, with their counts."""
    if len(commands) <= COMMANDS_MAX:
        batch = codec.encode_batch(commands)
        if len(batch) <= BYTES_MAX or len(commands) == 1:
            return [(batch, len(commands))]
    middle = len(commands) // 2
    return _batches(commands[:middle]) + _batches(commands[middle:])


def _fail_late(items: list[_Item], now: float, error: NotCommitted) -> None:
    for item in items:
        if item.deadline <= now:
            _fail(item, error)


def _turn_away(items: list[_Item], error: NoSpace) -> bool:
    """Tell those who bring new work at once; whether there were any."""
    growing = [item for item in items if not item.vital]
    for item in growing:
        _fail(item, error)
    return bool(growing)


def _fail(item: _Item, error: Exception) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)


def _answer(items: list[_Item], result: object) -> None:
    assert isinstance(result, list)
    at = 0
    for item in items:
        end = at + item.count
        if not item.answer.done():
            item.answer.set_result(result[at:end])
        at = end
