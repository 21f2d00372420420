"""What a node does with its own tasks when it stops, and with cancellations the log is slow to take."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from coterie.core.commands import CancelTask, Command, ConfirmCancel, MarkNode, Outcome, ReleaseTask, SetDrain
from coterie.core.machine import apply
from coterie.core.nouns import STOPPING, NodeId, NodeStatus, TaskId, TaskState
from coterie.core.state import Moment
from coterie.node.clock import Clock
from coterie.node.hub import Bell
from coterie.node.loads import Lease
from coterie.node.metrics import NodeMetrics
from coterie.node.worker import Worker, WorkerParts
from tests.core.builders import CoreCluster, register_command, submit_command
from tests.node.test_job import FakeBlobs, FakeHost

ME = NodeId("n1")
LEASE_MS = 2_000


class SlowClock(Clock):
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class World:
    """A worker over a core; what it proposes is applied while the gate is open."""

    def __init__(self) -> None:
        self.core = CoreCluster().with_node("n1", capacity=8)
        self.entries: list[list[Command]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        clock = self.clock = SlowClock()
        self.lease = Lease(clock, LEASE_MS, lambda ms: None)
        self.lease.extend_from(clock.monotonic())
        self.caught_up = asyncio.Event()
        self.caught_up.set()
        self.host = FakeHost()
        tail: tuple[Any, ...] = (
            FakeBlobs(),
            self.host,
            self.lease,
            Bell(),
            clock,
            NodeMetrics(),
            self.barrier,
        )
        parts: tuple[Any, ...] = (register_command("n1"), lambda: self.core.state, self, *tail)
        self.worker = Worker(WorkerParts(*parts))

    async def barrier(self, timeout_s: float) -> int:
        await self.caught_up.wait()
        return 0

    def runs(self) -> int:
        return self.worker.running

    async def look(self) -> None:
        """A round, and what it began besides; then a round that sees it."""
        for _ in range(2):
            await self.worker._round()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def propose(self, commands: Sequence[Command], timeout_s: float) -> list[Outcome]:
        self.entries.append(list(commands))
        await self.gate.wait()
        self.core.index += 1
        moment = Moment(self.core.index, self.core.now_ms)
        return [apply(self.core.state, command, moment) for command in commands]

    async def one(self, command: Command, timeout_s: float) -> Outcome:
        return (await self.propose([command], timeout_s))[0]


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_stopping_node_gives_everything_back_and_goes_down_in_one_entry(world: World) -> None:
    """A task given back while its node still counts would be assigned to it again, and lost with it."""
    world.core.running("t1")
    world.core.do(submit_command("t2"))
    world.core.assign("t2")
    await world.look()
    await world.host.started.wait()
    world.entries.clear()
    await world.worker.leave()
    [entry] = world.entries
    assert entry[-1] == MarkNode(ME, 1, NodeStatus.DOWN, STOPPING)
    assert world.host.killed == 2
    for task_id in ("t1", "t2"):
        task = world.core.task(task_id)
        assert (task.state, task.losses, task.failures) == (TaskState.PENDING, 0, 0)
    assert world.core.state.nodes[ME].status is NodeStatus.DOWN


async def test_a_cancellation_is_confirmed_once_however_often_it_is_looked_at(world: World) -> None:
    world.core.running("t1")
    world.core.do(CancelTask(world.core.task("t1").task_id))
    world.gate.clear()
    for _ in range(5):
        await world.worker._round()
        await asyncio.sleep(0)
    assert world.entries == [[ConfirmCancel(world.core.task("t1").task_id, 1)]]
    world.gate.set()
    await asyncio.gather(*world.worker._confirming.values())
    assert world.core.task("t1").state is TaskState.CANCELLED


async def test_after_a_lost_lease_nothing_begins_before_the_replica_has_caught_up(world: World) -> None:
    """What it held may have been given away, and the steps of it done elsewhere, while it was cut off."""
    world.clock.now += LEASE_MS / 1000
    world.core.running("t1")
    world.caught_up.clear()
    await world.look()
    assert world.runs() == 0, "without a lease"
    world.lease.extend_from(world.clock.now)
    await world.look()
    assert world.runs() == 0, "with a lease, and an old replica"
    world.core.do(MarkNode(ME, 1, NodeStatus.DOWN))  # this is what it had not seen
    world.caught_up.set()
    await world.look()
    assert world.runs() == 0
    world.core.do(MarkNode(ME, 1, NodeStatus.UP))
    world.core.assign("t1")
    await world.look()
    assert world.runs() == 1
    await world.worker._end_all()


async def test_a_lease_that_is_renewed_in_time_asks_nobody(world: World) -> None:
    await world.look()
    world.caught_up.clear()
    world.clock.now += 0.9 * LEASE_MS / 1000
    world.lease.extend_from(world.clock.now)
    world.core.running("t1")
    await world.look()
    assert world.runs() == 1
    await world.worker._end_all()


async def test_a_draining_node_gives_back_what_it_has_not_begun_and_keeps_what_it_has() -> None:
    """The state calls both assigned only: the start of a task that runs is not reported yet. One that is on
    its way back is not begun any more when the drain is called off."""
    world = World()
    await world.look()
    world.core.do(submit_command("t1"))
    world.core.assign("t1", "n1")
    await world.look()
    assert world.runs() == 1 and world.core.task("t1").state is TaskState.SCHEDULED
    world.core.do(submit_command("t2"))
    world.core.assign("t2", "n1")
    world.core.do(SetDrain(ME, True))
    world.gate.clear()
    await world.look()
    assert world.entries[-1] == [ReleaseTask(TaskId("t2"), 1, "its node is draining")]
    world.core.do(SetDrain(ME, False))
    await world.look()
    assert world.runs() == 1
    world.gate.set()
    await world.look()
    assert world.core.task("t2").state is TaskState.PENDING and world.runs() == 1
    await world.worker._end_all()
