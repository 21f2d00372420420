"""What the coordinator should propose next: plan(state, view) -> commands. Pure; the state is only read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice

from coterie.core.commands import Command, ExpireTask, MarkNode, ReleaseTask
from coterie.core.nouns import (
    NO_NODE,
    STOPPING,
    ExpiryKind,
    Node,
    NodeId,
    NodeStatus,
    Task,
    TaskState,
    WaitReason,
)
from coterie.core.routing import NodeLoad, Round, RoutingRules, refusal
from coterie.core.state import ClusterState
from coterie.core.transitions import TERMINAL

COMMANDS_MAX = 512  # of one plan: one log entry


@dataclass(frozen=True, slots=True)
class PlanPolicy:
    """How the coordinator decides; nothing here needs to be equal on all nodes."""

    routing: RoutingRules = field(default_factory=RoutingRules)
    down_after_ms: int = 3_000  # silence after which a node is given up
    up_after_reports: int = 2  # fresh reports that bring a node back
    start_within_ms: int = 15_000  # an assignment nobody starts is taken back
    attempt_slack_ms: int = 5_000  # beyond its timeout, before the coordinator steps in


@dataclass(frozen=True, slots=True)
class View:
    """What the coordinator sees outside the state: its clocks and the load reports."""

    now_ms: int  # wall clock, for deadlines and start times
    loads: Mapping[NodeId, NodeLoad] = field(default_factory=dict)
    fresh_reports: Mapping[NodeId, int] = field(default_factory=dict)  # in a row, while DOWN
    dice: int = 0
    term: int = 0  # of the leadership that looks
    leader: NodeId = NO_NODE
    breakers: Mapping[str, str] = field(default_factory=dict)  # open ones, and why: see routing.filters


def plan(state: ClusterState, view: View, policy: PlanPolicy) -> list[Command]:
    """Verdicts on nodes, else clocks that ran out, else corrections, else assignments: at most COMMANDS_MAX.
    One kind at a time, because each changes what the next one should look at."""
    for commands in (
        _verdicts(state, view, policy),
        _deadlines(state, view),
        _waits(state, view),
        _held(state, view, policy),
        _assignments(state, view, policy),
    ):
        batch = list(islice(commands, COMMANDS_MAX))
        if batch:
            return batch
    return []


def _verdicts(state: ClusterState, view: View, policy: PlanPolicy) -> Iterator[Command]:
    for node_id, node in sorted(state.nodes.items()):
        load = view.loads.get(node_id)
        if load is None:
            continue
        if node.status is NodeStatus.UP and load.age_ms > policy.down_after_ms:
            reason = f"no report for {load.age_ms} ms"
            yield MarkNode(node_id, node.incarnation, NodeStatus.DOWN, reason, view.term)
        elif node.status is NodeStatus.DOWN and _is_back(node, load, view, policy):
            yield MarkNode(node_id, node.incarnation, NodeStatus.UP, "reports again", view.term)


def _is_back(node: Node, load: NodeLoad, view: View, policy: PlanPolicy) -> bool:
    if node.reason == STOPPING:  # its last reports are still around
        return False
    fresh = view.fresh_reports.get(node.node_id, 0) >= policy.up_after_reports
    return fresh and load.incarnation == node.incarnation and load.age_ms <= policy.down_after_ms


def _deadlines(state: ClusterState, view: View) -> Iterator[Command]:
    """The youngest first: children before the parent whose end would cancel them."""
    due = islice(state.indexes.deadlines.up_to(view.now_ms), COMMANDS_MAX)
    for _, _, task_id in sorted(due, key=lambda key: -key[1]):
        yield ExpireTask(task_id, state.tasks[task_id].attempt, ExpiryKind.DEADLINE)


def _waits(state: ClusterState, view: View) -> Iterator[Command]:
    for _, _, task_id in state.indexes.waits.up_to(view.now_ms):
        yield ExpireTask(task_id, state.tasks[task_id].attempt, ExpiryKind.WAIT)


def _held(state: ClusterState, view: View, policy: PlanPolicy) -> Iterator[Command]:
    """Held tasks that should not be where they are."""
    for node_id in sorted(state.indexes.assigned):
        node = state.nodes.get(node_id)
        for task_id in state.indexes.held_by(node_id):
            command = _correction(state.tasks[task_id], node, view, policy)
            if command is not None:
                yield command


def _correction(task: Task, node: Node | None, view: View, policy: PlanPolicy) -> Command | None:
    if node is None or node.status is NodeStatus.DOWN:
        return ReleaseTask(task.task_id, task.attempt, "its node is gone", lost=True)
    if task.state is TaskState.SCHEDULED:
        if node.draining:
            return ReleaseTask(task.task_id, task.attempt, "its node is draining")
        if view.now_ms > task.assigned_at_ms + policy.start_within_ms:
            return ReleaseTask(task.task_id, task.attempt, "nobody started it", lost=True)
    limit = task.attempt_timeout_ms
    if limit and view.now_ms > task.assigned_at_ms + limit + policy.attempt_slack_ms:
        return ExpireTask(task.task_id, task.attempt, ExpiryKind.ATTEMPT, view.dice)
    return None


def _assignments(state: ClusterState, view: View, policy: PlanPolicy) -> Iterator[Command]:
    placing = Round(state, view, policy.routing)
    for task in _queue(state, view.now_ms):
        if placing.over:
            return
        decision = placing.place(task)
        if decision is not None:
            yield decision.assignment(task.task_id, task.attempt + 1)


def _queue(state: ClusterState, now_ms: int) -> Iterator[Task]:
    """Tasks that may start now, by priority and age, also those that had to wait for their time."""
    indexes = state.indexes
    due = sorted(
        (-state.tasks[task_id].priority, order, task_id)
        for _, order, task_id in indexes.delayed.up_to(now_ms)
    )
    for _, _, task_id in merge(due, indexes.pending):
        yield state.tasks[task_id]


def next_clock_ms(state: ClusterState) -> int:
    """When a deadline or a start time next needs a plan; 0: none."""
    heads = [keys.first() for keys in (state.indexes.deadlines, state.indexes.delayed, state.indexes.waits)]
    return min((key[0] for key in heads if key is not None), default=0)


def wait_reason(state: ClusterState, task: Task, now_ms: int) -> tuple[WaitReason, str]:
    """Why the task does not run, recomputed from the state."""
    if task.state in TERMINAL or task.state is not TaskState.PENDING:
        return WaitReason.NONE, ""
    if task.start_at_ms > now_ms:
        return WaitReason.TIMER, f"starts in {task.start_at_ms - now_ms} ms"
    refusals = [refusal(task.type, task.constraints, node) for node in state.nodes.values()]
    if all(refusals):
        return WaitReason.NO_NODE, "; ".join(refusals) or "no node has registered"
    return WaitReason.QUEUED, "every eligible node is full or work ahead of it goes first"
