"""How a task comes into being: request ids, limits, parents, the queue, new runs of what has ended."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.agent_counts import pledge_for
from coterie.core.agentbook import AGENT_TYPE
from coterie.core.bounds64 import later_ms
from coterie.core.commands import Accepted, Outcome, PurgeDeadLetters, Rejected, ReplayTask, SubmitTask
from coterie.core.layout import QUEUED, give_places
from coterie.core.lifecycle import add_task, unbury
from coterie.core.nouns import (
    NO_PARENT,
    Constraints,
    Event,
    Step,
    Task,
    TaskId,
    TaskState,
    Wait,
    evolve,
    make,
)
from coterie.core.request_ids import answered, forget_old, key_of_control, remember
from coterie.core.runs.run import WORKFLOW, Phase, place_of
from coterie.core.skillbook import pinned, refusal
from coterie.core.state import ClusterState, Moment, held
from coterie.core.steplog import StepLog
from coterie.core.task_rules import STEP_OVERHEAD_BYTES
from coterie.core.transitions import TERMINAL

PERCENT = 100
give_places(Task, QUEUED)


def submit(state: ClusterState, command: SubmitTask, moment: Moment) -> Outcome:
    answer = admit(state, command, moment)
    return answer if answer is not None else Accepted(create(state, command, moment).task_id)


def admit(state: ClusterState, command: SubmitTask, moment: Moment, more_bytes: int = 0) -> Outcome | None:
    """Why no new task is made, or which one was; None, and the request id is taken, when it may be made."""
    key = f"{command.tenant}/{command.request_id}" if command.request_id else ""
    known = answered(state, key, command.digest) if key else None
    if known is not None:
        return known
    if state.is_taken(command.task_id):
        return Rejected("TASK_EXISTS", f"task {command.task_id} exists already")
    more_bytes += _bytes(command)
    refused = _orphan(state, command) or full(state, command.tenant, more_bytes) or unskilled(state, command)
    if refused is not None:
        return refused
    if key:
        remember(state, key, command.digest, command.task_id, moment)
    else:
        forget_old(state, moment)
    return None


def create(
    state: ClusterState,
    command: SubmitTask,
    moment: Moment,
    detail: str = "",
    *,
    wait: Wait | None = None,
    more_bytes: int = 0,
) -> Task:
    """Put the task in the queue, as any rule may that makes tasks: whether it may be there is the caller's to
    decide before (see `full`), and that no task has its id. With a `wait` no node ever gets it: it is the
    state machine's own, which ends it, and may hold `more_bytes` for it."""
    task = _new_task(state, command, moment.at_ms)
    if command.forked_from:
        task, detail = evolve(task, forked_from=command.forked_from), f"forked from {command.forked_from}"
    if wait is not None:
        held_now = task.bytes_held + more_bytes
        changes = {"wait": wait, "bytes_held": held_now, "started_at_ms": moment.at_ms}
        task = evolve(task, state=TaskState.WAITING, **changes)
    task = _enter(state, task, command.steps)
    state.outbox.append(Event("submitted", task, moment.index, moment.at_ms, detail))
    return task


def _enter(state: ClusterState, task: Task, steps: tuple[Step, ...]) -> Task:
    state.meta = evolve(state.meta, order=task.order)
    if steps:
        state.steps[task.task_id] = StepLog(steps)
    task = state.indexes.shared(task)
    add_task(state, task)
    return task


# --- refusals


def _bytes(command: SubmitTask) -> int:
    return held(command.payload) + sum(held(step.result) + STEP_OVERHEAD_BYTES for step in command.steps)


def _orphan(state: ClusterState, command: SubmitTask) -> Rejected | None:
    if not command.parent_id:
        return None
    parent = state.tasks.get(command.parent_id)
    if parent is None or parent.tenant != command.tenant:  # in the same words: who asks learns nothing
        return Rejected("PARENT_ENDED", f"no live task {command.parent_id} of this tenant to be the parent")
    if parent.cancel_requested:
        return Rejected("PARENT_ENDED", f"task {command.parent_id}, the parent, is being cancelled")
    if parent.task_id in state.runs and place_of(parent.task_id, command.task_id) is not None:
        # Its end would be taken for the answer of the node.
        return Rejected("TASK_EXISTS", f"{command.task_id} is the id of a task that the run itself may make")
    return None


def unskilled(state: ClusterState, command: SubmitTask) -> Rejected | None:
    """Its skill, or the agent on whose behalf it shall run, does not allow it."""
    entry = state.skillbook.get(command.type)
    if entry is not None:
        refused = refusal(entry, command.task_id, command.agent, command.constraints.skill_version)
        if refused is not None:
            return Rejected(*refused)
    return _beyond_its_agent(state, command) if command.agent and state.agents else None


def _beyond_its_agent(state: ClusterState, command: SubmitTask) -> Rejected | None:
    """A task may set aside no GPUs that the agent may not have on whose behalf it runs."""
    wanted = _bound(state, command)
    gpus = wanted.gpus or int(wanted.require_gpu)
    pledge = pledge_for(state, command.agent, command.parent_id) if gpus else None
    if pledge is None or gpus <= pledge.gpus:
        return None
    reason = f"agent {command.agent} may use {pledge.gpus} GPUs (agent.permissions), {gpus} are wanted"
    return Rejected("AGENT_FORBIDS", reason)


def pending_max(state: ClusterState, tenant: str) -> int:
    """How many unfinished tasks that no node holds a tenant may have."""
    policy, own = state.meta.policy, state.tenants.get(tenant)
    if own is not None and own.pending_tasks_max:
        return min(own.pending_tasks_max, policy.pending_tasks_max)
    return policy.pending_tasks_max * (policy.tenant_pending_percent or PERCENT) // PERCENT


def full(state: ClusterState, tenant: str, more_bytes: int) -> Rejected | None:
    """Why the queue takes no further task of that tenant, with so many inline bytes; None: it does."""
    policy, indexes = state.meta.policy, state.indexes
    queued, of_tenant = indexes.queued, indexes.queued_of(tenant)
    if queued >= policy.pending_tasks_max:
        return Rejected("QUEUE_FULL", f"{queued} tasks are pending, the limit is {policy.pending_tasks_max}")
    if of_tenant >= pending_max(state, tenant):
        limit = pending_max(state, tenant)
        return Rejected("TENANT_QUOTA", f"{of_tenant} tasks of {tenant} are pending, the limit is {limit}")
    if indexes.live_bytes + more_bytes > policy.live_bytes_max:
        return Rejected(
            "QUEUE_FULL",
            f"live tasks hold {indexes.live_bytes} bytes, the limit is {policy.live_bytes_max}",
        )
    return None


# --- the task


def _new_task(state: ClusterState, command: SubmitTask, at_ms: int) -> Task:
    start_at_ms = later_ms(at_ms, command.start_delay_ms) if command.start_delay_ms > 0 else 0
    own_deadline = later_ms(at_ms, command.deadline_after_ms) if command.deadline_after_ms else 0
    return make(
        Task,
        task_id=command.task_id,
        order=state.meta.order + 1,
        tenant=command.tenant,
        type=command.type,
        payload=command.payload,
        priority=command.priority,
        retry=command.retry,
        created_at_ms=at_ms,
        request_id=command.request_id,
        attempt_timeout_ms=command.attempt_timeout_ms,
        deadline_at_ms=_earlier(own_deadline, _deadline_of(state, command.parent_id)),
        checkpointing=command.checkpointing,
        labels=command.labels,
        constraints=_bound(state, command),
        start_at_ms=start_at_ms,
        not_before_ms=start_at_ms,
        sequence=1,
        version=1,
        bytes_held=_bytes(command),
        key=command.key,
        agent=command.agent,
        parent_id=command.parent_id,
        retry_of=command.retry_of,
        step_count=len(command.steps),
    )


def _bound(state: ClusterState, command: SubmitTask) -> Constraints:
    """A task of a published skill keeps the revision it gets now; a run sets aside what its agent wants."""
    entry, wanted = state.skillbook.get(command.type), command.constraints
    if command.agent and command.type == AGENT_TYPE and not wanted.memory_bytes:
        pledge = pledge_for(state, command.agent, command.parent_id)
        if pledge is not None and pledge.memory_bytes:
            wanted = replace(wanted, memory_bytes=pledge.memory_bytes)
    return wanted if entry is None else pinned(entry, command.task_id, wanted)


def _deadline_of(state: ClusterState, parent_id: TaskId) -> int:
    """That of its parent. What undoes a run has none: the deadline may be what the run failed of."""
    parent, run = state.tasks.get(parent_id) if parent_id else None, state.runs.get(parent_id)
    if run is not None and run.head.phase is Phase.UNDOING:
        return 0
    return parent.deadline_at_ms if parent is not None else 0


def _earlier(one_ms: int, other_ms: int) -> int:
    """The earlier of two times, of which 0 is none."""
    return min(one_ms, other_ms) if one_ms and other_ms else one_ms or other_ms


# --- new runs


def replay(state: ClusterState, command: ReplayTask, moment: Moment) -> Outcome:
    letter = state.dead_letters.get(command.task_id)
    source = letter.task if letter is not None else state.finished.get(command.task_id)
    tenant = source.tenant if source is not None else ""
    key = f"{tenant}/{command.request_id}"
    known = _replayed(state, command, key)
    if known is not None:
        return known
    if source is None:
        return _no_source(state, command.task_id)
    steps = letter.steps if letter is not None and command.keep_steps else ()
    refused = _replay_refused(state, command, source, steps)
    if refused is not None:
        return refused
    if command.request_id:
        remember(state, key, command.digest, command.new_task_id, moment)
    else:
        forget_old(state, moment)
    if letter is not None:
        unbury(state, command.task_id)
    task = _enter(state, _new_run(state, source, command.new_task_id, steps, moment.at_ms), steps)
    state.outbox.append(
        Event("submitted", task, moment.index, moment.at_ms, f"a new run of {source.task_id}")
    )
    return Accepted(task.task_id)


def _replayed(state: ClusterState, command: ReplayTask, key: str) -> Outcome | None:
    """What the same request was told: also when its task was still waiting then, and was hurried."""
    if not command.request_id:
        return None
    hurried = answered(state, key_of_control(command.task_id, command.request_id), command.digest)
    return hurried or answered(state, key, command.digest)


def _no_source(state: ClusterState, task_id: TaskId) -> Rejected:
    if task_id in state.tasks:
        return Rejected("TASK_LIVE", f"task {task_id} has not ended")
    return Rejected("TASK_NOT_FOUND", f"no dead letter and no recently ended task {task_id}")


def _replay_refused(
    state: ClusterState, command: ReplayTask, source: Task, steps: tuple[Step, ...]
) -> Rejected | None:
    if source.type == WORKFLOW:
        return Rejected("IS_A_RUN", f"task {source.task_id} is a run of a workflow; retry it as one")
    if source.state is TaskState.SUCCEEDED or source.state not in TERMINAL:
        return Rejected("TASK_SUCCEEDED", f"task {source.task_id} has succeeded; submit a new one")
    if state.is_taken(command.new_task_id) or not command.new_task_id:
        return Rejected("TASK_EXISTS", f"task {command.new_task_id} exists already")
    if command.keep_steps and len(steps) < source.step_count:
        text = f"only the history has the {source.step_count} steps of {source.task_id}"
        return Rejected("STEPS_ELSEWHERE", text)
    return full(state, source.tenant, held(source.payload) + _bytes_of(steps))


def _bytes_of(steps: tuple[Step, ...]) -> int:
    return sum(held(step.result) + STEP_OVERHEAD_BYTES for step in steps)


def _new_run(state: ClusterState, source: Task, task_id: TaskId, steps: tuple[Step, ...], at_ms: int) -> Task:
    """The same task again: it has the time the first run had, and its parent while that lives."""
    parent_id = source.parent_id if source.parent_id in state.tasks else NO_PARENT
    allowed_ms = source.deadline_at_ms - source.created_at_ms if source.deadline_at_ms else 0
    own_deadline = later_ms(at_ms, allowed_ms) if allowed_ms else 0
    return make(
        Task,
        task_id=task_id,
        order=state.meta.order + 1,
        tenant=source.tenant,
        type=source.type,
        payload=source.payload,
        priority=source.priority,
        retry=source.retry,
        created_at_ms=at_ms,
        attempt_timeout_ms=source.attempt_timeout_ms,
        deadline_at_ms=_earlier(own_deadline, _deadline_of(state, parent_id)),
        checkpointing=source.checkpointing,
        labels=source.labels,
        constraints=source.constraints,
        sequence=1,
        version=1,
        bytes_held=held(source.payload) + _bytes_of(steps),
        key=source.key,
        agent=source.agent,
        parent_id=parent_id,
        retry_of=source.task_id,
        step_count=len(steps),
    )


def purge(state: ClusterState, command: PurgeDeadLetters, moment: Moment) -> Outcome:
    """`task_id` of the answer stays empty: how many went is the difference of the lists."""
    named = frozenset(command.task_ids)
    for task_id in list(state.indexes.dead_of(command.tenant)):
        ended_at_ms = state.dead_letters[task_id].task.finished_at_ms
        if task_id in named or ended_at_ms < command.before_ms:
            unbury(state, task_id)
    return Accepted()
