"""Whose schedules get their turn when more is due than one plan has room for."""

from __future__ import annotations

from itertools import count

import pytest

from coterie.core.commands import Command
from coterie.core.coordination.commands import ApplySchedule, FireSchedule
from coterie.core.coordination.nouns import FireKind, Misfire, Overlap, SchedulePlan, TaskTemplate
from coterie.core.nouns import Data, RetryPolicy
from coterie.node.coordination import firing
from coterie.node.coordination.firing import COMMANDS_MAX, LOOKED_THROUGH_MAX, LOOKS_MAX, Firing
from coterie.node.coordination.timing import times_after
from tests.core.builders import CoreCluster

TEMPLATE = TaskTemplate("echo", Data(b"{}"), 2, RetryPolicy())
SECOND_MS = 1_000
HOUR_MS = 3_600 * SECOND_MS


def cluster_of(schedules: int, plan: SchedulePlan) -> CoreCluster:
    cluster = CoreCluster()
    for number in range(schedules):
        cluster.do(ApplySchedule("a", f"s{number:04}", plan, TEMPLATE))
    return cluster


def every_second(misfire: Misfire) -> SchedulePlan:
    return SchedulePlan("", SECOND_MS, overlap=Overlap.ALLOW, misfire=misfire, catch_up_ms=48 * HOUR_MS)


def fires(commands: list[Command]) -> list[FireSchedule]:
    return [one for one in commands if isinstance(one, FireSchedule)]


def test_schedules_that_are_refused_keep_no_others_from_their_turn() -> None:
    cluster, leader = cluster_of(2 * COMMANDS_MAX + 1, SchedulePlan("", SECOND_MS)), Firing()
    now_ms = cluster.now_ms + SECOND_MS
    seen: set[str] = set()
    for _ in range(3):  # nothing of it is done: the queue is full
        orders = fires(leader.plan(cluster.state, now_ms))
        assert len(orders) <= COMMANDS_MAX
        seen.update(one.schedule_id for one in orders)
    assert len(seen) == 2 * COMMANDS_MAX + 1


def test_one_schedule_with_very_many_missed_times_leaves_room_for_the_next() -> None:
    cluster, leader = cluster_of(2, every_second(Misfire.FIRE_ALL)), Firing()
    now_ms = cluster.now_ms + HOUR_MS
    turns = [{one.schedule_id for one in fires(leader.plan(cluster.state, now_ms))} for _ in range(4)]
    assert turns == [{"s0000"}, {"s0001"}, {"s0000"}, {"s0001"}] and leader.more


def test_what_fires_once_fires_once_however_many_times_were_missed() -> None:
    plan = SchedulePlan("", 10 * SECOND_MS, misfire=Misfire.FIRE_ONCE, catch_up_ms=48 * HOUR_MS)
    cluster, leader = cluster_of(1, plan), Firing()
    newest_ms = cluster.state.schedules["a\0s0000"].created_at_ms + 3 * LOOKED_THROUGH_MAX * 10 * SECOND_MS
    cluster.now_ms = newest_ms + firing.PUNCTUAL_MS + 1
    ticks = []
    while orders := fires(leader.plan(cluster.state, cluster.now_ms)):
        ticks += [one.nominal_ms for one in orders if one.kind is FireKind.TICK]
        for one in orders:
            cluster.do(one)
    assert ticks == [newest_ms]
    assert cluster.state.schedules["a\0s0000"].missed == 3 * LOOKED_THROUGH_MAX - 1


def test_one_plan_looks_at_so_many_times_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, leader = cluster_of(COMMANDS_MAX, every_second(Misfire.SKIP)), Firing()
    looked = count()

    def counted(plan: SchedulePlan, made_at_ms: int, after_ms: int) -> object:
        for at_ms in times_after(plan, made_at_ms, after_ms):
            next(looked)
            yield at_ms

    monkeypatch.setattr(firing, "times_after", counted)
    leader.plan(cluster.state, cluster.now_ms + 24 * HOUR_MS)
    assert next(looked) <= LOOKED_THROUGH_MAX + 3 * COMMANDS_MAX


def test_a_new_leader_looks_at_schedules_in_portions() -> None:
    cluster, leader = cluster_of(2 * LOOKS_MAX + 1, SchedulePlan("", SECOND_MS)), Firing()
    assert [leader.look(cluster.state) for _ in range(4)] == [True, True, False, False]
    assert leader.next_ms and not leader.plan(cluster.state, 0)
