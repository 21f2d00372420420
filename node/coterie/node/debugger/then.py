"""What is told of an earlier state: of a task or a run, or of the cluster."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from coterie.core.nouns import Node, Task, TaskId
from coterie.core.state import ClusterState
from coterie.core.waiting import wait_reason
from coterie.node import convert
from coterie.node.debugger.gather import nodes_of
from coterie.node.debugger.machine import Then
from coterie.node.debugger.service_rows import node_row_to_pb
from coterie.node.errors import not_found
from coterie.node.turns import Turns
from coterie.v1 import debugger_pb2

LIVE_SHOWN_MAX = 200
PART = 500  # tasks looked at without a turn for the node's other duties
Sees = Callable[[str], bool]


def task_then(then: Then, task_id: TaskId, sees: Sees) -> debugger_pb2.StateAt:
    """One task with its steps, of a run its nodes too. Raises ApiError NOT_FOUND."""
    task = then.state.task(task_id)
    if task is None or not sees(task.tenant):
        raise not_found("TASK", task_id)
    answer = _frame(then)
    letter = then.state.dead_letters.get(task_id)
    steps = letter.steps if letter is not None else tuple(then.state.steps.get(task_id, ()))
    answer.task.CopyFrom(convert.task_to_pb(task, steps, with_payload=True))
    _say_why(answer, then.state, task, then.at_ms)
    _, rows = nodes_of(task, then.state.runs.get(task_id))
    answer.nodes.extend(node_row_to_pb(row) for row in rows)
    return answer


def _say_why(answer: debugger_pb2.StateAt, state: ClusterState, task: Task, at_ms: int) -> None:
    waits = wait_reason(state, task, at_ms)
    answer.task.wait_reason = int(waits.reason)  # type: ignore[assignment]
    answer.task.wait_detail, answer.task.wait_limit = waits.detail, waits.limit


async def cluster_then(then: Then, sees: Sees) -> debugger_pb2.StateAt:
    """How many tasks stood how, the nodes, and the oldest live tasks: those that the caller sees. There may
    be a million tasks: they are looked at in slices."""
    state, answer, turns = then.state, _frame(then), Turns()
    counts: Counter[str] = Counter()
    oldest: list[Task] = []
    for part in _parts(state.tasks.values()):
        live = [task for task in part if sees(task.tenant)]
        counts.update(task.state.name for task in live)
        answer.live_total += len(live)
        oldest = heapq.nsmallest(LIVE_SHOWN_MAX, [*oldest, *live], key=lambda task: task.order)
        await turns.take()
    for part in _parts(state.finished.values()):
        counts.update(task.state.name for task in part if sees(task.tenant))
        await turns.take()
    answer.tasks_by_state.update(counts)
    answer.live.extend(convert.task_to_pb(task) for task in oldest)
    answer.cluster.extend(_node(state, node) for node in state.nodes.values())
    return answer


def _parts(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    left = iter(tasks)
    while part := list(islice(left, PART)):
        yield part


def _node(state: ClusterState, node: Node) -> debugger_pb2.NodeAt:
    return debugger_pb2.NodeAt(
        node_id=node.node_id,
        status=node.status.name,
        draining=node.draining,
        reason=node.reason,
        incarnation=node.incarnation,
        held=len(state.indexes.held_by(node.node_id)),
    )


def _frame(then: Then) -> debugger_pb2.StateAt:
    return debugger_pb2.StateAt(
        index=then.index, at_ms=then.at_ms, oldest_index=then.oldest, newest_index=then.newest
    )
