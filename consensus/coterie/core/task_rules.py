"""What coordinator and worker do to a task. A worker's report is believed only with its attempt number."""

from __future__ import annotations

from coterie.core.breaker_rules import admit_attempt
from coterie.core.commands import (
    Accepted,
    AssignTask,
    FinishTask,
    Outcome,
    RecordStep,
    Rejected,
    ReportProgress,
    SaveCheckpoint,
    StartTask,
)
from coterie.core.decisions.tables import drop_step
from coterie.core.fairness import note_served
from coterie.core.holdings import lacking, note_assignment, set_aside
from coterie.core.lifecycle import change_task, end_cancelled, fenced, heard, no_task, started
from coterie.core.limits import take
from coterie.core.nouns import NodeStatus, Step, Task, TaskId, TaskState, evolve
from coterie.core.state import ClusterState, Moment, held
from coterie.core.steplog import StepLog
from coterie.core.workqueue import profile_of

STEP_OVERHEAD_BYTES = 200  # with a key of ASCII, as almost all are
STEP_KEY_CHARS_MAX = 160


def assign(state: ClusterState, command: AssignTask, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return no_task(state, command.task_id)
    if task.state is not TaskState.PENDING or command.attempt != task.attempt + 1:
        return Rejected("STALE_ASSIGNMENT", f"task is {task.state.name}, attempt {task.attempt}")
    waits = _not_yet(state, task, moment)
    if waits is not None:
        return waits
    if command.if_first and not state.indexes.queue.is_first(task):
        return Rejected("NOT_FIRST", "an older task of its kind and class waits")
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
    broken = admit_attempt(state, task, node.node_id, moment) if state.breakers else None
    if broken is not None:
        return broken
    after = evolve(
        task,
        state=TaskState.SCHEDULED,
        node_id=node.node_id,
        incarnation=node.incarnation,
        attempt=command.attempt,
        assigned_at_ms=moment.at_ms,
        start_at_ms=0,
    )
    note_served(state, task.tenant, moment.at_ms)
    change_task(state, task, after, moment, "assigned")
    note_assignment(state, task, node, command.turn, moment)
    _take_tokens(state, task, moment)
    return Accepted(task.task_id)


def _not_yet(state: ClusterState, task: Task, moment: Moment) -> Rejected | None:
    """The task's own time, and the limits that hold for the whole cluster, whoever leads it."""
    if task.start_at_ms > moment.at_ms:
        return Rejected("NOT_DUE", "its time has not come", task.start_at_ms)
    blocker = state.indexes.gauges.blocker(profile_of(task), moment.at_ms)
    if blocker is not None:
        return Rejected("LIMIT_REACHED", f"limit {blocker.limit.limit_id} is reached", blocker.until_ms)
    return None


def _take_tokens(state: ClusterState, task: Task, moment: Moment) -> None:
    if not state.limits:
        return
    keyed = False
    for limit, name in state.indexes.gauges.counted(profile_of(task)):
        if limit.rate_count:
            take(state.buckets, limit, name, moment.at_ms)
            keyed |= bool(limit.key)
    if keyed:
        state.indexes.queue.recheck(task.key)


def start(state: ClusterState, command: StartTask, moment: Moment) -> Outcome:
    task = fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    if task.state is TaskState.RUNNING:
        return Accepted(task.task_id, duplicate=True)
    started(state, task, moment)
    return Accepted(task.task_id)


def record_step(state: ClusterState, command: RecordStep, moment: Moment) -> Outcome:
    task = heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    steps = state.steps.get(task.task_id)
    known = steps.find(command.key) if steps is not None else None
    if known is not None:
        return _step_again(known, command)
    step = Step(command.key, command.attempt, command.result, moment.at_ms, command.beside)
    return complete_step(state, task, step, moment, "emitted" if command.told else "step") or Accepted(
        task.task_id
    )


def complete_step(state: ClusterState, task: Task, step: Step, moment: Moment, event: str) -> Rejected | None:
    """Append it to the journal of the task; it must not be there yet. None: it is there now."""
    steps = state.steps.get(task.task_id) or StepLog()
    more = held(step.result) + STEP_OVERHEAD_BYTES + sum(map(len, step.beside))
    more += max(0, len(step.key.encode("utf-8", "replace")) - STEP_KEY_CHARS_MAX)
    refused = bad_key(step.key) or _step_refused(state, task, len(steps), more)
    if refused is not None:
        return refused
    steps.append(step)
    state.steps[task.task_id] = steps
    if task.task_id in state.open_steps:
        drop_step(state, task.task_id, step.key)
    state.meta = evolve(state.meta, steps_total=state.meta.steps_total + 1)
    after = evolve(task, step_count=task.step_count + 1, bytes_held=task.bytes_held + more, crashes=())
    detail = step.key if event == "step" else step.result.inline.decode("utf-8", "replace")
    change_task(state, task, after, moment, event, detail)
    return None


def bad_key(key: str) -> Rejected | None:
    """Why no step has that key; None: one may."""
    if len(key) <= STEP_KEY_CHARS_MAX:
        return None
    return Rejected("BAD_STEP", f"the key of a step has at most {STEP_KEY_CHARS_MAX} characters")


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
    task = heard(state, command.task_id, command.attempt, moment)
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
        checkpointed=command.steps,
        bytes_held=task.bytes_held + more,
        crashes=(),
    )
    change_task(state, task, after, moment, "checkpoint")
    return Accepted(task.task_id)


def report_progress(state: ClusterState, command: ReportProgress, moment: Moment) -> Outcome:
    task = heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    after = evolve(task, percent_x100=command.percent_x100, progress_message=command.message)
    change_task(state, task, after, moment, "progress", command.message)
    return Accepted(task.task_id)


def finish(state: ClusterState, command: FinishTask, moment: Moment) -> Outcome:
    task = fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return _finished_before(state, command.task_id, command.attempt) or task
    if task.cancel_requested:  # the log decides: the cancellation came first
        end_cancelled(state, task, moment)
        return Rejected("CANCELLED", "the task was cancelled before its result arrived")
    if task.state is TaskState.SCHEDULED:  # a task too short for a report of its own
        task = started(state, task, moment)
    after = evolve(task, state=TaskState.SUCCEEDED, result=command.result, percent_x100=10_000, error=None)
    change_task(state, task, after, moment, "succeeded")
    return Accepted(task.task_id)


def _finished_before(state: ClusterState, task_id: TaskId, attempt: int) -> Accepted | None:
    """The same attempt reporting its end twice is a retry of the report, not a second result."""
    task = state.finished.get(task_id)
    if task is not None and task.state is TaskState.SUCCEEDED and task.attempt == attempt:
        return Accepted(task_id, duplicate=True)
    return None
