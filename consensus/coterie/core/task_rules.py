"""What each command does to a task. Every report of a worker is believed only with its attempt number."""

from __future__ import annotations

from coterie.core.commands import (
    Accepted,
    AssignTask,
    CancelTask,
    ConfirmCancel,
    ExpireTask,
    FailAttempt,
    FinishTask,
    Outcome,
    RecordStep,
    Rejected,
    ReleaseTask,
    ReportProgress,
    SaveCheckpoint,
    StartTask,
)
from coterie.core.holdings import lacking, note_assignment, set_aside
from coterie.core.nouns import (
    NO_DATA,
    ExpiryKind,
    NodeId,
    NodeStatus,
    RetryPolicy,
    Step,
    Task,
    TaskError,
    TaskId,
    TaskState,
    evolve,
)
from coterie.core.state import ClusterState, Moment, change_task, held
from coterie.core.transitions import HELD, TERMINAL

STEP_OVERHEAD_BYTES = 200
DICE_SIDES = 1 << 32


def assign(state: ClusterState, command: AssignTask, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return _no_task(state, command.task_id)
    if task.state is not TaskState.PENDING or command.attempt != task.attempt + 1:
        return Rejected("STALE_ASSIGNMENT", f"task is {task.state.name}, attempt {task.attempt}")
    node = state.nodes.get(command.node_id)
    if node is None or node.incarnation != command.incarnation or node.status is not NodeStatus.UP:
        return Rejected("NODE_GONE", f"node {command.node_id} is not up in that incarnation")
    if node.draining:
        return Rejected("NODE_DRAINING", f"node {command.node_id} takes no new work")
    if len(state.indexes.held_by(node.node_id)) >= node.capacity:
        return Rejected("NODE_FULL", f"node {command.node_id} has no free slot")
    short = lacking(node, task.constraints, set_aside(state, node.node_id))
    if short:
        return Rejected("NODE_FULL", f"node {command.node_id} is short of {short}")
    after = evolve(
        task,
        state=TaskState.SCHEDULED,
        node_id=node.node_id,
        incarnation=node.incarnation,
        attempt=command.attempt,
        assigned_at_ms=moment.at_ms,
        start_at_ms=0,
    )
    change_task(state, task, after, moment, "assigned")
    note_assignment(state, task, node, command.turn, moment)
    return Accepted(task.task_id)


def start(state: ClusterState, command: StartTask, moment: Moment) -> Outcome:
    task = _fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    if task.state is TaskState.RUNNING:
        return Accepted(task.task_id, duplicate=True)
    _started(state, task, moment)
    return Accepted(task.task_id)


def _started(state: ClusterState, task: Task, moment: Moment) -> Task:
    after = evolve(task, state=TaskState.RUNNING, started_at_ms=moment.at_ms)
    return change_task(state, task, after, moment, "started")


def _heard(state: ClusterState, task_id: TaskId, attempt: int, moment: Moment) -> Task | Rejected:
    """The task, if `attempt` holds it; running from now on if its start was not reported yet."""
    task = _fenced(state, task_id, attempt)
    if isinstance(task, Task) and task.state is TaskState.SCHEDULED:
        return _started(state, task, moment)
    return task


def record_step(state: ClusterState, command: RecordStep, moment: Moment) -> Outcome:
    task = _heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    steps = state.steps.get(task.task_id, ())
    known = next((step for step in steps if step.key == command.key), None)
    if known is not None:
        return _step_again(known, command)
    more = held(command.result) + STEP_OVERHEAD_BYTES
    refused = _step_refused(state, task, len(steps), more)
    if refused is not None:
        return refused
    state.steps[task.task_id] = (
        *steps,
        Step(command.key, command.attempt, command.result, moment.at_ms),
    )
    state.meta = evolve(state.meta, steps_total=state.meta.steps_total + 1)
    after = evolve(task, step_count=task.step_count + 1, bytes_held=task.bytes_held + more)
    change_task(state, task, after, moment, "step", command.key)
    return Accepted(task.task_id)


def _step_again(known: Step, command: RecordStep) -> Outcome:
    if known.attempt == command.attempt and known.result == command.result:
        return Accepted(command.task_id, duplicate=True)
    return Rejected("STEP_RECORDED", f"step {command.key} was completed by attempt {known.attempt}")


def _step_refused(state: ClusterState, task: Task, count: int, more: int) -> Rejected | None:
    policy = state.meta.policy
    if count >= policy.steps_per_task_max:
        return Rejected("TOO_MANY_STEPS", f"a task has at most {policy.steps_per_task_max} steps")
    if task.bytes_held + more > policy.task_bytes_max:
        return Rejected("TASK_TOO_LARGE", f"a task keeps at most {policy.task_bytes_max} bytes")
    return None


def save_checkpoint(state: ClusterState, command: SaveCheckpoint, moment: Moment) -> Outcome:
    task = _heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    if command.number <= task.checkpoint_number:
        return Accepted(task.task_id, duplicate=True)
    more = held(command.checkpoint) - held(task.checkpoint)
    if task.bytes_held + more > state.meta.policy.task_bytes_max:
        limit = state.meta.policy.task_bytes_max
        return Rejected("TASK_TOO_LARGE", f"a task keeps at most {limit} bytes")
    after = evolve(
        task,
        checkpoint=command.checkpoint,
        checkpoint_number=command.number,
        bytes_held=task.bytes_held + more,
    )
    change_task(state, task, after, moment, "checkpoint")
    return Accepted(task.task_id)


def report_progress(state: ClusterState, command: ReportProgress, moment: Moment) -> Outcome:
    task = _heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    after = evolve(task, percent_x100=command.percent_x100, progress_message=command.message)
    change_task(state, task, after, moment, "progress", command.message)
    return Accepted(task.task_id)


def finish(state: ClusterState, command: FinishTask, moment: Moment) -> Outcome:
    task = _fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return _finished_before(state, command.task_id, command.attempt) or task
    if task.cancel_requested:  # the log decides: the cancellation came first
        _cancelled(state, task, moment)
        return Rejected("CANCELLED", "the task was cancelled before its result arrived")
    if task.state is TaskState.SCHEDULED:  # a task too short for a report of its own
        task = _started(state, task, moment)
    after = evolve(task, state=TaskState.SUCCEEDED, result=command.result, percent_x100=10_000, error=None)
    change_task(state, task, after, moment, "succeeded")
    return Accepted(task.task_id)


def _finished_before(state: ClusterState, task_id: TaskId, attempt: int) -> Accepted | None:
    """The same attempt reporting its end twice is a retry of the report, not a second result."""
    task = state.finished.get(task_id)
    if task is not None and task.state is TaskState.SUCCEEDED and task.attempt == attempt:
        return Accepted(task_id, duplicate=True)
    return None


def fail_attempt(state: ClusterState, command: FailAttempt, moment: Moment) -> Outcome:
    task = _fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    if task.cancel_requested:
        _cancelled(state, task, moment)
    else:
        _failed(state, task, command.error, command.dice, moment, TaskState.FAILED)
    return Accepted(task.task_id)


def _failed(
    state: ClusterState, task: Task, error: TaskError, dice: int, moment: Moment, end: TaskState
) -> None:
    failures = task.failures + 1
    if not error.retryable or failures >= task.retry.attempts_max:
        after = evolve(task, state=end, error=error, failures=failures)
        change_task(state, task, after, moment, end.name.lower(), error.message)
        return
    wait_ms = backoff_ms(task.retry, failures, dice)
    after = _to_queue(state, task, failures=failures, start_at_ms=moment.at_ms + wait_ms)
    change_task(state, task, evolve(after, error=error), moment, "retry", error.message)


def backoff_ms(retry: RetryPolicy, failures: int, dice: int) -> int:
    """Exponential back-off with full jitter, at least 1 ms."""
    ceiling = min(retry.backoff_max_ms, retry.backoff_initial_ms << min(failures - 1, 30))
    return max(1, ceiling * (dice % DICE_SIDES) // DICE_SIDES)


def _to_queue(
    state: ClusterState, task: Task, *, failures: int, start_at_ms: int = 0, losses: int | None = None
) -> Task:
    """The task back in the queue. Without checkpointing it forgets what it did."""
    checkpoint, count, bytes_held = task.checkpoint, task.step_count, task.bytes_held
    if not task.checkpointing:
        state.steps.pop(task.task_id, None)
        checkpoint, count, bytes_held = NO_DATA, 0, held(task.payload)
    return evolve(
        task,
        state=TaskState.PENDING,
        failures=failures,
        losses=task.losses if losses is None else losses,
        start_at_ms=start_at_ms,
        checkpoint=checkpoint,
        step_count=count,
        bytes_held=bytes_held,
    )


def release(state: ClusterState, command: ReleaseTask, moment: Moment) -> Outcome:
    task = _fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    release_held(state, task, command.reason, command.lost, moment)
    return Accepted(task.task_id)


def release_held(state: ClusterState, task: Task, reason: str, lost: bool, moment: Moment) -> None:
    """Back to the queue at its old place; a cancelled task ends here, a task that kills nodes too."""
    losses = task.losses + 1 if lost else task.losses
    if task.cancel_requested:
        _cancelled(state, task, moment)
    elif lost and losses >= state.meta.policy.losses_max:
        error = TaskError("NODE_LOST", f"lost with its node {losses} times", retryable=False)
        after = evolve(task, state=TaskState.DEAD_LETTERED, error=error, losses=losses)
        change_task(state, task, after, moment, "dead_lettered", error.message)
    else:
        after = _to_queue(state, task, failures=task.failures, losses=losses)
        change_task(state, task, after, moment, "released", reason)


def release_all(state: ClusterState, node_id: NodeId, reason: str, moment: Moment) -> None:
    """Everything a lost node held, oldest first (the order must be the same on every replica)."""
    held_now = [state.tasks[task_id] for task_id in state.indexes.held_by(node_id)]
    for task in sorted(held_now, key=lambda task: task.order):
        release_held(state, task, reason, True, moment)


def cancel(state: ClusterState, command: CancelTask, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return _no_task(state, command.task_id)
    if task.cancel_requested:
        return Accepted(task.task_id, duplicate=True)
    after = evolve(task, cancel_requested=True, cancel_reason=command.reason)
    if task.state in HELD:
        change_task(state, task, after, moment, "cancel_requested", command.reason)
    else:
        end = evolve(after, state=TaskState.CANCELLED)
        change_task(state, task, end, moment, "cancelled", command.reason)
    return Accepted(task.task_id)


def confirm_cancel(state: ClusterState, command: ConfirmCancel, moment: Moment) -> Outcome:
    task = _fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    if not task.cancel_requested:
        return Rejected("NOT_CANCELLED", "nobody asked to cancel this task")
    _cancelled(state, task, moment)
    return Accepted(task.task_id)


def _cancelled(state: ClusterState, task: Task, moment: Moment) -> None:
    after = evolve(task, state=TaskState.CANCELLED)
    change_task(state, task, after, moment, "cancelled", task.cancel_reason)


def expire(state: ClusterState, command: ExpireTask, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return _no_task(state, command.task_id)
    if command.kind is ExpiryKind.DEADLINE:
        if not task.deadline_at_ms or moment.at_ms < task.deadline_at_ms:
            return Rejected("NOT_DUE", "the deadline has not passed")
        error = TaskError("DEADLINE", "the task's deadline passed", retryable=False)
        after = evolve(task, state=TaskState.TIMED_OUT, error=error)
        change_task(state, task, after, moment, "timed_out", error.message)
        return Accepted(task.task_id)
    if task.state not in HELD or task.attempt != command.attempt:
        return _stale(task)
    if task.cancel_requested:
        _cancelled(state, task, moment)
        return Accepted(task.task_id)
    error = TaskError("ATTEMPT_TIMEOUT", f"attempt {task.attempt} took longer than allowed")
    _failed(state, task, error, command.dice, moment, TaskState.TIMED_OUT)
    return Accepted(task.task_id)


def _fenced(state: ClusterState, task_id: TaskId, attempt: int) -> Task | Rejected:
    """The task, if `attempt` holds it; a report of any other attempt is refused."""
    task = state.tasks.get(task_id)
    if task is None:
        return _no_task(state, task_id)
    if task.state not in HELD or task.attempt != attempt:
        return _stale(task)
    return task


def _stale(task: Task) -> Rejected:
    return Rejected("FENCED", f"attempt is stale: the task is {task.state.name}, attempt {task.attempt}")


def _no_task(state: ClusterState, task_id: TaskId) -> Rejected:
    task = state.finished.get(task_id)
    if task is not None and task.state in TERMINAL:
        return Rejected("TASK_TERMINAL", f"task {task_id} has ended as {task.state.name}")
    return Rejected("TASK_NOT_FOUND", f"no live task {task_id}")
