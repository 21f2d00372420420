"""How a node comes to its tasks, and to runs inside of its run; what they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coterie.core.commands import SubmitTask
from coterie.core.graph.model import GraphNode, Retry
from coterie.core.graph.values import ValueFault
from coterie.core.nouns import Data, RetryPolicy, Task, TaskError, TaskId, evolve
from coterie.core.runs.run import FOR_NODES, WORKFLOW, Run, RunHead, child_id, part_key
from coterie.core.runs.scope import inline, listed
from coterie.core.state import held
from coterie.core.submit_rules import create, unskilled

if TYPE_CHECKING:
    from coterie.core.runs.walk import Walk


def task_id(walk: Walk, node_id: str, place: int) -> TaskId:
    return child_id(walk.run_id, node_id, place)


def begin_task(
    walk: Walk, node: GraphNode, place: int, payload: Data, agent: str = "", skill: str = ""
) -> None:
    """A task of the node at that place. Raises ValueFault TASK_EXISTS when somebody has taken its id."""
    new_id = task_id(walk, node.node_id, place)
    if walk.state.is_taken(new_id):
        raise ValueFault("TASK_EXISTS", f"task {new_id} exists already, and is not of this run")
    run = walk.task
    submit = SubmitTask(
        task_id=new_id,
        tenant=run.tenant,
        type=skill or node.task_type,
        payload=payload,
        priority=node.priority or run.priority,
        retry=_retry(run.retry, node.retry),
        attempt_timeout_ms=node.timeout_ms or run.attempt_timeout_ms,
        labels=run.labels,
        constraints=run.constraints,
        key=run.key,
        agent=agent or run.agent,
        parent_id=walk.run_id,
    )
    refused = unskilled(walk.state, submit)
    if refused is not None:
        raise ValueFault(refused.code, refused.reason)
    record = walk.run.nodes[node.node_id]
    walk.put(evolve(record, issued=max(record.issued, place + 1), live=record.live + 1))
    walk.book.live += 1
    walk.meter.bytes += held(payload)
    create(walk.state, submit, walk.moment)


def begin_run(walk: Walk, node: GraphNode, place: int, inputs: Data) -> None:
    new_id = task_id(walk, node.node_id, place)
    if walk.state.is_taken(new_id):
        raise ValueFault("TASK_EXISTS", f"task {new_id} exists already, and is not of this run")
    run, body = walk.task, walk.book.body_of(node)
    record = walk.run.nodes[node.node_id]
    walk.put(evolve(record, issued=max(record.issued, place + 1), live=record.live + 1))
    walk.book.live += 1
    walk.state.run_work += 1
    walk.meter.bytes += held(inputs) + len(body)  # the defaults in it are read for each run anew
    submit = SubmitTask(
        task_id=new_id,
        tenant=run.tenant,
        type=WORKFLOW,
        payload=inputs,
        priority=node.priority or run.priority,
        retry=_retry(run.retry, node.retry),
        attempt_timeout_ms=run.attempt_timeout_ms,
        deadline_after_ms=node.timeout_ms,
        labels=run.labels,
        constraints=run.constraints,
        key=run.key,
        agent=run.agent,
        parent_id=walk.run_id,
    )
    create(walk.state, submit, walk.moment, wait=FOR_NODES)
    walk.state.runs[new_id] = Run(RunHead(new_id, body))
    walk.state.note_run(new_id, "begin")


def _retry(of_run: RetryPolicy, own: Retry) -> RetryPolicy:
    if own == Retry():
        return of_run
    return RetryPolicy(
        attempts_max=own.attempts_max or of_run.attempts_max,
        backoff_initial_ms=own.backoff_initial_ms or of_run.backoff_initial_ms,
        backoff_max_ms=max(own.backoff_max_ms or of_run.backoff_max_ms, own.backoff_initial_ms),
        non_retryable=of_run.non_retryable,
        dead_letter=of_run.dead_letter,
    )


def input_of(walk: Walk, node: GraphNode, more: Mapping[str, Any] | None = None) -> Data:
    """Its input filled in; without one, what its dependencies gave, by their names."""
    if node.input:
        return walk.scope(node, more or {}).filled(node.input, walk.meter)
    found: dict[str, Data] = {}
    for edge in node.depends_on:
        step = walk.steps.find(edge.node)
        if step is not None and edge.node in walk.book.nodes:
            found[walk.book.nodes[edge.node].variable] = step.result
    given = dict(zip(found, listed(found.values(), walk.meter), strict=True))
    return inline({**given, **(more or {})}, walk.meter)


def parts_of(walk: Walk, node: GraphNode) -> list[Data]:
    """What its parts gave, in the order of their places."""
    record = walk.run.nodes[node.node_id]
    steps = (walk.steps.find(part_key(node.node_id, place)) for place in range(record.issued))
    return [step.result for step in steps if step is not None]


def error_of(task: Task) -> TaskError:
    """Why a task did not succeed."""
    reason = task.cancel_reason or f"task {task.task_id} ended as {task.state.name}"
    return task.error or TaskError(task.state.name, reason, retryable=False)
