"""Which tasks should leave a full node for an emptier one. Pure: state and load reports in, commands out.

Work that has not begun goes first, then tasks that lose nothing by it: they leave after their next step or
checkpoint. Where a task would go is asked of routing itself, so that it does not come back; a move must gain
GAIN_MIN of a node's slots, and a task that was asked to move is left alone for two intervals. After a move
the target is emptier than the source was before it, by the gain: nothing is wanted back at once."""

from __future__ import annotations

from collections.abc import Iterator

from coterie.core.commands import MoveTask
from coterie.core.nouns import Task, TaskState
from coterie.core.routing.choice import choose
from coterie.core.routing.pool import Candidate, Pool, takes_work
from coterie.core.state import ClusterState
from coterie.core.view import PlanPolicy, View

MOVES_MAX = 8  # of one look
LOOKED_AT_MAX = 64  # tasks of one node
GAIN_MIN = 0.2  # of a node's slots
REBALANCING = "adaptive"  # the strategy that it belongs to


def moves(state: ClusterState, view: View, policy: PlanPolicy) -> Iterator[MoveTask]:
    """What to ask for now; nothing unless it is time to look."""
    if not view.rebalance or policy.routing.strategy != REBALANCING:
        return
    pool = Pool(state, view, policy.routing)
    asked = 0
    for source in sorted(pool.candidates, key=lambda c: (-_share(c), c.node.node_id)):
        if not takes_work(source.node):
            continue
        for task in _movable(state, source, view.now_ms, policy):
            if asked >= MOVES_MAX or _share(source) < policy.rebalance_share:
                break
            target = _better(task, source, pool)
            if target is not None:
                pool.give(task, target)
                source.held -= 1
                asked += 1
                reason = f"{source.node.node_id} is fuller than {target.node.node_id}"
                yield MoveTask(task.task_id, task.attempt, reason)


def _share(candidate: Candidate) -> float:
    return candidate.held / max(1, candidate.node.capacity)


def _movable(state: ClusterState, source: Candidate, now_ms: int, policy: PlanPolicy) -> list[Task]:
    """What has not begun first, then what was begun last."""
    moved_before_ms = now_ms - 2 * policy.rebalance_interval_ms
    held = (state.tasks[task_id] for task_id in state.indexes.held_by(source.node.node_id))
    found = [
        task
        for task in held
        if not (task.cancel_requested or task.pause_requested)
        and task.moved_at_ms <= moved_before_ms
        and ((task.checkpointing and policy.migrate_running) or task.state is TaskState.SCHEDULED)
    ]
    found.sort(key=lambda task: (task.state is not TaskState.SCHEDULED, -task.assigned_at_ms, task.order))
    return found[:LOOKED_AT_MAX]


def _better(task: Task, source: Candidate, pool: Pool) -> Candidate | None:
    """Where routing would put the task if it were not where it is, if that gains enough."""
    before = _share(source)
    source.held -= 1
    target = choose(task, pool).chosen
    source.held += 1
    if target is None or target is source:
        return None
    gain = round(before - (target.held + 1) / max(1, target.node.capacity), 6)  # 1 - 0.8 is less than 0.2
    return target if gain >= GAIN_MIN else None
