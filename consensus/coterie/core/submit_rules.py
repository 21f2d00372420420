"""How a task comes into being: request ids, limits, the queue."""

from __future__ import annotations

from coterie.core.commands import Accepted, Outcome, Rejected, SubmitTask
from coterie.core.nouns import Event, Request, Task, evolve
from coterie.core.state import ClusterState, Moment, add_task, held


def submit(state: ClusterState, command: SubmitTask, moment: Moment) -> Outcome:
    known = _answered(state, command)
    if known is not None:
        return known
    if state.task(command.task_id) is not None:
        return Rejected("TASK_EXISTS", f"task {command.task_id} exists already")
    full = _full(state, held(command.payload))
    if full is not None:
        return full
    _remember(state, command, moment)
    order = state.meta.order + 1
    state.meta = evolve(state.meta, order=order)
    task = _new_task(command, order, moment.at_ms)
    add_task(state, task)
    state.outbox.append(Event("submitted", task, moment.index, moment.at_ms))
    return Accepted(task.task_id)


def _answered(state: ClusterState, command: SubmitTask) -> Outcome | None:
    if not command.request_id:
        return None
    known = state.requests.get(_request_key(command))
    if known is None:
        return None
    if known.digest != command.digest:
        return Rejected("REQUEST_ID_REUSED", f"request_id {command.request_id} was used with another body")
    return Accepted(known.task_id, duplicate=True)


def _request_key(command: SubmitTask) -> str:
    return f"{command.tenant}/{command.request_id}"


def _full(state: ClusterState, more_bytes: int) -> Rejected | None:
    policy, indexes = state.meta.policy, state.indexes
    queued = len(indexes.pending) + len(indexes.delayed)
    if queued >= policy.pending_tasks_max:
        return Rejected("QUEUE_FULL", f"{queued} tasks are pending, the limit is {policy.pending_tasks_max}")
    if indexes.live_bytes + more_bytes > policy.live_bytes_max:
        return Rejected(
            "QUEUE_FULL",
            f"live tasks hold {indexes.live_bytes} bytes, the limit is {policy.live_bytes_max}",
        )
    return None


def _remember(state: ClusterState, command: SubmitTask, moment: Moment) -> None:
    policy = state.meta.policy
    if command.request_id:
        key = _request_key(command)
        state.requests[key] = Request(key, command.task_id, command.digest, moment.at_ms)
    while state.requests:
        oldest = next(iter(state.requests.values()))
        expired = oldest.at_ms + policy.requests_kept_ms < moment.at_ms
        if not expired and len(state.requests) <= policy.requests_kept_max:
            return
        del state.requests[oldest.key]


def _new_task(command: SubmitTask, order: int, at_ms: int) -> Task:
    return Task(
        task_id=command.task_id,
        order=order,
        tenant=command.tenant,
        type=command.type,
        payload=command.payload,
        priority=command.priority,
        retry=command.retry,
        created_at_ms=at_ms,
        request_id=command.request_id,
        attempt_timeout_ms=command.attempt_timeout_ms,
        deadline_at_ms=at_ms + command.deadline_after_ms if command.deadline_after_ms else 0,
        checkpointing=command.checkpointing,
        labels=command.labels,
        constraints=command.constraints,
        start_at_ms=at_ms + command.start_delay_ms if command.start_delay_ms else 0,
        sequence=1,
        version=1,
        bytes_held=held(command.payload),
    )
