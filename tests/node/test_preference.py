"""Who should lead, by the configuration; how far nodes are apart; how long skills take."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from coterie.core.commands import MarkNode, SetDrain
from coterie.core.nouns import NodeId, NodeStatus
from coterie.core.view import PlanPolicy
from coterie.node.coordinator import RUNNING_LIMIT, ClusterNaming, Coordinator
from coterie.node.hub import Bell
from coterie.node.loads import LoadBook
from coterie.node.preference import PAUSE_MIN_S, SETTLED_S, LeaderPreference
from coterie.node.service_times import ServiceTimes
from coterie.raft.errors import TransferFailed
from tests.core.builders import CoreCluster
from tests.node.test_loads import FakeClock


class Engine:
    """Leads until it hands over; `stuck`: the other side does not take it."""

    def __init__(self) -> None:
        self.is_leader, self.stuck = True, False
        self.asked: list[str] = []

    async def transfer_leadership(self, target: str, timeout_s: float) -> str:
        self.asked.append(target)
        if self.stuck:
            raise TransferFailed("no")
        self.is_leader = False
        return target


class Place:
    def __init__(self, me: str, *preferred: str) -> None:
        self.core = CoreCluster().with_node("n1").with_node("n2").with_node("n3")
        self.clock, self.engine = FakeClock(), Engine()
        engine: Any = self.engine
        self.preference = LeaderPreference(me, preferred, engine, lambda: self.core.state, self.clock)

    async def lead_for(self, seconds: float) -> list[str]:
        """Who was asked to take over in that time."""
        before = len(self.engine.asked)
        end = self.clock.now + seconds
        while self.clock.now < end:
            await self.preference.look()
            self.clock.now += 1.0
        return self.engine.asked[before:]


async def test_leadership_goes_to_the_preferred_node_once_things_have_settled() -> None:
    place = Place("n2", "n1")
    assert await place.lead_for(SETTLED_S) == []
    assert await place.lead_for(2) == ["n1"]
    assert not place.engine.is_leader


async def test_a_preferred_node_keeps_it_and_nobody_preferred_changes_nothing() -> None:
    assert await Place("n1", "n1", "n3").lead_for(60) == []
    assert await Place("n3", "n1", "n3").lead_for(10) == ["n1"], "the first of them comes first"
    assert await Place("n2").lead_for(60) == []


async def test_a_preferred_node_that_is_down_or_draining_is_passed_over() -> None:
    place = Place("n2", "n1", "n3")
    place.core.do(MarkNode(NodeId("n1"), 1, NodeStatus.DOWN))
    assert place.preference.successor() == "n3"
    place.core.do(SetDrain(NodeId("n3"), True, 1_000))
    assert place.preference.successor() == ""


async def test_leadership_that_comes_back_is_offered_later_and_later() -> None:
    place = Place("n2", "n1")
    place.engine.stuck = True
    asked_at = [place.clock.now for _ in range(400) if await place.lead_for(1)]
    pauses = [after - before for before, after in pairwise(asked_at)]
    assert pauses == pytest.approx([PAUSE_MIN_S, 2 * PAUSE_MIN_S, 4 * PAUSE_MIN_S], abs=1.5)


def test_service_times_follow_what_changes_soon_after_a_pause() -> None:
    clock = FakeClock()
    times = ServiceTimes(clock)

    def run(seconds: float, succeeded: bool = True) -> float | None:
        began = times.begin("echo")
        clock.now += seconds
        return times.end("echo", began, succeeded)

    assert run(2.0) == pytest.approx(2_000)
    assert run(0.001, succeeded=False) is None, "failures may be over at once"
    for _ in range(3):
        run(2.0)
    before = times.loads()["echo"]
    assert before.service_ms == pytest.approx(2_000) and before.samples == 4
    clock.now += 15.0
    run(0.1)
    assert times.loads()["echo"].service_ms < 400, "one sample after a pause outweighs what was before it"


def test_attempts_that_run_are_reported_with_their_median() -> None:
    clock = FakeClock()
    times = ServiceTimes(clock)
    began = []
    for _ in range(3):
        began.append(times.begin("echo"))
        clock.now += 1.0
    load = times.loads()["echo"]
    assert (load.running, load.samples, load.service_ms) == (3, 0, 0.0)
    assert load.running_ms == pytest.approx(2_000)
    for one in began:
        times.end("echo", one, False)
    assert "echo" not in times.loads()


async def test_the_configured_limit_of_running_tasks_is_one_of_the_cluster() -> None:
    """Set by whoever begins to lead, and taken away when the configuration does not name it any more."""
    core = CoreCluster().with_node("n1")

    class Proposer:
        async def one(self, command: Any, timeout_s: float) -> Any:
            return core.do(command)

    async def lead(max_running: int) -> int:
        naming = ClusterNaming("test", core.state.meta.policy, max_running)
        parts: Any = SimpleNamespace(
            me="n1",
            engine=Engine(),
            state=lambda: core.state,
            proposer=Proposer(),
            book=LoadBook(FakeClock(), 1_000),
            bell=Bell(),
            clock=FakeClock(),
            policy=PlanPolicy,
            naming=lambda: naming,
            failovers=None,
        )
        await Coordinator(parts)._limit_running()
        limit = core.state.limits.get(RUNNING_LIMIT)
        return limit.concurrent if limit else 0

    assert [await lead(10), await lead(10), await lead(12), await lead(0)] == [10, 10, 12, 0]
