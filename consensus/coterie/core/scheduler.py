"""What the coordinator should propose next: plan(state, view) -> commands. Pure; the state is only read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from coterie.core.breaker_commands import TripBreaker
from coterie.core.breakers import BreakerState, has_room
from coterie.core.commands import AdvanceClock, Command, ExpireTask, MarkNode, ReleaseTask
from coterie.core.coordination.look_ups import FAR_MS
from coterie.core.draft import Draft
from coterie.core.flaps import reports_wanted
from coterie.core.indexes import due
from coterie.core.nouns import (
    STOPPING,
    ExpiryKind,
    Node,
    NodeStatus,
    Task,
    TaskState,
)
from coterie.core.outcomes import NOT_STARTED
from coterie.core.rebalance import moves
from coterie.core.routing import NodeLoad, Round
from coterie.core.state import ClusterState
from coterie.core.view import PlanPolicy, View
from coterie.core.workqueue import ORDER_BITS

COMMANDS_MAX = 512  # of one plan: one log entry


def plan(state: ClusterState, view: View, policy: PlanPolicy) -> list[Command]:
    """Verdicts on nodes, else clocks that ran out, else corrections, else assignments: at most COMMANDS_MAX.
    One kind at a time, because each changes what the next one should look at. A leader whose clock is behind
    goes by the time of the log."""
    if view.now_ms < state.meta.clock_ms:
        view = replace(view, now_ms=state.meta.clock_ms)
    for commands in (
        _verdicts(state, view, policy),
        _trips(state, view),
        _deadlines(state, view),
        _waits(state, view),
        _held(state, view, policy),
        _clock(state, view),
        _assignments(state, view, policy),
        moves(state, view, policy),
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
        elif node.status is NodeStatus.DOWN and _is_back(state, node, load, view, policy):
            yield MarkNode(node_id, node.incarnation, NodeStatus.UP, "reports again", view.term)


def _is_back(state: ClusterState, node: Node, load: NodeLoad, view: View, policy: PlanPolicy) -> bool:
    if node.reason == STOPPING:  # its last reports are still around
        return False
    wanted = reports_wanted(state, node, policy.up_after_reports)
    fresh = view.fresh_reports.get(node.node_id, 0) >= wanted
    return fresh and load.incarnation == node.incarnation and load.age_ms <= policy.down_after_ms


def _trips(state: ClusterState, view: View) -> Iterator[Command]:
    """Breakers that should be open by what was seen lately. One for which there is no room would be refused
    again and again, and nothing else be planned meanwhile."""
    if not state.outcomes.windows:
        return
    room = has_room(state.breakers)
    for key, reason in state.outcomes.tripped(state.meta.policy, view.now_ms):
        known = state.breakers.get(key)
        if known is None and not room:
            continue
        if known is None or known.state is BreakerState.CLOSED:
            yield TripBreaker(key, known.number if known is not None else 0, reason, view.dice)


def _deadlines(state: ClusterState, view: View) -> Iterator[Command]:
    """The youngest first: children before the parent whose end would cancel them."""
    ids = islice(due(state.indexes.deadlines, view.now_ms), COMMANDS_MAX)
    for task in sorted((state.tasks[task_id] for task_id in ids), key=lambda task: -task.order):
        yield ExpireTask(task.task_id, task.attempt, ExpiryKind.DEADLINE)


def _waits(state: ClusterState, view: View) -> Iterator[Command]:
    for task_id in due(state.indexes.waits, view.now_ms):
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
    if task.state is TaskState.SCHEDULED and view.now_ms > task.assigned_at_ms + policy.start_within_ms:
        return ReleaseTask(task.task_id, task.attempt, NOT_STARTED, lost=True)
    limit = task.attempt_timeout_ms
    if limit and view.now_ms > task.assigned_at_ms + limit + policy.attempt_slack_ms:
        return ExpireTask(task.task_id, task.attempt, ExpiryKind.ATTEMPT, view.dice)
    return None


def _clock(state: ClusterState, view: View) -> Iterator[Command]:
    """What has come due while nothing was committed enters the queue by an entry that says so."""
    indexes = state.indexes
    if indexes.is_behind and indexes.queue.tenants:
        return  # nobody waits until the last of very many is queued: see _assignments
    delayed = indexes.delayed.first_key(0) >> ORDER_BITS or view.now_ms + 1
    wakes = indexes.queue.wakes_at_ms() or view.now_ms + 1
    if min(delayed, wakes, state.coordination.alarms.next_ms) <= view.now_ms:
        yield AdvanceClock(view.now_ms)


def _assignments(state: ClusterState, view: View, policy: PlanPolicy) -> Iterator[Command]:
    if not state.indexes.queue.tenants:
        return
    if state.indexes.is_behind:
        yield AdvanceClock(view.now_ms)
    placing = Round(state, view, policy.routing)
    if placing.over:
        return
    view.unfit.begin(state, view.leader)
    draft = Draft(state, view.now_ms, view.unfit)
    while not placing.over:
        offer = draft.next()
        if offer is None:
            return
        task, looks = offer.task, placing.looks
        decision = placing.place(task)
        if decision is not None:
            draft.take(offer)
            yield decision.assignment(task.task_id, task.attempt + 1)
        elif placing.is_stuck(task):
            draft.drop(offer, looked=placing.looks > looks)
            if placing.is_unfit(task):
                view.unfit.add(offer.group)
        else:
            draft.skip(offer)


def next_clock_ms(state: ClusterState, now_ms: int) -> int:
    """When time alone next needs a plan: a deadline, a start time, a limit; 0: nothing does."""
    at_ms = state.indexes.next_clock_ms()
    limited = [at_ms] if at_ms else []
    if state.coordination.alarms.next_ms < FAR_MS:
        limited.append(state.coordination.alarms.next_ms)
    if state.buckets:
        gauges = state.indexes.gauges
        profiles = dict.fromkeys(group.profile for group in state.indexes.queue.groups())
        blockers = (gauges.other_blocker(profile, now_ms) for profile in profiles)
        limited += [blocker.until_ms for blocker in blockers if blocker is not None and blocker.until_ms]
    return min(limited, default=0)
