"""Why a task does not run, recomputed from the state: the limit, the time, the work that goes first."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.breakers import BreakerState, keys_of, phase, why
from coterie.core.fairness import standing
from coterie.core.nouns import NodeId, NodeStatus, Task, TaskId, TaskState, Wait, WaitReason
from coterie.core.routing import refusal
from coterie.core.state import ClusterState
from coterie.core.workqueue import profile_of


@dataclass(frozen=True, slots=True)
class Waiting:
    """One reason; where there are several, the one that must go first."""

    reason: WaitReason
    detail: str = ""
    limit: str = ""  # the id of the limit that is reached
    until_ms: int = 0  # when that ends, where it is known


RUNS = Waiting(WaitReason.NONE)


def wait_reason(state: ClusterState, task: Task, now_ms: int) -> Waiting:
    """Why the task does not run; NONE when a node has it, or when it has ended."""
    if task.state is TaskState.PAUSED:
        return Waiting(WaitReason.PAUSE, task.pause_reason or "somebody paused it")
    if task.state is TaskState.WAITING and task.wait is not None:
        return Waiting(
            task.wait.reason, _awaited(state, task.task_id, task.wait), until_ms=task.wait.until_ms
        )
    if task.state is not TaskState.PENDING:
        return RUNS
    if task.start_at_ms > now_ms:
        return _not_due(task, now_ms)
    return (
        _limited(state, task, now_ms)
        or _nowhere(state, task)
        or _broken(state, task, now_ms)
        or _behind(state, task, now_ms)
    )


def _awaited(state: ClusterState, task_id: TaskId, wait: Wait) -> str:
    if wait.reason is not WaitReason.CHILD:
        return wait.name
    live = len(state.indexes.children_of(task_id))
    return f"{live} of its children {'is' if live == 1 else 'are'} not over"


def _not_due(task: Task, now_ms: int) -> Waiting:
    left_ms = task.start_at_ms - now_ms
    if task.failures and task.start_at_ms != task.not_before_ms:
        detail = f"attempt {task.attempt + 1} begins in {left_ms} ms"
        return Waiting(WaitReason.BACKOFF, detail, until_ms=task.start_at_ms)
    return Waiting(WaitReason.DELAYED, f"starts in {left_ms} ms", until_ms=task.start_at_ms)


def _limited(state: ClusterState, task: Task, now_ms: int) -> Waiting | None:
    blocker = state.indexes.gauges.blocker(profile_of(task), now_ms)
    if blocker is None:
        return None
    limit = blocker.limit
    if blocker.until_ms:
        detail = f"limit {limit.limit_id}: {limit.rate_count} per {limit.rate_period_ms} ms may start, "
        detail += f"the next in {blocker.until_ms - now_ms} ms"
        return Waiting(WaitReason.RATE_LIMIT, detail, limit.limit_id, blocker.until_ms)
    detail = f"limit {limit.limit_id}: {limit.concurrent} run, and no more may"
    return Waiting(WaitReason.CONCURRENCY, detail, limit.limit_id)


def _nowhere(state: ClusterState, task: Task) -> Waiting | None:
    refusals = [refusal(task.type, task.constraints, node) for node in state.nodes.values()]
    if all(refusals):
        return Waiting(WaitReason.NO_NODE, "; ".join(refusals) or "no node has registered")
    return None


def _broken(state: ClusterState, task: Task, now_ms: int) -> Waiting | None:
    """Every node that could run it is behind a breaker."""
    if not state.breakers:
        return None
    fit = [n.node_id for n in state.nodes.values() if not refusal(task.type, task.constraints, n)]
    shut = [_shut(state, task, node_id, now_ms) for node_id in fit]
    if not shut or not all(reason for reason, _ in shut):
        return None
    untils = [until_ms for _, until_ms in shut if until_ms]
    reasons = dict.fromkeys(reason for reason, _ in shut)
    return Waiting(WaitReason.CIRCUIT_OPEN, "; ".join(reasons), until_ms=min(untils, default=0))


def _shut(state: ClusterState, task: Task, node_id: NodeId, now_ms: int) -> tuple[str, int]:
    """Why a breaker keeps it from that node, and until when, where that is known."""
    for key in keys_of(task.type, node_id):
        breaker = state.breakers.get(key)
        reason = why(breaker, state.meta.policy, now_ms) if breaker is not None else ""
        if breaker is not None and reason:
            opens = phase(breaker, now_ms) is BreakerState.OPEN
            return reason, breaker.until_ms if opens else 0
    return "", 0


def _behind(state: ClusterState, task: Task, now_ms: int) -> Waiting:
    """Nodes could run it: what goes first?"""
    queue = state.indexes.queue
    order = queue.tenants.get(task.tenant)
    if order is None or task.start_at_ms > state.meta.clock_ms:  # due since, and not yet in the queue
        return Waiting(WaitReason.QUEUED, "its turn comes with the next plan")
    first = next(order.values(), None)
    if first is not None and first.filed < queue.rank(task):
        if first.priority > task.priority:
            return Waiting(WaitReason.PRIORITY, "work of a higher class goes first")
        return Waiting(WaitReason.QUEUED, "older work goes first")
    if _others_first(state, task.tenant, now_ms) and _is_full(state):
        return Waiting(WaitReason.FAIRNESS, "tenants that had less of their share go first")
    return Waiting(WaitReason.QUEUED, "every node that could run it is full")


def _others_first(state: ClusterState, tenant: str, now_ms: int) -> bool:
    mine = standing(state, tenant, now_ms)
    tenants = state.indexes.queue.tenants
    return any(standing(state, other, now_ms) < mine for other in tenants if other != tenant)


def _is_full(state: ClusterState) -> bool:
    return all(
        len(state.indexes.held_by(node.node_id)) >= node.capacity
        for node in state.nodes.values()
        if node.status is NodeStatus.UP and not node.draining
    )
