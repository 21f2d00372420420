"""Laws of the core, over random command logs. A failure names its seed."""

from __future__ import annotations

import random

import pytest

from coterie.core import indexes
from coterie.core.agenda import Start, agenda
from coterie.core.canonical import state_hash
from coterie.core.commands import AdvanceClock, AssignTask, CancelTask, Command
from coterie.core.machine import apply
from coterie.core.nouns import Event, NodeId, TaskId, TaskState, WaitReason
from coterie.core.routing import NodeLoad
from coterie.core.scheduler import plan
from coterie.core.state import ClusterState, Moment
from coterie.core.transitions import HELD, TERMINAL, TRANSITIONS
from coterie.core.view import PlanPolicy, View
from coterie.core.waiting import wait_reason
from coterie.raft import codec
from tests.core.builders import CoreCluster, RandomLog, submit_command

SEEDS = range(60)
LENGTH = 250


def replay(state: ClusterState, commands: list[Command], first: int = 1) -> list[Event]:
    events: list[Event] = []
    for offset, command in enumerate(commands):
        apply(state, command, Moment(first + offset, 1_000 + first + offset))
        events += state.outbox
        state.outbox.clear()
    return events


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_log_gives_the_same_state(seed: int) -> None:
    log = RandomLog(seed)
    commands = log.take(LENGTH)
    again = ClusterState()
    events = replay(again, commands)
    assert again == log.cluster.state
    assert state_hash(again) == state_hash(log.cluster.state)
    assert events == log.cluster.events


@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_through_the_codec_is_the_same_log(seed: int) -> None:
    commands = RandomLog(seed).take(LENGTH)
    assert codec.decode_batch(codec.encode_batch(commands)) == commands


@pytest.mark.parametrize("seed", SEEDS)
def test_a_snapshot_in_the_middle_never_changes_the_future(seed: int) -> None:
    commands = RandomLog(seed).take(LENGTH)
    cut = random.Random(seed).randint(0, LENGTH)
    whole, front = ClusterState(), ClusterState()
    replay(whole, commands)
    replay(front, commands[:cut])
    back = codec.decode_state(codec.encode_state(front.copy()))
    assert back == front
    assert state_hash(back) == state_hash(front)
    replay(back, commands[cut:], cut + 1)
    assert back == whole
    assert state_hash(back) == state_hash(whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_task_follows_the_table_and_ends_once(seed: int) -> None:
    log = RandomLog(seed)
    log.take(LENGTH)
    last: dict[TaskId, Event] = {}
    attempts: dict[TaskId, int] = {}
    for event in log.cluster.events:
        task = event.task
        before = last.get(task.task_id)
        if before is not None and event.type == "submitted" and task.order > before.task.order:
            before = None  # the log may use an id again that the state has forgotten with its task
            attempts.pop(task.task_id)
        if before is None:
            assert (event.type, task.sequence) == ("submitted", 1)
        else:
            assert before.task.state not in TERMINAL, "a finished task changed"
            assert task.sequence == before.task.sequence + 1
            legal = TRANSITIONS[before.task.state] | {before.task.state}
            assert task.state in legal
        assert task.attempt >= attempts.get(task.task_id, 0)
        attempts[task.task_id] = task.attempt
        last[task.task_id] = event


@pytest.mark.parametrize("seed", SEEDS)
def test_the_indexes_equal_those_built_anew(seed: int) -> None:
    log = RandomLog(seed)
    for _ in range(LENGTH // 10):
        log.take(10)
        state = log.cluster.state
        fresh = codec.decode_state(codec.encode_state(state.copy())).indexes
        assert state.indexes.image() == fresh.image()


@pytest.mark.parametrize("seed", SEEDS[:20])
def test_a_restore_amid_a_release_never_changes_the_future(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come due is queued in portions. How far that is depends on when the clock moved, and a node
    that was restored has to stand where the others do: they ask who is first in the queue."""
    monkeypatch.setattr(indexes, "RELEASED_MAX", 2)
    dice, there, back, behind = random.Random(seed), CoreCluster(), CoreCluster(), 0
    for cluster in (there, back):
        cluster.with_node(capacity=LENGTH)
    for number in range(LENGTH // 2):
        back.state = codec.decode_state(codec.encode_state(back.state.copy()))
        assert back.state.indexes.image() == there.state.indexes.image()
        command = _about_delays(there, dice, number)
        assert there.do(command) == back.do(command)
        assert state_hash(there.state) == state_hash(back.state)
        behind += there.state.indexes.is_behind
    assert behind, "else it would prove nothing"


def _about_delays(cluster: CoreCluster, dice: random.Random, number: int) -> Command:
    pending = [task_id for task_id, task in cluster.state.tasks.items() if task.state is TaskState.PENDING]
    what = dice.choice(("delayed", "delayed", "plain", "cancel", "assign", "advance"))
    if what == "advance":
        return AdvanceClock(cluster.now_ms + dice.choice((1, 1, 20)))
    if what == "assign" and pending:
        return AssignTask(dice.choice(pending), NodeId("n1"), 1, 1, if_first=True)
    if what == "cancel" and pending:
        return CancelTask(dice.choice(pending))
    start_at_ms = -(-(cluster.now_ms + 2) // 20) * 20 if what == "delayed" else 0  # many at the same time
    delay_ms = max(0, start_at_ms - cluster.now_ms - 1)
    return submit_command(f"t{number}", type=dice.choice("ab"), start_delay_ms=delay_ms)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_node_ever_holds_more_than_its_capacity_by_assignment(seed: int) -> None:
    log = RandomLog(seed)
    for _ in range(LENGTH):
        log.take(1)
        state = log.cluster.state
        event = log.cluster.events[-1] if log.cluster.events else None
        if event is not None and event.type == "assigned" and event.index == log.cluster.index:
            node = state.nodes[event.task.node_id]
            assert len(state.indexes.held_by(node.node_id)) <= node.capacity


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_is_accepted_and_comes_to_rest(seed: int) -> None:
    """Whatever the state: carrying out plans is never refused, and ends."""
    log = RandomLog(seed)
    log.take(LENGTH)
    cluster = CoreCluster(log.cluster.state, log.cluster.index, log.cluster.now_ms)
    loads = {node_id: NodeLoad(node_id, node.incarnation, 0) for node_id, node in cluster.state.nodes.items()}
    for _ in range(50):
        commands = plan(cluster.state, View(cluster.now_ms, loads), PlanPolicy())
        if not commands:
            break
        for command in commands:
            outcome = cluster.do(command)
            assert type(outcome).__name__ == "Accepted", (command, outcome)
    else:
        pytest.fail(f"seed {seed}: plans never end")
    for task in cluster.state.tasks.values():
        waits = wait_reason(cluster.state, task, cluster.now_ms).reason
        assert (waits is WaitReason.NONE) == (task.state in HELD)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_agenda_starts_exactly_what_the_state_gives_a_node(seed: int) -> None:
    log = RandomLog(seed)
    log.take(LENGTH)
    state = log.cluster.state
    for node in state.nodes.values():
        actions = agenda(state, node.node_id, node.incarnation, {})
        started = {action.task.task_id for action in actions if isinstance(action, Start)}
        wanted = {
            task.task_id
            for task in state.tasks.values()
            if task.task_id in state.indexes.held_by(node.node_id)
            and task.incarnation == node.incarnation
            and not (task.cancel_requested or task.pause_requested or node.draining)
            and task.move_attempt != task.attempt
        }
        assert started == wanted
