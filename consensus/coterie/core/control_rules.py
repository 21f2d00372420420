"""What people and other tasks do to a task: cancel, pause, resume, signal, hurry; and how it waits."""

from __future__ import annotations

from coterie.core.bounds64 import later_ms
from coterie.core.commands import (
    Accepted,
    CancelTask,
    ConfirmCancel,
    MoveTask,
    Outcome,
    PauseTask,
    Rejected,
    ResumeTask,
    RetryTask,
    SignalTask,
    SuspendTask,
)
from coterie.core.lifecycle import (
    SIGNAL_OVERHEAD_BYTES,
    cancel_task,
    change_task,
    end_cancelled,
    fenced,
    heard,
    no_task,
    signal_bytes,
    tells_its_end,
    wait_is_over,
    wake_if_over,
)
from coterie.core.nouns import Signal, Task, TaskState, Wait, WaitReason, evolve
from coterie.core.runs.run import Phase
from coterie.core.state import ClusterState, Moment
from coterie.core.transitions import HELD

SUSPENSIONS = frozenset(
    {
        *(WaitReason.SIGNAL, WaitReason.APPROVAL, WaitReason.TIMER, WaitReason.CHILD, WaitReason.BUDGET),
        *(WaitReason.IN_DOUBT, WaitReason.CIRCUIT_OPEN),
    }
)
BUDGET_WAIT_MS = 600_000  # then who waits for a budget that no window refills asks again


def cancel(state: ClusterState, command: CancelTask, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return no_task(state, command.task_id)
    if task.cancel_requested:
        return Accepted(task.task_id, duplicate=True)
    cancel_task(state, task, command.reason, moment)
    return Accepted(task.task_id)


def confirm_cancel(state: ClusterState, command: ConfirmCancel, moment: Moment) -> Outcome:
    task = fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    if not task.cancel_requested:
        return Rejected("NOT_CANCELLED", "nobody asked to cancel this task")
    end_cancelled(state, task, moment)
    return Accepted(task.task_id)


def pause(state: ClusterState, command: PauseTask, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return no_task(state, command.task_id)
    if task.cancel_requested:
        return Rejected("CANCELLED", "the task is being cancelled")
    if task.pause_requested or task.state is TaskState.PAUSED:
        return Accepted(task.task_id, duplicate=True)
    after = evolve(task, pause_reason=command.reason)
    if task.state in HELD:
        change_task(
            state, task, evolve(after, pause_requested=True), moment, "pause_requested", command.reason
        )
    else:
        change_task(state, task, evolve(after, state=TaskState.PAUSED), moment, "paused", command.reason)
        run = state.runs.get(task.task_id)
        if run is not None and run.head.phase is Phase.UNDOING:
            state.note_run(task.task_id, "paused")  # what is undone because its time is over waits for nobody
    return Accepted(task.task_id)


def move(state: ClusterState, command: MoveTask, moment: Moment) -> Outcome:
    task = fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    if task.cancel_requested or task.pause_requested:
        return Rejected("LEAVING", "the task is being cancelled or paused")
    if task.move_attempt == command.attempt:
        return Accepted(task.task_id, duplicate=True)
    after = evolve(task, move_attempt=command.attempt, moved_at_ms=moment.at_ms)
    change_task(state, task, after, moment, "move_requested", command.reason)
    return Accepted(task.task_id)


def resume(state: ClusterState, command: ResumeTask, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return no_task(state, command.task_id)
    if task.state is TaskState.PAUSED:
        waits = task.wait is not None and not wait_is_over(state, task)
        to = (
            evolve(task, state=TaskState.WAITING)
            if waits
            else evolve(task, state=TaskState.PENDING, wait=None)
        )
        change_task(state, task, evolve(to, pause_reason=""), moment, "resumed")
        if task.task_id in state.runs:
            state.note_run(task.task_id, "resumed")
        return Accepted(task.task_id)
    if task.pause_requested:
        change_task(state, task, evolve(task, pause_requested=False, pause_reason=""), moment, "resumed")
        return Accepted(task.task_id)
    return Accepted(task.task_id, duplicate=True)


def signal(state: ClusterState, command: SignalTask, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return no_task(state, command.task_id)
    known = next((one for one in task.signals if one.signal_id == command.signal_id), None)
    if command.signal_id and known is not None:
        if (known.name, known.payload) != (command.name, command.payload):
            return Rejected(
                "REQUEST_ID_REUSED", f"request_id {command.signal_id} was used for another signal"
            )
        return Accepted(task.task_id, duplicate=True)
    refused = _signal_refused(state, task, command)
    if refused is not None:
        return refused
    told = Signal(command.name, command.payload, moment.at_ms, command.signal_id)
    held_now = task.bytes_held + signal_bytes(command.payload.inline)
    after = evolve(task, signals=(*task.signals, told), bytes_held=held_now)
    after = change_task(state, task, after, moment, "signal", command.name)
    if after.task_id in state.runs:
        state.note_run(after.task_id, "signal")
    elif after.wait is not None:
        wake_if_over(state, after, moment)
    return Accepted(task.task_id)


def _signal_refused(state: ClusterState, task: Task, command: SignalTask) -> Rejected | None:
    policy = state.meta.policy
    if not command.name:
        return Rejected("BAD_SIGNAL", "a signal has a name")
    if task.cancel_requested:
        return Rejected("CANCELLED", "the task is being cancelled")
    if len(task.signals) - _ended_waits(task) >= policy.signals_per_task_max:
        return Rejected("TOO_MANY_SIGNALS", f"a task keeps at most {policy.signals_per_task_max} signals")
    if task.bytes_held + signal_bytes(command.payload.inline) > policy.task_bytes_max:
        return Rejected("TASK_TOO_LARGE", f"a task keeps at most {policy.task_bytes_max} bytes")
    return None


def _ended_waits(task: Task) -> int:
    """How many of its waits have run out: each has left a signal, which nobody sent."""
    return sum(signal.timed_out for signal in task.signals)


def suspend(state: ClusterState, command: SuspendTask, moment: Moment) -> Outcome:
    """The attempt ends here. `WAIT_OVER` says that what it wants to wait for is there already."""
    if command.reason not in SUSPENSIONS or not (command.name or command.reason is WaitReason.CHILD):
        return Rejected(
            "BAD_WAIT",
            "a task waits for a named SIGNAL, APPROVAL, TIMER, BUDGET or CIRCUIT_OPEN, or for a CHILD",
        )
    task = heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    if task.cancel_requested:
        end_cancelled(state, task, moment)
        return Rejected("CANCELLED", "the task was cancelled before it began to wait")
    until_ms = _until_ms(command, moment)
    after = evolve(task, wait=_wait_of(command, until_ms))
    if wait_is_over(state, after):
        return Rejected("WAIT_OVER", f"{command.name or 'what it waits for'} is there already")
    refused = _untellable(state, after)
    if refused is not None:
        return refused
    to = TaskState.PAUSED if task.pause_requested else TaskState.WAITING
    after = evolve(after, state=to, pause_requested=False, crashes=())  # a wait is further than it was
    change_task(state, task, after, moment, to.name.lower(), command.name)
    return Accepted(task.task_id)


def _untellable(state: ClusterState, task: Task) -> Rejected | None:
    """Its journal has no room for the end of the wait that it is about to begin."""
    policy, wait = state.meta.policy, task.wait
    if wait is None or not wait.until_ms or not tells_its_end(wait):
        return None
    if _ended_waits(task) >= policy.steps_per_task_max:
        text = f"at most {policy.steps_per_task_max} waits of a task run out, sleeps among them"
        return Rejected("TOO_MANY_STEPS", text)
    if task.bytes_held + SIGNAL_OVERHEAD_BYTES > policy.task_bytes_max:
        return Rejected("TASK_TOO_LARGE", f"a task keeps at most {policy.task_bytes_max} bytes")
    return None


def _until_ms(command: SuspendTask, moment: Moment) -> int:
    """0: it may wait for ever. For a budget nobody does: it may change while the task is about to sleep."""
    timeout_ms = command.timeout_ms
    if timeout_ms <= 0 and command.reason is WaitReason.BUDGET:
        timeout_ms = BUDGET_WAIT_MS
    return later_ms(moment.at_ms, timeout_ms) if timeout_ms > 0 else 0


def _wait_of(command: SuspendTask, until_ms: int) -> Wait:
    return Wait(command.reason, command.name, command.seen, until_ms, command.stop_after)


def hurry(state: ClusterState, command: RetryTask, moment: Moment) -> Outcome:
    """Queue a task now that waits for its back-off or its start time."""
    task = state.tasks.get(command.task_id)
    if task is None:
        return no_task(state, command.task_id)
    if task.state is not TaskState.PENDING:
        return Rejected("NOT_QUEUED", f"the task is {task.state.name}; only a delayed one can be hurried")
    if task.start_at_ms <= moment.at_ms:
        return Accepted(task.task_id, duplicate=True)
    change_task(state, task, evolve(task, start_at_ms=0, not_before_ms=0), moment, "hurried")
    return Accepted(task.task_id)
