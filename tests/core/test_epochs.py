"""What a restored state keeps, and what of its former life cannot reach it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from coterie.core.commands import (
    Accepted,
    CancelTask,
    FinishTask,
    RecordStep,
    Rejected,
    SuspendTask,
)
from coterie.core.coordination.commands import AcquireLock, DeleteKey, PutKey
from coterie.core.epochs import ATTEMPTS_JUMP, NUMBERS_JUMP, Epoch, begin_epoch
from coterie.core.machine import apply
from coterie.core.nouns import Data, NodeId, TaskId, TaskState, WaitReason
from coterie.core.state import ClusterState, Moment
from coterie.core.transitions import HELD
from coterie.raft import codec
from tests.core.builders import CoreCluster, RandomLog, register_command, submit_command

EPOCH = Epoch("e1", "new-id", "prod-2", "restored from the backup of prod at 9")


def restored(cluster: CoreCluster) -> CoreCluster:
    """The same by way of a backup."""
    state = codec.decode_state(codec.encode_state(cluster.state))
    begin_epoch(state, EPOCH, cluster.index)
    after = CoreCluster(codec.decode_state(codec.encode_state(state)), cluster.index, cluster.now_ms)
    after.events, state.outbox = state.outbox, []
    return after


def test_an_attempt_of_before_can_report_nothing_and_its_steps_stay() -> None:
    cluster = CoreCluster().with_node("n1")
    before = cluster.running()
    cluster.do(RecordStep(before.task_id, before.attempt, "a", Data(b"1")))
    after = restored(cluster)
    task = after.task()
    assert (task.state, task.attempt) == (TaskState.PENDING, before.attempt + ATTEMPTS_JUMP)
    assert [step.key for step in after.state.steps[task.task_id]] == ["a"]
    assert (task.losses, task.crashes) == (0, ())
    assert not after.state.nodes
    for attempt in range(before.attempt, before.attempt + 50):  # as far as the old cluster may have come
        outcome = after.do(FinishTask(task.task_id, attempt, Data(b"x")))
        assert isinstance(outcome, Rejected)
        assert outcome.code == "FENCED"
    after.with_node("n1", 7)
    after.assign()
    assert isinstance(after.do(FinishTask(task.task_id, after.task().attempt, Data(b"ok"))), Accepted)
    assert after.task().state is TaskState.SUCCEEDED


def test_every_live_task_says_that_it_was_restored_and_a_cancelled_one_ends() -> None:
    cluster = CoreCluster().with_node("n1")
    cluster.do(submit_command("waits"))
    held = cluster.running("dying")
    cluster.do(CancelTask(held.task_id, "enough"))
    sleeper = cluster.running("sleeper")
    cluster.do(SuspendTask(sleeper.task_id, sleeper.attempt, WaitReason.SIGNAL, "go"))
    after = restored(cluster)
    told = {event.task.task_id: event.type for event in after.events}
    assert told == {"waits": "restored", "dying": "cancelled", "sleeper": "restored"}
    assert after.task("sleeper").state is TaskState.WAITING
    assert [event.task.sequence for event in after.events if event.task.task_id == "waits"] == [2]


def test_numbers_that_were_handed_out_are_never_handed_out_again() -> None:
    cluster = CoreCluster()
    cluster.do(AcquireLock("default", "door", "me", 10_000, 0))
    cluster.do(PutKey("default", "k", b"1"))
    old = cluster.state.meta
    after = restored(cluster)
    meta = after.state.meta
    assert (meta.cluster_id, meta.cluster_name, meta.epoch, meta.seal) == ("new-id", "prod-2", "e1", b"")
    for name in ("fencing_token", "kv_version", "message_position", "schedules_version"):
        assert getattr(meta, name) == getattr(old, name) + NUMBERS_JUMP
    after.do(AcquireLock("default", "gate", "me", 10_000, 0))
    assert max(lock.token for lock in after.state.locks.values()) > NUMBERS_JUMP


def test_who_watched_keys_before_starts_over() -> None:
    cluster = CoreCluster()
    cluster.do(PutKey("default", "k", b"1"))
    cluster.do(PutKey("default", "gone", b"1"))
    cluster.do(DeleteKey("default", "gone"))
    after = restored(cluster)
    for number in range(5):  # what the old cluster did since the backup
        cluster.do(PutKey("default", "k", b"undone"))
        assert cluster.state.meta.kv_version < after.state.meta.kv_forgotten, number
    forgotten = after.state.meta.kv_forgotten
    assert forgotten <= after.state.meta.kv_version and not after.state.tombstones
    after.do(DeleteKey("default", "k"))
    assert after.state.meta.kv_forgotten == forgotten < after.state.meta.kv_version


def test_a_request_of_before_is_still_known() -> None:
    cluster = CoreCluster()
    command = submit_command("t1", request_id="r1")
    cluster.do(command)
    after = restored(cluster)
    again = after.do(replace(command, task_id=TaskId("t2")))
    assert isinstance(again, Accepted)
    assert (again.task_id, again.duplicate) == ("t1", True)


def test_the_audit_log_goes_on_with_the_restore() -> None:
    state = ClusterState()
    begin_epoch(state, EPOCH, 9)
    (record,) = state.noted
    assert (record.principal, record.method, record.target, record.index) == (
        "operator",
        "RestoreBackup",
        EPOCH.origin,
        9,
    )
    assert state.meta.audit_head == record.digest


def kept(state: ClusterState, name: TaskId) -> bool:
    """A task without checkpoints begins from zero whenever its attempt is over."""
    return name in state.tasks and state.tasks[name].checkpointing


@pytest.mark.parametrize("seed", range(20))
def test_whatever_has_happened_nothing_that_lives_is_lost(seed: int) -> None:
    """And the look-ups are those of a state that is built anew."""
    log = RandomLog(seed)
    log.take(random.Random(seed).randrange(50, 400))
    state = log.cluster.state
    live, steps = set(state.tasks), {name: len(tuple(log)) for name, log in state.steps.items()}
    begin_epoch(state, EPOCH, log.cluster.index)
    last = {event.task.task_id: event for event in state.outbox}
    gone = live - set(state.tasks)
    assert {last[name].task.state for name in gone} <= {TaskState.CANCELLED}
    assert all(last[name].type == "restored" for name in state.tasks)
    assert all(task.state not in HELD and task.attempt >= ATTEMPTS_JUMP for task in state.tasks.values())
    assert all(len(tuple(state.steps[name])) == steps[name] for name in steps if kept(state, name))
    counted = {kind: count for kind, count in state.indexes.by_state.items() if count}
    state.rebuild()
    assert {kind: count for kind, count in state.indexes.by_state.items() if count} == counted
    apply(state, register_command("n1", 99), Moment(log.cluster.index + 1, state.meta.clock_ms + 1))
    assert state.nodes[NodeId("n1")].incarnation == 99
