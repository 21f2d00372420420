from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coterie.core.nouns import TaskId
from coterie.core.ports import NoQuorum
from coterie.node.errors import ApiError
from coterie.node.ledger import Ledger
from coterie.node.reads import Reader
from coterie.v1 import tasks_pb2
from tests.core.builders import submit_command
from tests.node.fakes import FakeEngine, QuietNode

ELECTION_S = 2.0


class Time:
    """A clock that moves when told."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class World:
    """A reader whose engine and clock the test moves."""

    def __init__(self, node: QuietNode, ledger: Ledger) -> None:
        self.engine, self.time, self.node = FakeEngine(), Time(), node
        engine: Any = self.engine
        clock: Any = self.time
        self.catching_up = False
        self.reader = Reader(engine, node.state, ledger, clock, lambda: self.catching_up, ELECTION_S)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    ledger = await Ledger.open(tmp_path / "ledger.db")
    yield World(QuietNode(ledger), ledger)
    await ledger.close()


async def started(world: World) -> asyncio.Task[None]:
    call = asyncio.create_task(world.reader.connected())
    await asyncio.sleep(0.05)
    return call


async def test_a_call_waits_through_an_election(world: World) -> None:
    world.engine.has_quorum = False
    call = await started(world)
    world.time.now += 0.9 * ELECTION_S
    await asyncio.sleep(0.05)
    assert not call.done()
    world.engine.has_quorum = True
    async with asyncio.timeout(30):
        await call


async def test_a_node_that_is_cut_off_sends_callers_away_at_once(world: World) -> None:
    world.engine.has_quorum = False
    first = await started(world)
    world.time.now += 1.1 * ELECTION_S
    async with asyncio.timeout(30):
        with pytest.raises(NoQuorum, match="cut off"):
            await first
        with pytest.raises(NoQuorum):
            await world.reader.connected()  # the clock stands still: this one did not wait
        with pytest.raises(NoQuorum):
            await world.reader.barrier(tasks_pb2.LINEARIZABLE, 30.0)
        await world.reader.barrier(tasks_pb2.STALE, 30.0)


async def test_patience_is_fresh_after_a_leader_was_there(world: World) -> None:
    world.engine.has_quorum = False
    first = await started(world)
    world.engine.has_quorum = True
    await first
    world.time.now += 10 * ELECTION_S
    world.engine.has_quorum = False
    second = await started(world)
    assert not second.done()
    second.cancel()


async def test_a_miss_is_not_believed_when_history_came_while_it_was_looked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger answered without the row, then got it: nothing is missing, and the answer is wrong."""

    async def too_early(task_id: str) -> None:
        world.catching_up = False

    monkeypatch.setattr(world.reader._ledger, "task", too_early)
    world.catching_up = True
    with pytest.raises(ApiError, match="CATCHING_UP"):
        await world.reader.in_history(TaskId("t1"))
    with pytest.raises(ApiError, match="TASK_NOT_FOUND"):
        await world.reader.get(TaskId("t1"), 5.0)


async def test_the_second_look_for_a_task_is_judged_by_what_was_missing_before_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([True, False])  # after the first look, and after the second

    async def too_early(task_id: str) -> None:
        world.catching_up = next(looks)

    monkeypatch.setattr(world.reader._ledger, "task", too_early)
    with pytest.raises(ApiError, match="CATCHING_UP"):
        await world.reader.get(TaskId("t1"), 5.0)


async def test_a_refusal_by_what_the_replica_shows_is_believed_of_a_fresh_one_only(world: World) -> None:
    looked: list[int] = []

    def check(reason: str, right_after: int = 2) -> str:
        looked.append(1)
        if len(looked) < right_after:
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, reason, "wrong")
        return "right"

    assert await world.reader.confirmed(lambda: check("UNKNOWN_NODE"), 5.0) == "right"
    looked.clear()
    with pytest.raises(ApiError, match="UNKNOWN_NODE"):
        await world.reader.confirmed(lambda: check("UNKNOWN_NODE", 9), 5.0)
    assert len(looked) == 2
    looked.clear()
    with pytest.raises(ApiError, match="BAD_FIELD"):
        await world.reader.confirmed(lambda: check("BAD_FIELD"), 5.0)
    assert len(looked) == 1, "what is wrong in itself needs no majority"
    looked.clear()
    world.engine.has_quorum = False
    world.time.now += 10 * ELECTION_S
    call = asyncio.create_task(world.reader.confirmed(lambda: check("UNKNOWN_NODE"), 5.0))
    await asyncio.sleep(0.05)
    world.time.now += 1.1 * ELECTION_S
    with pytest.raises(NoQuorum):
        await call


async def test_a_node_that_was_away_hears_of_the_rest_before_it_calls_an_id_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task began and ended elsewhere meanwhile, and the state has forgotten it since."""
    world.catching_up = False
    reader = Reader(
        world.reader._engine,
        world.node.state,
        world.reader._ledger,
        world.reader._clock,
        lambda: world.catching_up,
        ELECTION_S,
        up_to_date=lambda: False,
    )

    async def hear(timeout_s: float) -> int:
        world.catching_up = True  # a snapshot came, and a gap in the history with it
        return 1

    monkeypatch.setattr(world.engine, "read_barrier", hear)
    submit = submit_command("mine")
    with pytest.raises(ApiError, match="CATCHING_UP"):
        await reader.refuse_known_id(submit)
