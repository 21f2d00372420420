"""How a task goes from state to state: the events it leaves, what ends with it, what is forgotten when."""

from __future__ import annotations

from coterie.core.agent_counts import note_end as note_agent_end
from coterie.core.agent_counts import note_let_go as note_agent_let_go
from coterie.core.agentbook import AGENT_TYPE
from coterie.core.breaker_rules import attempt_ended
from coterie.core.commands import Rejected
from coterie.core.decisions.nouns import Verdict
from coterie.core.decisions.tables import end_decisions
from coterie.core.fairness import note_let_go
from coterie.core.families import ChildEnd
from coterie.core.llm.doubts import close_task
from coterie.core.nouns import (
    NO_DATA,
    PAUSE,
    DeadLetter,
    Event,
    Task,
    TaskError,
    TaskId,
    TaskState,
    Wait,
    WaitReason,
    evolve,
)
from coterie.core.runs.table import closed
from coterie.core.state import ClusterState, Moment, held
from coterie.core.transitions import HELD, TERMINAL, is_legal

FINISHED_OVERHEAD_BYTES = 1_000
CHILD_MESSAGE_CHARS_MAX = 500


def add_task(state: ClusterState, task: Task) -> None:
    state.tasks[task.task_id] = task
    state.indexes.add(task)


def change_task(
    state: ClusterState,
    before: Task,
    after: Task,
    moment: Moment,
    event: str,
    detail: str = "",
    let_go: str = "",
) -> Task:
    """Put `after` in the place of `before`, as one numbered event. The transition must be legal. `let_go`:
    why its node has it no more, if that is not the detail of the event."""
    assert is_legal(before.state, after.state), f"{before.state.name} -> {after.state.name}"
    after = evolve(after, version=before.version + 1, sequence=before.sequence + 1)
    if before.state in HELD and after.state not in HELD:
        note_let_go(state, before, moment.at_ms)
        if before.task_id in state.agent_runs:
            note_agent_let_go(state, before, moment.at_ms)
        attempt_ended(state, before, after, let_go or detail, moment)
    if after.state in TERMINAL:
        after = _finish(state, before, after, moment, event, detail)
    else:
        _keep_for_images(state, before.task_id)
        state.tasks[after.task_id] = after
        state.indexes.replace(before, after)
        state.outbox.append(Event(event, after, moment.index, moment.at_ms, detail))
    return after


def _keep_for_images(state: ClusterState, task_id: TaskId) -> None:
    """What stands in the state, whatever the rule that changes it has worked out already."""
    for image in state.images:
        image.keep(state.tasks[task_id])


def _finish(state: ClusterState, before: Task, after: Task, moment: Moment, event: str, detail: str) -> Task:
    after = evolve(after, finished_at_ms=moment.at_ms)
    if after.task_id in state.runs:
        after = closed(state.runs.pop(after.task_id), after)
    _keep_for_images(state, after.task_id)
    del state.tasks[after.task_id]
    if after.task_id in state.llm.calls:
        close_task(state.llm, after.task_id, moment.at_ms)
    if after.type == AGENT_TYPE and after.agent:
        note_agent_end(state, after, moment.at_ms)
    steps = tuple(state.steps.pop(after.task_id, ()))
    state.indexes.replace(before, after)
    state.finished[after.task_id] = after
    state.meta = evolve(
        state.meta,
        finished_total=state.meta.finished_total + 1,
        finished_bytes=state.meta.finished_bytes + _kept_bytes(after),
    )
    state.outbox.append(Event(event, after, moment.index, moment.at_ms, detail, steps))
    if after.state is TaskState.DEAD_LETTERED:
        _bury(state, DeadLetter(after, steps))
    if after.task_id in state.coordination.task_locks:
        state.ended_holders.append(after.task_id)
    _tell_family(state, after, moment)
    _evict(state)
    return after


def _evict(state: ClusterState) -> None:
    """Forget the oldest finished tasks beyond the limits; the ledgers keep them."""
    policy, dropped = state.meta.policy, 0
    while state.finished and (
        len(state.finished) > policy.finished_tasks_kept_max
        or state.meta.finished_bytes - dropped > policy.finished_bytes_kept_max
    ):
        _, task = state.finished.popitem(last=False)
        state.indexes.by_state[task.state] -= 1
        dropped += _kept_bytes(task)
    if dropped:
        state.meta = evolve(state.meta, finished_bytes=state.meta.finished_bytes - dropped)


def _kept_bytes(task: Task) -> int:
    return FINISHED_OVERHEAD_BYTES + held(task.payload) + held(task.checkpoint) + held(task.result)


# --- dead letters


def _bury(state: ClusterState, letter: DeadLetter) -> None:
    """Into the list. When it is full the tenant's oldest leaves, when it is too large the oldest of all."""
    policy, dropped = state.meta.policy, 0
    if letter.task.task_id in state.dead_letters:  # of a log from when such an id was not taken
        unbury(state, letter.task.task_id)
    state.dead_letters[letter.task.task_id] = letter
    state.indexes.add_dead_letter(letter.task)
    state.meta = evolve(state.meta, dead_letter_bytes=state.meta.dead_letter_bytes + _letter_bytes(letter))
    of_tenant = state.indexes.dead_of(letter.task.tenant)
    while len(of_tenant) > policy.dead_letters_max:
        unbury(state, next(iter(of_tenant)))
        dropped += 1
    while state.dead_letters and state.meta.dead_letter_bytes > policy.dead_letter_bytes_max:
        unbury(state, next(iter(state.dead_letters)))
        dropped += 1
    if dropped:
        state.meta = evolve(state.meta, dead_letters_dropped=state.meta.dead_letters_dropped + dropped)


def unbury(state: ClusterState, task_id: TaskId) -> DeadLetter:
    """Take a dead letter out of the list. It must be there."""
    letter = state.dead_letters.pop(task_id)
    state.indexes.remove_dead_letter(letter.task)
    state.meta = evolve(state.meta, dead_letter_bytes=state.meta.dead_letter_bytes - _letter_bytes(letter))
    return letter


def _letter_bytes(letter: DeadLetter) -> int:
    return _kept_bytes(letter.task) + letter.task.bytes_held


# --- parents and children


def _tell_family(state: ClusterState, after: Task, moment: Moment) -> None:
    """Children do not outlive a parent that did not succeed; a parent may have waited for this one."""
    if after.state is not TaskState.SUCCEEDED and state.indexes.children_of(after.task_id):
        note_end(state, after.task_id, f"its parent ended as {after.state.name}")
    if after.parent_id in state.runs:
        state.note_run(after.parent_id, "ended", after)
    parent = state.tasks.get(after.parent_id) if after.parent_id else None
    if parent is not None and parent.task_id in state.families:
        _note_end_of_child(state, after)
    if state.open_steps or state.approvals:
        end_decisions(state, after, moment)
    if after.task_id in state.families:
        state.indexes.live_bytes -= state.families.pop(after.task_id).bytes_held
    if parent is not None and parent.wait is not None and parent.wait.reason is WaitReason.CHILD:
        wake_if_over(state, parent, moment)


def _note_end_of_child(state: ClusterState, after: Task) -> None:
    """What its parent has to know of it stays when the task itself is forgotten."""
    family = state.families[after.parent_id]
    place = family.place_of(after.task_id)
    if place is None:
        return
    error = after.error
    if after.state is not TaskState.SUCCEEDED:
        error = error or TaskError(after.state.name, after.cancel_reason, retryable=False)
        error = TaskError(error.code, error.message[:CHILD_MESSAGE_CHARS_MAX], error.retryable)
    before = family.bytes_held
    family.end(ChildEnd(place, after.state, after.result, error))
    state.indexes.live_bytes += family.bytes_held - before


def note_end(state: ClusterState, task_id: TaskId, reason: str) -> None:
    """The children of this task are to be cancelled before the entry is done."""
    state.ended_parents.append((task_id, reason))


def settle(state: ClusterState, moment: Moment) -> None:
    """Cancel the children of what has ended, and theirs: with a list, because a family may be deep."""
    while state.ended_parents:
        parent_id, reason = state.ended_parents.pop()
        children = [state.tasks[task_id] for task_id in state.indexes.children_of(parent_id)]
        for child in sorted(children, key=lambda task: task.order):
            cancel_task(state, child, reason, moment)


def cancel_task(state: ClusterState, task: Task, reason: str, moment: Moment) -> None:
    """End it, or ask the node that holds it to; its children too."""
    if task.cancel_requested or task.task_id not in state.tasks:
        return
    after = evolve(task, cancel_requested=True, cancel_reason=reason)
    if task.task_id in state.runs:  # it ends when its nodes have
        change_task(state, task, after, moment, "cancel_requested", reason)
        state.note_run(task.task_id, "cancel")
        return
    if task.state in HELD:
        change_task(state, task, after, moment, "cancel_requested", reason)
        note_end(
            state,
            task.task_id,
            f"its parent was cancelled: {reason}" if reason else "its parent was cancelled",
        )
    else:
        change_task(state, task, evolve(after, state=TaskState.CANCELLED), moment, "cancelled", reason)


def end_cancelled(
    state: ClusterState, before: Task, moment: Moment, after: Task | None = None, let_go: str = ""
) -> None:
    """A held task whose cancellation was requested lets go. `after`: what has become of it by then, such as
    its loss; `let_go`: why, for whoever counts how attempts end."""
    ended = evolve(after if after is not None else before, state=TaskState.CANCELLED)
    change_task(state, before, ended, moment, "cancelled", before.cancel_reason, let_go)


# --- waiting


def wait_is_over(state: ClusterState, task: Task) -> bool:
    """What a task waits for, running or suspended, has come. It must wait for something."""
    wait = task.wait
    assert wait is not None
    if wait.reason is WaitReason.IN_DOUBT:
        return _is_decided(state, task, wait.name)
    if wait.reason is WaitReason.APPROVAL and task.task_id in state.approvals:
        approval = state.approvals[task.task_id].find(wait.name)
        if approval is not None:
            return approval.verdict is not Verdict.PENDING
    if wait.reason is WaitReason.CHILD:
        return _children_are_over(state, task, wait)
    if wait.reason is WaitReason.BUDGET and wait.seen:
        return wait.seen != state.llm.mark
    return sum(signal.name == wait.name for signal in task.signals) > wait.seen


def tells_its_end(wait: Wait) -> bool:
    """A wait that runs out leaves a signal that says so; but not one after which the task only asks again."""
    pause = wait.reason is WaitReason.TIMER and wait.name.startswith(PAUSE)
    return wait.reason not in (WaitReason.BUDGET, WaitReason.CIRCUIT_OPEN) and not pause


def _is_decided(state: ClusterState, task: Task, key: str) -> bool:
    held_open = state.open_steps.get(task.task_id)
    step = held_open.find(key) if held_open is not None else None
    return step is None or bool(step.decision)


def _children_are_over(state: ClusterState, task: Task, wait: Wait) -> bool:
    """Few enough children are open; or so many have failed that waiting for the others makes no sense."""
    family = state.families.get(task.task_id)
    if not wait.name:
        return len(state.indexes.children_of(task.task_id)) <= wait.seen
    if family is None:
        return True
    group = family.group(wait.name)
    return group.open <= wait.seen or 0 < wait.stop_after <= group.failed


def wake_if_over(state: ClusterState, task: Task, moment: Moment) -> None:
    """Back to the queue if what it waits for has come; a paused task only stops waiting."""
    if not wait_is_over(state, task):
        return
    if task.state is TaskState.WAITING:
        change_task(state, task, to_queue(state, task, wait=None), moment, "woken")
    else:
        change_task(state, task, evolve(task, wait=None), moment, "woken")


def wake_all(state: ClusterState, task_ids: list[TaskId], moment: Moment) -> None:
    """What these tasks sleep for may be there: they ask again, the oldest first."""
    for task in sorted((state.tasks[task_id] for task_id in task_ids), key=lambda task: task.order):
        change_task(state, task, to_queue(state, task, wait=None), moment, "woken")


def to_queue(state: ClusterState, task: Task, **changes: object) -> Task:
    """The task as it is queued again, at its old place, or paused if somebody asked for that. Without
    checkpointing it forgets what it did."""
    forgotten: dict[str, object] = {}
    if not task.checkpointing:
        state.steps.pop(task.task_id, None)
        told = sum(signal_bytes(signal.payload.inline) for signal in task.signals)
        forgotten = {
            "checkpoint": NO_DATA,
            "checkpointed": 0,
            "step_count": 0,
            "bytes_held": held(task.payload) + told,
        }
    to = TaskState.PAUSED if task.pause_requested else TaskState.PENDING
    return evolve(task, state=to, pause_requested=False, **{"start_at_ms": 0, **forgotten, **changes})


SIGNAL_OVERHEAD_BYTES = 200


def signal_bytes(inline: bytes) -> int:
    """What a signal counts against the bytes of its task."""
    return len(inline) + SIGNAL_OVERHEAD_BYTES


# --- fencing


def fenced(state: ClusterState, task_id: TaskId, attempt: int) -> Task | Rejected:
    """The task, if `attempt` holds it; a report of any other attempt is refused."""
    task = state.tasks.get(task_id)
    if task is None:
        return no_task(state, task_id)
    if task.state not in HELD or task.attempt != attempt:
        return stale(task)
    return task


def stale(task: Task) -> Rejected:
    return Rejected("FENCED", f"attempt is stale: the task is {task.state.name}, attempt {task.attempt}")


def no_task(state: ClusterState, task_id: TaskId) -> Rejected:
    task = state.finished.get(task_id)
    if task is not None and task.state in TERMINAL:
        return Rejected("TASK_TERMINAL", f"task {task_id} has ended as {task.state.name}")
    return Rejected("TASK_NOT_FOUND", f"no live task {task_id}")


def started(state: ClusterState, task: Task, moment: Moment) -> Task:
    after = evolve(task, state=TaskState.RUNNING, started_at_ms=moment.at_ms)
    return change_task(state, task, after, moment, "started")


def heard(state: ClusterState, task_id: TaskId, attempt: int, moment: Moment) -> Task | Rejected:
    """The task, if `attempt` holds it; running from now on if its start was not reported yet."""
    task = fenced(state, task_id, attempt)
    if isinstance(task, Task) and task.state is TaskState.SCHEDULED:
        return started(state, task, moment)
    return task
