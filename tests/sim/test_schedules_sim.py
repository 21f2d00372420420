"""Schedules on virtual time: a thousand ticks while leaders die and clocks are wrong by ten minutes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from coterie.core.commands import Command, Rejected
from coterie.core.coordination.commands import ApplySchedule, FireSchedule
from coterie.core.coordination.nouns import FireKind, Misfire, Overlap, SchedulePlan, TaskTemplate
from coterie.core.coordination.schedules import NOMINAL_LABEL
from coterie.core.machine import apply
from coterie.core.nouns import Data, Policy, RetryPolicy, evolve
from coterie.core.state import ClusterState, Moment
from coterie.node.clock import Clock, LogTime
from coterie.node.coordination.firing import Firing
from coterie.node.coordination.timing import next_time, times_between

SKEW_MS = 600_000
MINUTE_MS = 60_000
TEMPLATE = TaskTemplate("echo", Data(b"{}"), 2, RetryPolicy())


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


class SkewedClock(Clock):
    """A node's clock, wrong by a constant."""

    def __init__(self, world: World, skew_ms: int) -> None:
        self._world, self._skew_ms = world, skew_ms

    def now_ms(self) -> int:
        return self._world.true_ms + self._skew_ms

    def monotonic(self) -> float:
        return self._world.true_ms / 1000


@dataclass
class World:
    """Nodes with clocks of their own, one log. The leader may die at any time, with its commands lost, done,
    or done only after its successor's."""

    seed: int
    true_ms: int
    state: ClusterState = field(default_factory=ClusterState)
    fired: list[int] = field(default_factory=list)
    late: list[list[Command]] = field(default_factory=list)
    index: int = 0
    kills: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        policy = Policy(finished_tasks_kept_max=10, pending_tasks_max=100_000)
        self.state.meta = evolve(self.state.meta, policy=policy)
        skews = [-SKEW_MS, 0, SKEW_MS, self.random.randint(-SKEW_MS, SKEW_MS)]
        self.clocks = [SkewedClock(self, skew) for skew in skews]
        self.elect()

    def elect(self) -> None:
        self.clock = self.random.choice(self.clocks)
        self.time = LogTime(self.clock, lambda: self.state.meta.clock_ms)
        self.firing = Firing()

    def commit(self, commands: list[Command]) -> None:
        """One entry, stamped by the leader there is."""
        self.index += 1
        at_ms = max(self.state.meta.clock_ms, self.clock.now_ms())
        for command in commands:
            outcome = apply(self.state, command, Moment(self.index, at_ms))
            assert not isinstance(outcome, Rejected) or outcome.code in ("NOT_DUE", "STILL_RUNNING"), outcome
        for event in self.state.outbox:
            if event.type == "submitted":
                labels = {label.key: label.value for label in event.task.labels}
                self.fired.append(int(labels[NOMINAL_LABEL]))
        self.state.outbox.clear()

    def step(self, pause_ms: int) -> None:
        self.true_ms += pause_ms
        commands = self.firing.plan(self.state, self.time.now_ms())
        fate = self.random.random()
        if fate < 0.6:
            self.commit(commands)
        elif commands:
            self.kills += 1
            if fate < 0.75:
                self.commit(commands)  # and it dies before it knows
            elif fate < 0.9:
                self.late.append(commands)  # its proposal is still on its way
            self.elect()
        if self.late and self.random.random() < 0.3:
            self.commit(self.late.pop())


def run(seed: int, begin: str, ticks: int, plan: SchedulePlan, pause_ms: int) -> World:
    world = World(seed, ms(begin))
    world.commit([ApplySchedule("t", "s", plan, TEMPLATE)])
    while len(world.fired) < ticks:
        world.step(world.random.randint(1, 2 * pause_ms))
    return world


def berlin(cron: str) -> SchedulePlan:
    """Nothing is too late to be made up for: leaders may die several times in a row."""
    all_of_them = Misfire.FIRE_ALL
    return SchedulePlan(cron, 0, "Europe/Berlin", 0, 0, Overlap.ALLOW, all_of_them, 24 * 60 * MINUTE_MS)


@pytest.mark.parametrize("begin", ["2026-03-22T00:00", "2026-10-18T00:00", "2026-06-01T00:00"])
@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_ticks_fire_once_each_while_leaders_die_and_clocks_are_wrong(
    begin: str, seed: int
) -> None:
    """Every quarter of an hour for ten days, over those on which Berlin's clocks change; the clocks of the
    nodes are wrong by up to ten minutes."""
    plan = berlin("*/15 * * * *")
    world = run(seed, begin, 1_000, plan, 5 * MINUTE_MS)
    assert world.kills > 100, "too few leaders died to prove anything"
    assert world.fired == sorted(set(world.fired)), "a time fired twice, or out of order"
    gaps = {later - earlier for earlier, later in zip(world.fired, world.fired[1:], strict=False)}
    assert gaps == {15 * MINUTE_MS}, "a time was left out"
    assert world.state.schedules["t\0s"].missed == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_daily_time_comes_once_a_day_also_when_it_does_not_exist_or_exists_twice(seed: int) -> None:
    plan = berlin("30 2 * * *")
    spring = run(seed, "2026-03-27T12:00", 4, plan, 20 * MINUTE_MS)
    expected = ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30", "2026-03-31T00:30"]
    assert spring.fired[:4] == [ms(text) for text in expected]
    autumn = run(seed, "2026-10-23T12:00", 4, plan, 20 * MINUTE_MS)
    expected = ["2026-10-24T00:30", "2026-10-25T00:30", "2026-10-26T01:30", "2026-10-27T01:30"]
    assert autumn.fired[:4] == [ms(text) for text in expected]


def test_a_leader_whose_clock_is_behind_goes_by_the_clock_of_the_log() -> None:
    world = World(0, 0)
    world.clock = SkewedClock(world, SKEW_MS)
    world.commit([ApplySchedule("t", "s", SchedulePlan("", MINUTE_MS, overlap=Overlap.ALLOW), TEMPLATE)])
    world.clock = SkewedClock(world, -SKEW_MS)
    world.time = LogTime(world.clock, lambda: world.state.meta.clock_ms)
    for _ in range(400):
        world.commit(world.firing.plan(world.state, world.time.now_ms()))
        world.true_ms += 1_000
    assert len(world.fired) >= 5, "it waited for its own clock to catch up"


# --- which missed times are made up for


def fires(misfire: Misfire, late_ms: int, catch_up_ms: int = 10 * MINUTE_MS) -> tuple[list[int], int]:
    """What fires when a schedule of a tick a minute was not looked at for a while: minutes ago, and how many
    are given up."""
    plan = SchedulePlan("", MINUTE_MS, overlap=Overlap.ALLOW, misfire=misfire, catch_up_ms=catch_up_ms)
    world = World(0, 0)
    world.clock = SkewedClock(world, 0)
    world.commit([ApplySchedule("t", "s", plan, TEMPLATE)])
    now_ms = late_ms
    orders = [c for c in world.firing.plan(world.state, now_ms) if isinstance(c, FireSchedule)]
    ticks = [(now_ms - one.nominal_ms) // MINUTE_MS for one in orders if one.kind is FireKind.TICK]
    missed = sum(one.missed + (one.kind is FireKind.PASS) for one in orders)
    return ticks, missed


def test_missed_times_are_made_up_for_as_the_policy_says() -> None:
    hour = 60 * MINUTE_MS
    assert fires(Misfire.SKIP, hour) == ([0], 59), "only what is on time"
    assert fires(Misfire.SKIP, hour + 30_000) == ([], 60)
    assert fires(Misfire.FIRE_ONCE, hour + 30_000) == ([0], 59)
    assert fires(Misfire.FIRE_ALL, hour + 30_000) == (list(range(9, -1, -1)), 50)
    assert fires(Misfire.FIRE_ALL, hour + 30_000, 0) == ([], 60), "nothing is caught up with"
    assert fires(Misfire.FIRE_ONCE, MINUTE_MS - 1) == ([], 0), "nothing has come yet"


def test_a_time_that_waits_for_an_earlier_run_is_fired_when_that_is_over() -> None:
    plan = SchedulePlan("", MINUTE_MS, overlap=Overlap.QUEUE)
    world = World(0, 0)
    world.clock = SkewedClock(world, 0)
    world.commit([ApplySchedule("t", "s", plan, TEMPLATE)])
    for minute in (1, 2, 3):
        world.true_ms = minute * MINUTE_MS
        world.commit(world.firing.plan(world.state, world.true_ms))
    assert world.fired == [MINUTE_MS]
    assert world.firing.plan(world.state, world.true_ms) == []
    del world.state.tasks[next(iter(world.state.tasks))]  # it is over
    world.commit(world.firing.plan(world.state, world.true_ms))
    assert world.fired == [MINUTE_MS, 2 * MINUTE_MS]


def test_intervals_count_from_their_beginning_and_end_when_they_should() -> None:
    plan = SchedulePlan("", 7_000, begins_at_ms=10_000, ends_at_ms=31_000)
    assert times_between(plan, 0, 0, 1_000_000, 99) == [10_000, 17_000, 24_000, 31_000]
    assert next_time(plan, 0, 17_000) == 24_000 and next_time(plan, 0, 31_000) == 0
    assert next_time(SchedulePlan("", 7_000), 500, 500) == 7_500, "else from its making"
    assert next_time(SchedulePlan("0 0 30 2 *"), 0, 0) == 0, "there is no 30th of February"
