"""The Schedules service: tasks by the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice

from coterie.core.commands import Rejected, SubmitTask
from coterie.core.coordination.bounds import NOMINALS_MAX, TEMPLATE_BYTES_MAX
from coterie.core.coordination.commands import ApplySchedule, DeleteSchedule, PauseSchedule, RunSchedule
from coterie.core.coordination.look_ups import name_key
from coterie.core.coordination.nouns import Misfire, Overlap, Schedule, SchedulePlan, TaskTemplate
from coterie.core.nouns import Task, TaskId, make
from coterie.node import convert
from coterie.node.admission import DURATION_MS_MAX, Admission, request_id_faults
from coterie.node.coordination import timing
from coterie.node.coordination.desk import (
    Desk,
    accepted,
    check,
    mismatch,
    not_there,
    range_faults,
    schedule_faults,
)
from coterie.node.errors import Violation, invalid
from coterie.node.rpc import Context, Gate, seconds_left, unary
from coterie.node.skillset import known_skills
from coterie.v1 import schedules_pb2, schedules_pb2_grpc, tasks_pb2

CATCH_UP_MS = 3_600_000
INTERVAL_MS_MIN = 1_000
SHOWN = 3  # next times
TURN = 20  # schedules shown in one go
_FOREIGN = ("task_id", "parent_task", "start_delay_ms")


class SchedulesService(schedules_pb2_grpc.SchedulesServicer):
    """Applying what is applied already changes nothing."""

    def __init__(
        self, desk: Desk, gate: Gate, admission: Admission, local_skills: Callable[[], frozenset[str]]
    ) -> None:
        self._desk, self.gate = desk, gate
        self._admission, self._local_skills = admission, local_skills

    @unary
    async def ApplySchedule(
        self, request: schedules_pb2.ApplyScheduleRequest, context: Context
    ) -> schedules_pb2.Schedule:
        given = request.schedule
        wrong = schedule_faults(given.schedule_id, "schedule.schedule_id")
        tenant = check(request.parent, wrong, _plan_faults(given), _task_faults(given.task))
        plan = _plan(given)
        template = await self._desk.reader.confirmed(
            lambda: self._template(request.parent, given.task), seconds_left(context)
        )
        if request.validate_only:
            return self._preview(given, plan)
        expected = request.expected_version if request.HasField("expected_version") else -1
        command = ApplySchedule(tenant, given.schedule_id, plan, template, expected)
        outcome = await self._desk.propose(command, context)
        if isinstance(outcome, Rejected) and outcome.code == "VERSION_MISMATCH":
            known = self._desk.state().schedules.get(name_key(tenant, given.schedule_id))
            raise mismatch(outcome, known.version if known is not None else 0)
        accepted(outcome)
        return self._answer(tenant, given.schedule_id)

    @unary
    async def GetSchedule(
        self, request: schedules_pb2.GetScheduleRequest, context: Context
    ) -> schedules_pb2.Schedule:
        tenant = check(request.parent, schedule_faults(request.schedule_id))
        await self._desk.look(context)
        return self._answer(tenant, request.schedule_id)

    @unary
    async def ListSchedules(
        self, request: schedules_pb2.ListSchedulesRequest, context: Context
    ) -> schedules_pb2.ListSchedulesResponse:
        tenant = check(request.parent)
        await self._desk.look(context)
        known = self._desk.state().schedules.values()
        mine = sorted((one for one in known if one.tenant == tenant), key=lambda one: one.schedule_id)
        found = []
        for place, one in enumerate(mine):
            if place % TURN == TURN - 1:
                await asyncio.sleep(0)  # next times are worked out: a few of them cost milliseconds
            found.append(self._to_pb(one))
        return schedules_pb2.ListSchedulesResponse(schedules=found)

    @unary
    async def DeleteSchedule(
        self, request: schedules_pb2.DeleteScheduleRequest, context: Context
    ) -> schedules_pb2.DeleteScheduleResponse:
        tenant = check(request.parent, schedule_faults(request.schedule_id))
        await self._desk.commit(DeleteSchedule(tenant, request.schedule_id), context)
        return schedules_pb2.DeleteScheduleResponse()

    @unary
    async def PauseSchedule(
        self, request: schedules_pb2.PauseScheduleRequest, context: Context
    ) -> schedules_pb2.Schedule:
        tenant = check(request.parent, schedule_faults(request.schedule_id))
        await self._desk.commit(PauseSchedule(tenant, request.schedule_id, True, request.reason), context)
        return self._answer(tenant, request.schedule_id)

    @unary
    async def ResumeSchedule(
        self, request: schedules_pb2.ResumeScheduleRequest, context: Context
    ) -> schedules_pb2.Schedule:
        tenant = check(request.parent, schedule_faults(request.schedule_id))
        await self._desk.commit(PauseSchedule(tenant, request.schedule_id, False), context)
        return self._answer(tenant, request.schedule_id)

    @unary
    async def TriggerSchedule(
        self, request: schedules_pb2.TriggerScheduleRequest, context: Context
    ) -> schedules_pb2.RunScheduleResponse:
        wrong = schedule_faults(request.schedule_id) + _run_id_faults(request.request_id)
        tenant = check(request.parent, wrong)
        run_id = request.request_id or self._desk.clock.new_id()
        outcome = await self._desk.commit(RunSchedule(tenant, request.schedule_id, run_id), context)
        return schedules_pb2.RunScheduleResponse(tasks=[outcome.task_id])

    @unary
    async def BackfillSchedule(
        self, request: schedules_pb2.BackfillScheduleRequest, context: Context
    ) -> schedules_pb2.RunScheduleResponse:
        wrong = schedule_faults(request.schedule_id) + _run_id_faults(request.request_id)
        wrong += range_faults("from_ms", request.from_ms, 0, timing.YEARS_MAX_MS)
        if request.to_ms <= request.from_ms:
            wrong.append(Violation("to_ms", f"{request.to_ms} is not after from_ms, {request.from_ms}"))
        tenant = check(request.parent, wrong)
        await self._desk.look(context)
        schedule = self._find(tenant, request.schedule_id)
        to_ms = min(request.to_ms, self._desk.time.now_ms())
        nominals = _times_between(schedule, request.from_ms, to_ms)
        if len(nominals) > NOMINALS_MAX:
            text = f"more than {NOMINALS_MAX} times are before it; do it in parts"
            raise invalid([Violation("to_ms", text)])
        if not nominals:
            return schedules_pb2.RunScheduleResponse()
        run_id = request.request_id or self._desk.clock.new_id()
        command = RunSchedule(tenant, request.schedule_id, run_id, tuple(nominals))
        last = (await self._desk.commit(command, context)).task_id
        first_part = last.split(".")[:2]
        tasks = [".".join([*first_part, str(at_ms), run_id]) for at_ms in nominals]
        return schedules_pb2.RunScheduleResponse(tasks=tasks)

    # --- inside

    def _template(self, parent: str, task: tasks_pb2.Task) -> TaskTemplate:
        """What is submitted, checked as if it were submitted now."""
        state = self._desk.state()
        request = tasks_pb2.SubmitTaskRequest(parent=parent, task=task)
        known = known_skills(state) | self._local_skills()
        return _template_of(self._admission.command(request, "template", known, state.nodes.keys()))

    def _find(self, tenant: str, schedule_id: str) -> Schedule:
        schedule = self._desk.state().schedules.get(name_key(tenant, schedule_id))
        if schedule is None:
            raise not_there("SCHEDULE", schedule_id)
        return schedule

    def _answer(self, tenant: str, schedule_id: str) -> schedules_pb2.Schedule:
        return self._to_pb(self._find(tenant, schedule_id))

    def _preview(self, given: schedules_pb2.Schedule, plan: SchedulePlan) -> schedules_pb2.Schedule:
        answer = schedules_pb2.Schedule()
        answer.CopyFrom(given)
        now_ms = self._desk.time.now_ms()
        del answer.next_ms[:]
        answer.next_ms.extend(islice(timing.times_after(plan, now_ms, now_ms), SHOWN))
        return answer

    def _to_pb(self, schedule: Schedule) -> schedules_pb2.Schedule:
        plan, now_ms = schedule.plan, self._desk.time.now_ms()
        after_ms = max(schedule.last_nominal_ms, now_ms)
        tasks = self._desk.state().tasks
        return schedules_pb2.Schedule(
            schedule_id=schedule.schedule_id,
            cron=plan.cron,
            interval_ms=plan.interval_ms,
            time_zone=plan.time_zone,
            begins_at_ms=plan.begins_at_ms,
            ends_at_ms=plan.ends_at_ms,
            overlap=int(plan.overlap),  # type: ignore[arg-type]
            misfire=int(plan.misfire),  # type: ignore[arg-type]
            catch_up_ms=plan.catch_up_ms,
            task=_task_to_pb(schedule),
            version=schedule.version,
            paused=schedule.paused,
            pause_reason=schedule.pause_reason,
            next_ms=[] if schedule.paused else _next_times(schedule, after_ms),
            last_nominal_ms=schedule.last_nominal_ms,
            last_task=schedule.last_task_id,
            running=[task_id for task_id in schedule.runs if task_id in tasks],
            queued_ms=schedule.queued,
            fired=schedule.fired,
            skipped=schedule.skipped,
            missed=schedule.missed,
        )


def _next_times(schedule: Schedule, after_ms: int) -> list[int]:
    try:
        return list(islice(timing.times_after(schedule.plan, schedule.created_at_ms, after_ms), SHOWN))
    except timing.BadTiming:  # a zone that this node does not know: others may
        return []


def _times_between(schedule: Schedule, from_ms: int, to_ms: int) -> list[int]:
    """One more than may run at once, at most."""
    plan, made_at_ms = schedule.plan, schedule.created_at_ms
    try:
        return timing.times_between(plan, made_at_ms, from_ms, to_ms, NOMINALS_MAX + 1)
    except timing.BadTiming as error:
        raise invalid([Violation(f"schedule.{error.field}", str(error))]) from error


def _run_id_faults(request_id: str) -> list[Violation]:
    """It becomes a part of the ids of tasks."""
    if all(letter.isalnum() or letter in "_-" for letter in request_id) and len(request_id) <= 36:
        return request_id_faults(request_id)
    text = f"{request_id[:80]!r}: use at most 36 letters, digits, _ and -"
    return [Violation("request_id", text)]


def _plan(given: schedules_pb2.Schedule) -> SchedulePlan:
    return SchedulePlan(
        cron=" ".join(given.cron.split()),
        interval_ms=given.interval_ms,
        time_zone=given.time_zone or "UTC",
        begins_at_ms=given.begins_at_ms,
        ends_at_ms=given.ends_at_ms,
        overlap=Overlap(given.overlap or int(Overlap.SKIP)),
        misfire=Misfire(given.misfire or int(Misfire.FIRE_ONCE)),
        catch_up_ms=given.catch_up_ms if given.HasField("catch_up_ms") else CATCH_UP_MS,
    )


def _plan_faults(given: schedules_pb2.Schedule) -> list[Violation]:
    wrong = []
    if bool(given.cron.strip()) == bool(given.interval_ms):
        wrong.append(Violation("schedule.cron", "give either cron or interval_ms"))
    if given.interval_ms:
        wrong += range_faults("schedule.interval_ms", given.interval_ms, INTERVAL_MS_MIN, DURATION_MS_MAX)
    for name in ("begins_at_ms", "ends_at_ms"):
        wrong += range_faults(f"schedule.{name}", getattr(given, name), 0, timing.YEARS_MAX_MS)
    wrong += range_faults("schedule.catch_up_ms", given.catch_up_ms, 0, DURATION_MS_MAX)
    wrong += range_faults("schedule.overlap", int(given.overlap), 0, max(Overlap))
    wrong += range_faults("schedule.misfire", int(given.misfire), 0, max(Misfire))
    if not wrong:
        try:
            timing.check(_plan(given))
        except timing.BadTiming as error:
            wrong.append(Violation(f"schedule.{error.field}", str(error)))
    return wrong


def _task_faults(task: tasks_pb2.Task) -> list[Violation]:
    wrong = [
        Violation(f"schedule.task.{name}", "is set at each run; leave it out")
        for name in _FOREIGN
        if getattr(task, name)
    ]
    if task.payload.HasField("blob"):
        wrong.append(Violation("schedule.task.payload", "is a blob; give it inline, or where to find it"))
    elif len(task.payload.inline) > TEMPLATE_BYTES_MAX:
        text = f"{len(task.payload.inline)} bytes, the limit is {TEMPLATE_BYTES_MAX}"
        wrong.append(Violation("schedule.task.payload", text))
    return wrong


def _template_of(command: SubmitTask) -> TaskTemplate:
    return TaskTemplate(
        type=command.type,
        payload=command.payload,
        priority=command.priority,
        retry=command.retry,
        attempt_timeout_ms=command.attempt_timeout_ms,
        deadline_after_ms=command.deadline_after_ms,
        checkpointing=command.checkpointing,
        labels=command.labels,
        constraints=command.constraints,
        key=command.key,
        agent=command.agent,
    )


def _task_to_pb(schedule: Schedule) -> tasks_pb2.Task:
    template = schedule.template
    task = make(
        Task,
        task_id=TaskId(""),
        order=0,
        tenant=schedule.tenant,
        type=template.type,
        payload=template.payload,
        priority=template.priority,
        retry=template.retry,
        created_at_ms=0,
        attempt_timeout_ms=template.attempt_timeout_ms,
        checkpointing=template.checkpointing,
        labels=template.labels,
        constraints=template.constraints,
        key=template.key,
        agent=template.agent,
    )
    message = convert.task_to_pb(task, with_payload=True, deadline_after_ms=template.deadline_after_ms)
    for name in ("name", "state", "create_time", "created_at"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)  # type: ignore[arg-type]
    return message
