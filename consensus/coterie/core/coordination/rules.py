"""The table of rules of coordination, and what time and the end of tasks bring with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.core.commands import Outcome
from coterie.core.coordination import commands, groups, kv, locks, schedules, topics
from coterie.core.state import ClusterState, Moment

DUE_MAX = 1_000  # things done by one command for the mere passing of time; the next command does more


def on_time(state: ClusterState, moment: Moment) -> None:
    """Leases, keys and messages whose time is over."""
    alarms = state.coordination.alarms
    for _ in range(DUE_MAX):
        due = alarms.take_due(moment.at_ms)
        if due is None:
            return
        kind, key = due
        if kind == "lock":
            locks.current(state, key, moment)
        elif kind == "key":
            kv.expire(state, key, moment)
        else:
            topics.trim(state, state.topics[key], moment)


def on_end(state: ClusterState, moment: Moment) -> None:
    """Tasks that held locks have ended."""
    while state.ended_holders:
        locks.let_go(state, state.ended_holders.pop(), moment)


RULES: dict[type, Callable[[ClusterState, Any, Moment], Outcome]] = {
    commands.AcquireLock: locks.acquire,
    commands.RenewLock: locks.renew,
    commands.ReleaseLock: locks.release,
    commands.PutKey: kv.put,
    commands.DeleteKey: kv.delete,
    commands.SetTopic: topics.set_topic,
    commands.DeleteTopic: topics.delete_topic,
    commands.PublishMessage: topics.publish,
    commands.SetGroup: groups.set_group,
    commands.DeleteGroup: groups.delete_group,
    commands.FetchMessages: groups.fetch,
    commands.AckMessages: groups.ack,
    commands.SeekGroup: groups.seek,
    commands.ApplySchedule: schedules.apply_schedule,
    commands.DeleteSchedule: schedules.delete_schedule,
    commands.PauseSchedule: schedules.pause_schedule,
    commands.FireSchedule: schedules.fire,
    commands.RunSchedule: schedules.run,
}
