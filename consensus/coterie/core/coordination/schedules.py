"""Rules of schedules: whose time has come is said by the leader, that it comes once is seen to here.

Invariants: `last_nominal_ms` only grows, so a nominal time fires or is given up once, whoever leads and
whatever its clock says; the id of the task of a nominal time follows from the schedule's number and that
time; no time fires before the cluster's clock has reached it; a paused schedule fires nothing."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.bounds64 import within
from coterie.core.commands import Accepted, Outcome, Rejected, SubmitTask
from coterie.core.coordination import bounds
from coterie.core.coordination.answers import name_fault
from coterie.core.coordination.commands import (
    ApplySchedule,
    DeleteSchedule,
    FireSchedule,
    PauseSchedule,
    RunSchedule,
)
from coterie.core.coordination.look_ups import name_key
from coterie.core.coordination.nouns import FireKind, Overlap, Schedule
from coterie.core.lifecycle import cancel_task
from coterie.core.nouns import Label, TaskId, evolve
from coterie.core.state import ClusterState, Moment
from coterie.core.submit_rules import submit

SCHEDULE_LABEL, NOMINAL_LABEL = "coterie.schedule", "coterie.nominal_ms"
ID_CHARS_MAX = 64  # the ids of its tasks are longer


def apply_schedule(state: ClusterState, command: ApplySchedule, moment: Moment) -> Outcome:
    """Make it, or change it. `number` of the answer is its version."""
    key = name_key(command.tenant, command.schedule_id)
    before = state.schedules.get(key)
    refused = _fault(state, command, before)
    if refused is not None:
        return refused
    if before is not None and (before.plan, before.template) == (command.plan, command.template):
        return Accepted(duplicate=True, number=before.version)
    version = state.meta.schedules_version + 1
    if before is None:
        after = Schedule(
            tenant=command.tenant,
            schedule_id=command.schedule_id,
            plan=command.plan,
            template=command.template,
            number=version,
            version=version,
            created_at_ms=moment.at_ms,
            last_nominal_ms=moment.at_ms,
        )
    else:
        moved = before.plan != command.plan  # times of the new plan that lie behind us are none of it
        last_ms = max(before.last_nominal_ms, moment.at_ms) if moved else before.last_nominal_ms
        after = replace(before, plan=command.plan, template=command.template, last_nominal_ms=last_ms)
    _store(state, after)
    return Accepted(number=version)


def _fault(state: ClusterState, command: ApplySchedule, before: Schedule | None) -> Rejected | None:
    plan, found = command.plan, before.version if before is not None else 0
    refused = name_fault("tenant", command.tenant, bounds.NAME_CHARS_MAX)
    refused = refused or name_fault("schedule_id", command.schedule_id, ID_CHARS_MAX)
    if refused is not None:
        return refused
    if bool(plan.cron) == (plan.interval_ms > 0) or plan.interval_ms < 0 or plan.catch_up_ms < 0:
        return Rejected("BAD_SCHEDULE", "cron or interval_ms, not both; catch_up_ms is not negative")
    if len(plan.cron) > bounds.NAME_CHARS_MAX or not command.template.type:
        return Rejected("BAD_SCHEDULE", "the cron text is too long, or the task has no type")
    if len(command.template.payload.inline) > bounds.TEMPLATE_BYTES_MAX:
        return Rejected("BAD_SCHEDULE", f"the payload has at most {bounds.TEMPLATE_BYTES_MAX} bytes")
    if command.expected_version not in (-1, found):
        text = f"schedule {command.schedule_id} is at version {found}, not {command.expected_version}"
        return Rejected("VERSION_MISMATCH", text)
    if before is None:
        of_tenant = sum(one.tenant == command.tenant for one in state.schedules.values())
        if of_tenant >= bounds.SCHEDULES_MAX or len(state.schedules) >= bounds.ALL_SCHEDULES_MAX:
            return Rejected("TOO_MANY_SCHEDULES", f"a tenant has at most {bounds.SCHEDULES_MAX} schedules")
    return None


def delete_schedule(state: ClusterState, command: DeleteSchedule, moment: Moment) -> Outcome:
    """Its runs go on."""
    if state.schedules.pop(name_key(command.tenant, command.schedule_id), None) is None:
        return _not_found(command.schedule_id)
    state.meta = evolve(state.meta, schedules_version=state.meta.schedules_version + 1)
    state.coordination.changed.add("schedule")
    return Accepted()


def pause_schedule(state: ClusterState, command: PauseSchedule, moment: Moment) -> Outcome:
    schedule = state.schedules.get(name_key(command.tenant, command.schedule_id))
    if schedule is None:
        return _not_found(command.schedule_id)
    if schedule.paused == command.paused:
        return Accepted(duplicate=True, number=schedule.version)
    last_ms = schedule.last_nominal_ms if command.paused else max(schedule.last_nominal_ms, moment.at_ms)
    reason = command.reason[: bounds.NAME_CHARS_MAX] if command.paused else ""
    _store(state, replace(schedule, paused=command.paused, pause_reason=reason, last_nominal_ms=last_ms))
    return Accepted(number=state.meta.schedules_version)


def fire(state: ClusterState, command: FireSchedule, moment: Moment) -> Outcome:
    schedule = state.schedules.get(name_key(command.tenant, command.schedule_id))
    if schedule is None or schedule.number != command.number:
        return _not_found(command.schedule_id)
    if schedule.paused:
        return Rejected("SCHEDULE_PAUSED", f"schedule {command.schedule_id} is paused")
    if command.nominal_ms > moment.at_ms:
        return Rejected("NOT_DUE", f"it is not yet {command.nominal_ms} ms on the cluster's clock")
    runs = tuple(task_id for task_id in schedule.runs if task_id in state.tasks)
    schedule = replace(schedule, runs=runs)
    if command.kind is FireKind.QUEUED:
        return _fire_queued(state, schedule, command, moment)
    if command.nominal_ms <= schedule.last_nominal_ms:
        return Accepted(duplicate=True)
    missed = within(schedule.missed + max(0, command.missed))
    schedule = replace(schedule, last_nominal_ms=command.nominal_ms, missed=missed)
    if command.kind is FireKind.PASS:
        _store(state, replace(schedule, missed=within(missed + 1)))
        return Accepted()
    return _tick(state, schedule, command.nominal_ms, moment)


def _tick(state: ClusterState, schedule: Schedule, nominal_ms: int, moment: Moment) -> Outcome:
    overlap, busy = schedule.plan.overlap, bool(schedule.runs)
    if busy and overlap is Overlap.SKIP:
        _store(state, replace(schedule, skipped=schedule.skipped + 1))
        return Accepted()
    if overlap is Overlap.QUEUE and (busy or schedule.queued):
        queued = (*schedule.queued, nominal_ms)
        dropped = len(queued) > bounds.RUNS_MAX
        queued = queued[-bounds.RUNS_MAX :]
        _store(state, replace(schedule, queued=queued, missed=within(schedule.missed + dropped)))
        return Accepted()
    before = schedule.runs
    outcome = _run(state, schedule, nominal_ms, f"{nominal_ms}", moment)
    if isinstance(outcome, Accepted) and overlap is Overlap.CANCEL_PREVIOUS:
        for task in [state.tasks[task_id] for task_id in before if task_id in state.tasks]:
            cancel_task(state, task, f"the next run of schedule {schedule.schedule_id} begins", moment)
    return outcome


def _fire_queued(state: ClusterState, schedule: Schedule, command: FireSchedule, moment: Moment) -> Outcome:
    if not schedule.queued or schedule.queued[0] != command.nominal_ms:
        return Accepted(duplicate=True)
    if schedule.runs:
        return Rejected("STILL_RUNNING", "an earlier run is not over")
    waiting = replace(schedule, queued=schedule.queued[1:])
    return _run(state, waiting, command.nominal_ms, f"{command.nominal_ms}", moment)


def _run(state: ClusterState, schedule: Schedule, nominal_ms: int, name: str, moment: Moment) -> Outcome:
    """Submit it. When the queue takes nothing now the time is not over: the leader tries again."""
    task = _task(schedule, nominal_ms, name)
    outcome = submit(state, task, moment)
    if isinstance(outcome, Rejected) and outcome.code != "TASK_EXISTS":
        return outcome
    runs = (*schedule.runs, task.task_id)[-bounds.RUNS_MAX :]
    _store(state, replace(schedule, runs=runs, fired=schedule.fired + 1, last_task_id=task.task_id))
    return Accepted(task.task_id)


def _task(schedule: Schedule, nominal_ms: int, name: str) -> SubmitTask:
    template = schedule.template
    marks = (Label(NOMINAL_LABEL, str(nominal_ms)), Label(SCHEDULE_LABEL, schedule.schedule_id))
    return SubmitTask(
        task_id=TaskId(f"{schedule.schedule_id}.{schedule.number}.{name}"),
        tenant=schedule.tenant,
        type=template.type,
        payload=template.payload,
        priority=template.priority,
        retry=template.retry,
        request_id=f"schedule/{schedule.schedule_id}/{schedule.number}/{name}",
        attempt_timeout_ms=template.attempt_timeout_ms,
        deadline_after_ms=template.deadline_after_ms,
        checkpointing=template.checkpointing,
        labels=(*template.labels, *marks),
        constraints=template.constraints,
        key=template.key,
        agent=template.agent,
    )


def run(state: ClusterState, command: RunSchedule, moment: Moment) -> Outcome:
    """Outside of its times, whatever else runs. When the queue fills on the way, the same command again goes
    on where it stopped. `number` of the answer: how many runs there are by it."""
    schedule = state.schedules.get(name_key(command.tenant, command.schedule_id))
    if schedule is None:
        return _not_found(command.schedule_id)
    if not command.run_id or len(command.nominals) > bounds.NOMINALS_MAX:
        return Rejected("BAD_SCHEDULE", f"a run has an id; at most {bounds.NOMINALS_MAX} times at once")
    last = TaskId("")
    for nominal_ms in command.nominals or (moment.at_ms,):
        schedule = state.schedules[name_key(command.tenant, command.schedule_id)]
        name = f"{nominal_ms}.{command.run_id}" if command.nominals else command.run_id
        last = TaskId(f"{schedule.schedule_id}.{schedule.number}.{name}")
        if last in schedule.runs or state.is_taken(last):
            continue
        outcome = _run(state, schedule, nominal_ms, name, moment)
        if isinstance(outcome, Rejected):
            return outcome
    return Accepted(last, number=len(command.nominals) or 1)


def _not_found(schedule_id: str) -> Rejected:
    return Rejected("SCHEDULE_NOT_FOUND", f"no schedule {schedule_id}")


def _store(state: ClusterState, schedule: Schedule) -> None:
    version = state.meta.schedules_version + 1
    state.meta = evolve(state.meta, schedules_version=version)
    state.schedules[name_key(schedule.tenant, schedule.schedule_id)] = replace(schedule, version=version)
    state.coordination.changed.add("schedule")
