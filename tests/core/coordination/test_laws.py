"""Laws of coordination, over random command logs. A failure names its seed."""

from __future__ import annotations

import random

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import AdvanceClock, Command, FinishTask
from coterie.core.coordination import bounds
from coterie.core.coordination.commands import AcquireLock, PutKey
from coterie.core.coordination.look_ups import name_key
from coterie.core.coordination.tables import look_ups_of
from coterie.core.machine import apply
from coterie.core.nouns import Data, TaskId
from coterie.core.scheduler import next_clock_ms, plan
from coterie.core.state import ClusterState, Moment
from coterie.core.view import PlanPolicy, View
from coterie.raft import codec
from tests.core.builders import CoreCluster
from tests.core.coordination.random_log import CoordinationLog

SEEDS = range(40)
LENGTH = 400
RESTART = 10  # commands between two restarts


def replay(state: ClusterState, commands: list[Command], first: int = 1) -> ClusterState:
    for offset, command in enumerate(commands):
        apply(state, command, Moment(first + offset, 1_000 + first + offset))
        state.outbox.clear()
    return state


@pytest.mark.parametrize("seed", SEEDS)
def test_a_snapshot_in_the_middle_never_changes_the_future(seed: int) -> None:
    log = CoordinationLog(seed)
    commands = log.take(LENGTH)
    assert codec.decode_batch(codec.encode_batch(commands)) == commands
    cut = random.Random(seed).randint(0, LENGTH)
    front = replay(ClusterState(), commands[:cut])
    image = front.copy()
    back = codec.decode_state(codec.encode_state(image))
    assert back == front and state_hash(back) == state_hash(front)
    replay(back, commands[cut:], cut + 1)
    assert back == log.cluster.state and state_hash(back) == state_hash(log.cluster.state)
    assert state_hash(codec.decode_state(codec.encode_state(image))) == state_hash(
        replay(ClusterState(), commands[:cut])
    ), "the copy changed"


@pytest.mark.parametrize("seed", range(25))
def test_a_node_that_restarts_again_and_again_stays_the_same_as_one_that_does_not(seed: int) -> None:
    log = CoordinationLog(seed)
    state = ClusterState()
    for first in range(1, LENGTH, RESTART):
        state = replay(codec.decode_state(codec.encode_state(state)), log.take(RESTART), first)
        assert state_hash(state) == state_hash(log.cluster.state)


def test_locks_that_a_task_leaves_get_the_same_tokens_after_a_restart() -> None:
    cluster, t1 = CoreCluster().with_node(), TaskId("t1")
    cluster.running("t1")
    for name in ("a", "b"):
        cluster.do(AcquireLock("default", name, "mine", 60_000, 0, t1, 1))
    for name in ("b", "a"):  # the lock that changed first is not the one that was taken first
        cluster.do(AcquireLock("default", name, f"next of {name}", 60_000, 50_000))
    image = codec.decode_state(codec.encode_state(cluster.state.copy()))
    restarted = CoreCluster(image, cluster.index, cluster.now_ms)
    for one in (cluster, restarted):
        one.do(FinishTask(t1, 1, Data(b"1")))
        granted = {lock.owner: lock.token for lock in one.state.locks.values()}
        assert granted == {"next of a": 3, "next of b": 4}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_look_ups_equal_those_built_anew(seed: int) -> None:
    log = CoordinationLog(seed)
    for _ in range(LENGTH // 20):
        log.take(20)
        state = log.cluster.state
        assert state.coordination.image() == look_ups_of(state).image()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_must_always_hold_holds_after_every_command(seed: int) -> None:
    log = CoordinationLog(seed)
    before = log.cluster.state.meta
    tokens: dict[int, str] = {}
    for _ in range(LENGTH):
        log.take(1)
        state = log.cluster.state
        meta, now_ms = state.meta, state.meta.clock_ms
        for name in ("fencing_token", "kv_version", "message_position", "schedules_version", "kv_forgotten"):
            assert getattr(meta, name) >= getattr(before, name)
        before = meta
        _locks(state, tokens, now_ms)
        _keys(state, now_ms)
        _topics(state, now_ms)
        _schedules(state)


def _locks(state: ClusterState, tokens: dict[int, str], now_ms: int) -> None:
    for lock in state.locks.values():
        assert lock.expires_at_ms > now_ms, "a lease that ended"
        assert tokens.setdefault(lock.token, f"{lock.tenant}/{lock.name}/{lock.owner}").endswith(lock.owner)
        assert lock.owner not in [waiter.owner for waiter in lock.waiters]
        owners = [waiter.owner for waiter in lock.waiters]
        assert len(owners) == len(set(owners))
        assert all(waiter.until_ms > now_ms for waiter in lock.waiters)
        for task_id in [lock.task_id, *(waiter.task_id for waiter in lock.waiters)]:
            assert not task_id or task_id in state.tasks, "a task that ended holds or waits"


def _keys(state: ClusterState, now_ms: int) -> None:
    versions = [entry.version for entry in state.kv.values()]
    assert versions == sorted(set(versions))
    gone = [tombstone.version for tombstone in state.tombstones.values()]
    assert gone == sorted(set(gone)) and not state.kv.keys() & state.tombstones.keys()
    assert all(not entry.expires_at_ms or entry.expires_at_ms > now_ms for entry in state.kv.values())


def _topics(state: ClusterState, now_ms: int) -> None:
    positions = [message.position for message in state.messages.values()]
    assert positions == sorted(set(positions)) == list(state.messages)
    for key, topic in state.topics.items():
        kept = [m for m in state.messages.values() if name_key(m.tenant, m.topic) == key]
        sequences = [message.sequence for message in kept]
        assert sequences == list(range(topic.sequence - len(kept) + 1, topic.sequence + 1)), "a hole"
        assert len(kept) <= topic.kept_count
        assert not topic.kept_ms or all(message.at_ms + topic.kept_ms > now_ms for message in kept)
        assert all(message.position > topic.forgotten for message in kept)
    for group in state.groups.values():
        given = [one.position for one in group.unacked]
        assert given == sorted(set(given)) and len(given) <= bounds.UNACKED_MAX
        assert all(position <= group.cursor for position in given)


def _schedules(state: ClusterState) -> None:
    for schedule in state.schedules.values():
        assert len(schedule.runs) <= bounds.RUNS_MAX and len(schedule.queued) <= bounds.RUNS_MAX
        assert all(nominal <= schedule.last_nominal_ms for nominal in schedule.queued)


@pytest.mark.parametrize("seed", range(10))
def test_time_alone_ends_leases_and_keys_by_an_entry_that_the_leader_proposes(seed: int) -> None:
    log = CoordinationLog(seed)
    log.take(LENGTH)
    cluster = log.cluster
    state = cluster.state
    cluster.do(AcquireLock("default", "mine", "me", 50))
    cluster.do(PutKey("default", "mine", b"1", ttl_ms=70))
    ends = [lock.expires_at_ms for lock in state.locks.values()]
    ends += [entry.expires_at_ms for entry in state.kv.values() if entry.expires_at_ms]
    assert next_clock_ms(state, cluster.now_ms) <= min(ends)
    view = View(max(ends) + 100_000)
    for _ in range(200):
        commands = plan(state, view, PlanPolicy())
        if not commands:
            break
        for command in commands:
            cluster.now_ms = view.now_ms if isinstance(command, AdvanceClock) else cluster.now_ms
            cluster.do(command)
    assert not state.locks
    assert not any(entry.expires_at_ms for entry in state.kv.values())
