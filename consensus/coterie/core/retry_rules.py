"""How an attempt ends without a result: failures, losses, back-off, quarantine, clocks that ran out."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.bounds64 import later_ms
from coterie.core.commands import Accepted, ExpireTask, FailAttempt, Outcome, Rejected, ReleaseTask
from coterie.core.lifecycle import (
    SIGNAL_OVERHEAD_BYTES,
    change_task,
    end_cancelled,
    fenced,
    no_task,
    stale,
    tells_its_end,
    to_queue,
)
from coterie.core.nouns import (
    NO_DATA,
    Crash,
    CrashKind,
    ExpiryKind,
    NodeId,
    RetryPolicy,
    Signal,
    Task,
    TaskError,
    TaskState,
    evolve,
)
from coterie.core.state import ClusterState, Moment
from coterie.core.transitions import HELD

DICE_SIDES = 1 << 32
DOUBLINGS_MAX = 30
CRASHES_KEPT_MAX = 32
SKILL_CRASHED = "SKILL_CRASHED"  # the code of an attempt whose process died
POISON = "POISON"
CHILDREN = "children"  # the name of a signal that says: a wait for children ran out


def fail_attempt(state: ClusterState, command: FailAttempt, moment: Moment) -> Outcome:
    task = fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    if task.cancel_requested:
        end_cancelled(state, task, moment)
    else:
        _failed(state, task, command.error, command.dice, moment, TaskState.FAILED)
    return Accepted(task.task_id)


def _failed(
    state: ClusterState, task: Task, error: TaskError, dice: int, moment: Moment, end: TaskState
) -> None:
    before = task
    if error.code == SKILL_CRASHED:
        task = _crashed(task, CrashKind.SKILL, moment)
    failures = task.failures + 1
    poison = _poison(state, task)
    if poison is not None:
        _give_up(state, before, evolve(task, failures=failures), poison, moment)
        return
    retryable = error.retryable and error.code not in task.retry.non_retryable
    if not retryable or failures >= task.retry.attempts_max:
        end = TaskState.DEAD_LETTERED if task.retry.dead_letter else end
        after = evolve(task, state=end, error=error, failures=failures)
        change_task(state, before, after, moment, end.name.lower(), error.message)
        return
    start_at_ms = later_ms(moment.at_ms, backoff_ms(task.retry, failures, dice))
    after = to_queue(state, task, failures=failures, error=error, start_at_ms=start_at_ms)
    change_task(state, before, after, moment, "retry", error.message)


def backoff_ms(retry: RetryPolicy, failures: int, dice: int) -> int:
    """Exponential back-off with full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015), at least
    1 ms. The dice come with the command, so that the next attempt's time is the same on every replica."""
    doublings = min(max(0, failures - 1), DOUBLINGS_MAX)
    ceiling = min(retry.backoff_max_ms, retry.backoff_initial_ms << doublings)
    return max(1, ceiling * (dice % DICE_SIDES) // DICE_SIDES)


# --- crashes


def _crashed(task: Task, kind: CrashKind, moment: Moment) -> Task:
    crash = Crash(task.node_id, task.incarnation, kind, moment.at_ms)
    return evolve(task, crashes=(*task.crashes, crash)[-CRASHES_KEPT_MAX:])


def _poison(state: ClusterState, task: Task) -> TaskError | None:
    """The verdict on a task that crashed too many workers or nodes since it last got a step further."""
    policy = state.meta.policy
    skill = {crash.node_id for crash in task.crashes if crash.kind is CrashKind.SKILL}
    lost = [crash.node_id for crash in task.crashes if crash.kind is CrashKind.NODE]
    if policy.crash_nodes_max and len(skill) >= policy.crash_nodes_max:
        return _verdict("its process died on", sorted(skill))
    if policy.node_losses_max and len(lost) >= policy.node_losses_max:
        return _verdict(f"{len(lost)} times in a row its node was lost:", sorted(set(lost)))
    return None


def _verdict(what: str, nodes: list[NodeId]) -> TaskError:
    return TaskError(POISON, f"{what} {', '.join(nodes)}", retryable=False)


def _give_up(state: ClusterState, before: Task, task: Task, error: TaskError, moment: Moment) -> None:
    after = evolve(task, state=TaskState.DEAD_LETTERED, error=error)
    change_task(state, before, after, moment, "dead_lettered", error.message)


# --- taking a task back from its node


def release(state: ClusterState, command: ReleaseTask, moment: Moment) -> Outcome:
    task = fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    release_held(state, task, command.reason, command.lost, moment)
    return Accepted(task.task_id)


def release_held(state: ClusterState, task: Task, reason: str, lost: bool, moment: Moment) -> None:
    """Back to the queue at its old place; a cancelled task ends here, a task that kills nodes too."""
    before, task = task, _lost(task, moment) if lost else task
    poison = _too_often_lost(state, task) if lost else None
    if task.cancel_requested:
        end_cancelled(state, before, moment, task, reason)
    elif poison is not None:
        _give_up(state, before, task, poison, moment)
    else:
        event = "paused" if task.pause_requested else "released"
        change_task(state, before, to_queue(state, task), moment, event, reason)


def _lost(task: Task, moment: Moment) -> Task:
    """What had not begun yet is nobody's fault."""
    crashed = _crashed(task, CrashKind.NODE, moment) if task.state is TaskState.RUNNING else task
    return evolve(crashed, losses=task.losses + 1)


def _too_often_lost(state: ClusterState, task: Task) -> TaskError | None:
    if task.losses >= state.meta.policy.losses_max:
        return TaskError("NODE_LOST", f"lost with its node {task.losses} times", retryable=False)
    return _poison(state, task)


def release_all(state: ClusterState, node_id: NodeId, reason: str, moment: Moment) -> None:
    """Everything a lost node held, oldest first (the order must be the same on every replica)."""
    held_now = [state.tasks[task_id] for task_id in state.indexes.held_by(node_id)]
    for task in sorted(held_now, key=lambda task: task.order):
        release_held(state, task, reason, True, moment)


# --- clocks


def expire(state: ClusterState, command: ExpireTask, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return no_task(state, command.task_id)
    match command.kind:
        case ExpiryKind.DEADLINE:
            return _expire_task(state, task, moment)
        case ExpiryKind.ATTEMPT:
            return _expire_attempt(state, task, command, moment)
        case ExpiryKind.WAIT:
            return _expire_wait(state, task, moment)


def _expire_task(state: ClusterState, task: Task, moment: Moment) -> Outcome:
    if not task.deadline_at_ms or moment.at_ms < task.deadline_at_ms:
        return Rejected("NOT_DUE", "the deadline has not passed")
    if task.task_id in state.runs:  # it ends when its nodes have; the new wait moves it in the look-ups
        wait = replace(task.wait) if task.wait is not None else None
        change_task(state, task, evolve(task, deadline_at_ms=0, wait=wait), moment, "deadline")
        state.note_run(task.task_id, "deadline")
        return Accepted(task.task_id)
    error = TaskError("DEADLINE", "the task's deadline passed", retryable=False)
    after = evolve(task, state=TaskState.TIMED_OUT, error=error)
    change_task(state, task, after, moment, "timed_out", error.message)
    return Accepted(task.task_id)


def _expire_attempt(state: ClusterState, task: Task, command: ExpireTask, moment: Moment) -> Outcome:
    if task.state not in HELD or task.attempt != command.attempt:
        return stale(task)
    if task.cancel_requested:
        end_cancelled(state, task, moment)
        return Accepted(task.task_id)
    error = TaskError("ATTEMPT_TIMEOUT", f"attempt {task.attempt} took longer than allowed")
    _failed(state, task, error, command.dice, moment, TaskState.TIMED_OUT)
    return Accepted(task.task_id)


def _expire_wait(state: ClusterState, task: Task, moment: Moment) -> Outcome:
    """A wait that ran out is a signal that says so: the task goes on and finds it, at every replay."""
    wait = task.wait
    if task.state is not TaskState.WAITING or wait is None:
        return Rejected("NOT_WAITING", f"the task is {task.state.name}")
    if not wait.until_ms or moment.at_ms < wait.until_ms:
        return Rejected("NOT_DUE", "the wait has not run out")
    if task.task_id in state.runs:
        state.note_run(task.task_id, "tick")
        return Accepted(task.task_id)
    if not tells_its_end(wait):
        change_task(state, task, to_queue(state, task, wait=None), moment, "woken")
        return Accepted(task.task_id)
    signal = Signal(wait.name or CHILDREN, NO_DATA, moment.at_ms, timed_out=True)
    held_now = task.bytes_held + SIGNAL_OVERHEAD_BYTES
    told = evolve(task, signals=(*task.signals, signal), bytes_held=held_now)
    told = change_task(state, task, told, moment, "wait_timed_out", signal.name)
    change_task(state, told, to_queue(state, told, wait=None), moment, "woken")
    return Accepted(task.task_id)
