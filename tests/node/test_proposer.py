"""Group commit: who travels together, who pays for whose mistakes, and when a caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from coterie.core.agentbook import RollBackAgent
from coterie.core.commands import Accepted, CancelTask, Command, SubmitTask
from coterie.core.nouns import Data, RetryPolicy, TaskId
from coterie.core.ports import Committed, NoQuorum, NotCommitted
from coterie.core.skill_commands import RollBackSkill
from coterie.node.metrics import NodeMetrics
from coterie.node.proposer import BYTES_MAX, COMMANDS_MAX, Proposer
from coterie.raft import codec
from coterie.raft.errors import EntryTooLarge, NoSpace, TooManyProposals

ENTRY_BYTES_MAX = 4 << 20


class FakeEngine:
    """Accepts every command of an entry, under the name of its task; or has no leader while told so."""

    def __init__(self) -> None:
        self.entries: list[list[Command | None]] = []
        self.has_room = True
        self.open = asyncio.Event()
        self.open.set()

    async def propose(self, entry: bytes, timeout_s: float, *, vital: bool = False) -> Committed:
        if not (vital or self.has_room):
            raise NoSpace("full")
        if len(entry) > ENTRY_BYTES_MAX:
            raise EntryTooLarge(f"entry of {len(entry)} bytes")
        try:
            async with asyncio.timeout(timeout_s):
                await self.open.wait()
        except TimeoutError:
            raise NotCommitted("no leader") from None
        commands = codec.decode_batch(entry)
        assert commands is not None
        self.entries.append(commands)
        outcomes = [Accepted(command.task_id) for command in commands if isinstance(command, TASKS)]
        assert len(outcomes) == len(commands)
        return Committed(len(self.entries), 1, 0, outcomes)


TASKS = (SubmitTask, CancelTask)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def proposer(engine: FakeEngine) -> AsyncIterator[Proposer]:
    made = Proposer(engine, NodeMetrics())  # type: ignore[arg-type]
    yield made
    await made.close()


def submit(task_id: str, size: int = 10) -> SubmitTask:
    return SubmitTask(TaskId(task_id), "default", "echo", Data(b"x" * size), 2, RetryPolicy())


def cancel(task_id: str, reason: str = "") -> CancelTask:
    return CancelTask(TaskId(task_id), reason)


async def test_commands_of_one_moment_share_an_entry_and_get_their_own_outcomes(
    engine: FakeEngine, proposer: Proposer
) -> None:
    outcomes = await asyncio.gather(*(proposer.one(cancel(f"t{n}"), 5) for n in range(20)))
    assert outcomes == [Accepted(TaskId(f"t{n}")) for n in range(20)]
    assert len(engine.entries) == 1


async def test_a_batch_above_the_entry_limit_travels_in_parts_in_its_order(
    engine: FakeEngine, proposer: Proposer
) -> None:
    batch = [submit(f"t{n}", 256 * 1024) for n in range(60)]
    outcomes = await proposer.propose(batch, 5)
    assert outcomes == [Accepted(command.task_id) for command in batch]
    assert [command for entry in engine.entries for command in entry] == batch
    sizes = [len(codec.encode_batch([c for c in entry if c is not None])) for entry in engine.entries]
    assert max(sizes) <= BYTES_MAX


async def test_many_commands_are_spread_over_entries(engine: FakeEngine, proposer: Proposer) -> None:
    await asyncio.gather(*(proposer.one(cancel(f"t{n}"), 5) for n in range(COMMANDS_MAX + 1)))
    assert [len(entry) for entry in engine.entries] == [COMMANDS_MAX, 1]


async def test_many_commands_of_one_caller_are_spread_too(engine: FakeEngine, proposer: Proposer) -> None:
    """An entry is applied in one go: a long one would hold up every node."""
    batch = [cancel(f"t{n}") for n in range(2 * COMMANDS_MAX)]
    assert await proposer.propose(batch, 5) == [Accepted(command.task_id) for command in batch]
    assert [command for entry in engine.entries for command in entry] == batch
    assert max(map(len, engine.entries)) == COMMANDS_MAX


async def test_a_command_that_is_too_large_fails_alone(engine: FakeEngine, proposer: Proposer) -> None:
    answers = await asyncio.gather(
        proposer.one(cancel("before"), 5),
        proposer.one(cancel("large", "x" * ENTRY_BYTES_MAX), 5),
        proposer.one(cancel("after"), 5),
        return_exceptions=True,
    )
    assert isinstance(answers[1], EntryTooLarge)
    assert [answers[0], answers[2]] == [Accepted(TaskId("before")), Accepted(TaskId("after"))]


async def test_a_command_that_cannot_be_encoded_fails_alone(proposer: Proposer) -> None:
    answers = await asyncio.gather(
        proposer.one(cancel("before"), 5),
        proposer.one(cancel("odd", "\ud800"), 5),
        proposer.one(cancel("after"), 5),
        return_exceptions=True,
    )
    assert isinstance(answers[1], ValueError)
    assert [answers[0], answers[2]] == [Accepted(TaskId("before")), Accepted(TaskId("after"))]


async def test_a_caller_that_gives_up_does_not_shift_the_outcomes_of_the_others(
    engine: FakeEngine, proposer: Proposer
) -> None:
    first, second, third = (asyncio.ensure_future(proposer.one(cancel(f"t{n}"), 5)) for n in range(3))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(first.cancel)  # after the entry was put together, before it is sent
    assert await second == Accepted(TaskId("t1"))
    assert await third == Accepted(TaskId("t2"))
    assert first.cancelled() or first.result() == Accepted(TaskId("t0"))


async def test_a_caller_hears_at_its_own_deadline_while_others_wait_on(
    engine: FakeEngine, proposer: Proposer
) -> None:
    engine.open.clear()
    patient = asyncio.ensure_future(proposer.one(cancel("patient"), 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(NotCommitted):
        await proposer.one(cancel("hasty"), 0.05)
    assert not patient.done()
    engine.open.set()
    assert await patient == Accepted(TaskId("patient"))


async def test_what_nobody_waits_for_any_more_is_neither_counted_nor_sent(
    engine: FakeEngine, proposer: Proposer
) -> None:
    engine.open.clear()
    patient = asyncio.ensure_future(proposer.one(cancel("patient"), 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    before = proposer.waiting_bytes
    with pytest.raises(NotCommitted):
        await proposer.one(submit("hasty", 100_000), 0.05)
    await asyncio.sleep(0)
    assert proposer.waiting_bytes == before
    engine.open.set()
    await patient
    assert await proposer.one(cancel("next"), 5) == Accepted(TaskId("next"))
    assert [[c.task_id for c in entry if isinstance(c, TASKS)] for entry in engine.entries] == [
        ["patient"],
        ["next"],
    ]


async def test_a_closed_proposer_refuses_at_once(engine: FakeEngine) -> None:
    closing = Proposer(engine, NodeMetrics())  # type: ignore[arg-type]
    engine.open.clear()
    waiting = [asyncio.ensure_future(closing.one(cancel(f"t{n}"), 60)) for n in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.append(asyncio.ensure_future(closing.one(cancel("queued"), 60)))
    await asyncio.sleep(0)
    await closing.close()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, NotCommitted) for answer in answers)
    with pytest.raises(NotCommitted):
        await closing.one(cancel("late"), 60)
    assert not engine.entries


async def test_full_disks_turn_new_work_away_at_once_and_let_the_rest_of_the_entry_through(
    engine: FakeEngine, proposer: Proposer
) -> None:
    engine.has_room = False
    ended, refused = await asyncio.gather(
        proposer.one(cancel("t1"), 5), proposer.one(submit("t2"), 5), return_exceptions=True
    )
    assert ended == Accepted(TaskId("t1"))
    assert isinstance(refused, NoSpace)
    engine.has_room = True
    assert await proposer.one(submit("t2"), 5) == Accepted(TaskId("t2"))


class ForgetfulEngine(FakeEngine):
    """Appends what it is given, and does not know so the first time; or has no room for it then."""

    def __init__(self, first: NotCommitted) -> None:
        super().__init__()
        self._first: NotCommitted | None = first

    async def propose(self, entry: bytes, timeout_s: float, *, vital: bool = False) -> Committed:
        told, self._first = self._first, None
        commands = codec.decode_batch(entry)
        assert commands is not None
        if not isinstance(told, TooManyProposals | NoSpace):
            self.entries.append(commands)
        if told is not None:
            raise told
        return Committed(len(self.entries), 1, 0, [Accepted() for _ in commands])


ROLL_BACKS = (RollBackSkill("word-count"), RollBackAgent("analyst"))


@pytest.mark.parametrize("command", ROLL_BACKS, ids=lambda command: type(command).__name__)
async def test_a_roll_back_that_may_be_in_the_log_is_not_proposed_again(command: Command) -> None:
    """A second one would go back to what the first has gone away from."""
    engine = ForgetfulEngine(NotCommitted("no answer in time"))
    proposer = Proposer(engine, NodeMetrics())  # type: ignore[arg-type]
    with pytest.raises(NotCommitted, match="look before you ask again"):
        await proposer.one(command, 5)
    await proposer.close()
    assert engine.entries == [[command]]


async def test_what_is_safe_to_repeat_is_proposed_until_it_is_known() -> None:
    forgetful = ForgetfulEngine(NotCommitted("no answer in time"))
    proposer = Proposer(forgetful, NodeMetrics())  # type: ignore[arg-type]
    assert await proposer.one(cancel("t1"), 5) == Accepted()
    await proposer.close()
    assert forgetful.entries == [[cancel("t1")], [cancel("t1")]]


@pytest.mark.parametrize("error", [TooManyProposals("many"), NoSpace("full")], ids=["many", "full"])
async def test_a_roll_back_that_was_not_appended_is_tried_until_there_is_room(error: NotCommitted) -> None:
    engine = ForgetfulEngine(error)
    proposer = Proposer(engine, NodeMetrics())  # type: ignore[arg-type]
    assert await proposer.one(ROLL_BACKS[0], 5) == Accepted()
    await proposer.close()
    assert engine.entries == [[ROLL_BACKS[0]]]


@pytest.mark.parametrize("error", [TooManyProposals("many"), NoQuorum("no leader")], ids=["many", "none"])
async def test_a_roll_back_that_is_certainly_not_done_says_so(error: NotCommitted) -> None:
    engine = ForgetfulEngine(error)
    proposer = Proposer(engine, NodeMetrics())  # type: ignore[arg-type]
    with pytest.raises(type(error), match=str(error)):
        await proposer.one(ROLL_BACKS[0], 0.0)
    await proposer.close()
