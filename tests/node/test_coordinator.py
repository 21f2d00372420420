"""Whose verdicts count: a leader that slept or lost its place must not decide by what it remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from coterie.core.commands import (
    AdvanceClock,
    AssignTask,
    BeginLeadership,
    Command,
    FinishTask,
    MarkNode,
    Outcome,
    SetDrain,
)
from coterie.core.coordination.commands import ApplySchedule, FireSchedule
from coterie.core.coordination.nouns import SchedulePlan, TaskTemplate
from coterie.core.machine import apply
from coterie.core.nouns import Constraints, Data, NodeId, NodeStatus, Policy, RetryPolicy
from coterie.core.ports import Member, NotCommitted, Role
from coterie.core.routing.round import KINDS_FREE, KINDS_MAX
from coterie.core.state import Moment
from coterie.core.view import PlanPolicy
from coterie.node.coordinator import PLANS_MAX, ClusterNaming, Coordinator, CoordinatorParts
from coterie.node.hub import Bell
from coterie.node.loads import LoadBook
from coterie.raft.errors import TransferFailed
from coterie.v1 import peer_pb2
from tests.core.builders import CoreCluster, register_command, submit_command

ME, OTHER = NodeId("n1"), NodeId("n2")


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.set_back_ms = 0

    def monotonic(self) -> float:
        return self.now_s

    def now_ms(self) -> int:
        return int(self.now_s * 1000) - self.set_back_ms

    def dice(self) -> int:
        return 0

    def new_id(self) -> str:
        return "c1"


class FakeEngine:
    """Leads in `term`; transfers fail while `stuck`."""

    def __init__(self) -> None:
        self.is_leader = self.has_quorum = True
        self.term = 1
        self.stuck = False
        self.members = tuple(Member(node_id, "", Role.VOTER) for node_id in ("n1", "n2", "n3"))
        self.asked: list[str] = []

    async def read_barrier(self, timeout_s: float) -> int:
        return 0

    async def transfer_leadership(self, target: str, timeout_s: float) -> str:
        self.asked.append(target)
        if self.stuck:
            raise TransferFailed("nobody is up to date")
        self.is_leader = False
        return target


class World:
    """A coordinator over a core; what it proposes is applied at once."""

    def __init__(self) -> None:
        self.clock, self.engine = FakeClock(), FakeEngine()
        self.core = CoreCluster(now_ms=self.clock.now_ms())
        self.book = LoadBook(self.clock, 3_000)  # type: ignore[arg-type]
        self.proposed: list[Command] = []
        self.during: list[Any] = []  # called, one per proposal, while it is on its way
        self.bell = Bell()
        naming = ClusterNaming("test", Policy())
        shared: tuple[Any, ...] = (self.book, self.bell, self.clock, PlanPolicy, lambda: naming)
        parts: tuple[Any, ...] = (ME, self.engine, lambda: self.core.state, self, *shared)
        self.coordinator = Coordinator(CoordinatorParts(*parts))

    async def propose(self, commands: Sequence[Command], timeout_s: float) -> list[Outcome]:
        if self.during:
            self.during.pop(0)()
        self.proposed += commands
        moment = Moment(self.core.index + 1, self.clock.now_ms())
        return [apply(self.core.state, command, moment) for command in commands]

    async def one(self, command: Command, timeout_s: float) -> Outcome:
        return (await self.propose([command], timeout_s))[0]

    def join(self, *node_ids: NodeId, incarnation: int = 1) -> None:
        for node_id in node_ids:
            self.core.do(register_command(node_id, incarnation))

    def report(self, *node_ids: NodeId) -> None:
        for node_id in node_ids:
            self.book.note(peer_pb2.LoadReport(node_id=node_id, incarnation=1))

    async def look(self) -> list[Command]:
        """What one round proposes."""
        self.proposed.clear()
        await self.coordinator._lead()
        return list(self.proposed)


@pytest.fixture
async def world() -> World:
    made = World()
    made.join(ME, OTHER)
    await made.look()
    made.report(ME, OTHER)
    return made


async def test_a_silent_node_is_given_up(world: World) -> None:
    world.clock.now_s += 3.1
    world.report(ME)
    [verdict] = await world.look()
    assert isinstance(verdict, MarkNode)
    assert (verdict.node_id, verdict.status) == (OTHER, NodeStatus.DOWN)


async def test_a_leader_that_slept_gives_nobody_up_before_a_majority_answers_it(world: World) -> None:
    world.clock.now_s += 10  # SIGSTOP and SIGCONT: it still believes that it leads
    world.engine.has_quorum = False
    assert await world.look() == []


async def test_a_leadership_that_came_back_during_a_proposal_begins_anew(world: World) -> None:
    """Deposed and elected again while a proposal was on its way: the silence in between proves nothing."""

    def lead_again_later() -> None:
        world.engine.term = 3
        world.clock.now_s += 10

    world.core.do(submit_command())
    world.during = [lead_again_later]
    commands = await world.look()
    assert [type(command) for command in commands] == [AssignTask]
    assert await world.look() == [BeginLeadership(ME, 3)], "everyone has a grace"


async def test_a_leader_that_was_succeeded_does_not_begin(world: World) -> None:
    """It stood for election, slept, and woke up when its successor had begun."""
    world.core.do(BeginLeadership(OTHER, 7))
    world.engine.term = 5
    world.core.do(submit_command())
    assert await world.look() == [BeginLeadership(ME, 5)]


async def test_a_verdict_carries_the_term_of_its_judge(world: World) -> None:
    world.clock.now_s += 3.1
    world.report(ME)
    world.during = [lambda: world.core.do(BeginLeadership(OTHER, 2))]
    [verdict] = await world.look()
    assert isinstance(verdict, MarkNode) and verdict.term == 1
    assert world.core.state.nodes[OTHER].status is NodeStatus.UP, "its successor has begun"


async def test_a_restarted_node_has_a_grace_of_its_own(world: World) -> None:
    world.clock.now_s += 3.1
    world.report(ME)
    world.join(OTHER, incarnation=2)
    assert await world.look() == []


async def test_a_node_that_is_given_up_gets_no_lease_until_it_is_back(world: World) -> None:
    """From the moment the verdict leaves: an old replica would start what others have finished."""
    assert world.coordinator.may_lease(OTHER)
    world.clock.now_s += 3.1
    world.report(ME)
    during: list[bool] = []
    world.during = [lambda: during.append(world.coordinator.may_lease(OTHER))]
    await world.look()
    assert during == [False], "the verdict is on its way"
    assert not world.coordinator.may_lease(OTHER)
    assert world.coordinator.may_lease(ME)
    world.report(OTHER)
    world.report(OTHER)
    await world.look()
    assert world.coordinator.may_lease(OTHER)


async def test_a_leadership_that_has_not_begun_grants_no_lease(world: World) -> None:
    world.engine.term = 7
    assert not world.coordinator.may_lease(ME)
    await world.look()
    assert world.coordinator.may_lease(ME)


async def test_after_an_unknown_outcome_the_leadership_begins_again(world: World) -> None:
    """A verdict that got no answer may be applied later, unless a later entry was applied before it."""

    def lose() -> None:
        raise NotCommitted("no answer in time")

    world.clock.now_s += 3.1
    world.report(ME)
    world.during = [lose]
    running = asyncio.ensure_future(world.coordinator.run())
    world.bell.ring()
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [type(command) for command in world.proposed][:1] == [BeginLeadership]


async def test_a_clock_that_was_set_back_holds_no_delayed_task_up(world: World) -> None:
    world.core.do(submit_command("t1", start_delay_ms=500))
    assert await world.look() == []
    world.clock.set_back_ms = 500_000
    world.clock.now_s += 0.6
    world.report(ME, OTHER)
    assert [type(command) for command in await world.look()] == [AdvanceClock, AssignTask]


async def drained(world: World) -> None:
    world.join(NodeId("n3"))
    world.report(NodeId("n3"))
    for node_id in (ME, OTHER):
        world.core.do(SetDrain(node_id, True, 1))


async def test_a_draining_leader_hands_over_to_a_node_that_stays(world: World) -> None:
    await drained(world)
    await world.look()
    assert world.engine.asked == ["n3"]


async def test_a_draining_leader_hands_over_to_a_voter(world: World) -> None:
    await drained(world)
    world.join(NodeId("n4"))
    world.report(NodeId("n4"))
    n1, n2, n3 = world.engine.members
    world.engine.members = (n1, n2, replace(n3, role=Role.LEARNER), replace(n3, node_id="n4"))
    await world.look()
    assert world.engine.asked == ["n4"]


async def test_a_draining_leader_that_cannot_hand_over_goes_on_planning(world: World) -> None:
    await drained(world)
    world.engine.stuck = True
    for number in range(3):
        world.core.do(submit_command(f"t{number}"))
        assert [type(command) for command in await world.look()] == [AssignTask]
    assert world.engine.asked == ["n3"], "each try holds the planning up: not in every round"


async def test_a_task_overdue_without_a_node_does_not_make_the_loop_spin(world: World) -> None:
    world.core.do(submit_command("t1", type="nowhere", start_delay_ms=1))
    world.core.do(submit_command("t2", start_delay_ms=60))
    running = asyncio.ensure_future(world.coordinator.run())
    await asyncio.sleep(0)
    world.clock.now_s += 1
    world.bell.ring()
    await asyncio.sleep(0.05)
    assert world.coordinator._pause_s() >= 0.1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_schedules_fire_and_leadership_moves_while_work_comes_and_goes_all_the_time(
    world: World,
) -> None:
    template = TaskTemplate("echo", Data(b"{}"), 2, RetryPolicy())
    world.core.do(ApplySchedule("default", "s", SchedulePlan("", 1_000), template))
    world.clock.now_s += 1.5
    world.report(ME, OTHER)
    world.core.do(SetDrain(ME, True))
    held = world.core.state.indexes.held_by

    def work() -> None:
        """One task ends, another one comes: each plan has something to assign."""
        for task_id, attempt in list(held(OTHER).items())[:1]:
            world.core.do(FinishTask(task_id, attempt, Data(b"1")))
        world.core.do(submit_command(f"t{world.core.index}"))

    work()
    world.during = [work] * (20 * PLANS_MAX)
    proposed = await world.look()
    assert sum(isinstance(one, AssignTask) for one in proposed) >= PLANS_MAX
    assert any(isinstance(one, FireSchedule) for one in proposed)
    assert len(world.during) > 10 * PLANS_MAX, "it was not only when nothing was left to plan"
    assert world.engine.asked == [OTHER]
    assert world.coordinator._bell.is_set(), "and it goes on at once"


async def test_what_no_node_takes_is_remembered_from_round_to_round(world: World) -> None:
    for number in range(KINDS_FREE + KINDS_MAX + 1):
        wanted = Constraints(zones=(f"nowhere-{number}",))
        world.core.do(submit_command(f"a{number}", constraints=wanted))
    world.core.do(submit_command("last"))
    assert await world.look() == []
    assert [one.task_id for one in await world.look() if isinstance(one, AssignTask)] == ["last"]
