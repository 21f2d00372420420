"""Tasks by the clock: cron or interval, each nominal time once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Unpack

from coterie.client.connection import Connection
from coterie.client.job import Job
from coterie.client.rpc_errors import invalid
from coterie.client.spec import TaskOptions, TaskSpec, prepare
from coterie.client.units import Duration
from coterie.client.values import milliseconds, moment, moment_ms, new_request_id
from coterie.v1 import schedules_pb2

_OVERLAPS = {
    "skip": schedules_pb2.OVERLAP_SKIP,
    "queue": schedules_pb2.OVERLAP_QUEUE,
    "allow": schedules_pb2.OVERLAP_ALLOW,
    "cancel-previous": schedules_pb2.OVERLAP_CANCEL_PREVIOUS,
}
_MISFIRES = {
    "skip": schedules_pb2.MISFIRE_SKIP,
    "fire-once": schedules_pb2.MISFIRE_FIRE_ONCE,
    "fire-all": schedules_pb2.MISFIRE_FIRE_ALL,
}
_OVERLAP_NAMES = {value: name for name, value in _OVERLAPS.items()}
_MISFIRE_NAMES = {value: name for name, value in _MISFIRES.items()}


@dataclass(frozen=True, slots=True)
class Timing:
    """When a schedule fires.

    - `cron`: five fields, or six with seconds first; or `interval`, counted from `begins` or from its making.
    - `time_zone`: an IANA name. When clocks change, the rules are those of Debian's cron.
    - `overlap`: when an earlier run is not over: skip | queue | allow | cancel-previous.
    - `misfire`: what becomes of times at which nothing could fire: skip | fire-once | fire-all; those older
    than `catch_up` are never made up for."""

    cron: str = ""
    interval: Duration | None = None
    time_zone: str = "UTC"
    begins: datetime | None = None
    ends: datetime | None = None
    overlap: str = "skip"
    misfire: str = "fire-once"
    catch_up: Duration = "1h"

    def fill(self, into: schedules_pb2.Schedule) -> None:
        """Into a message. Raises InvalidRequest."""
        for name, value, known in (
            ("overlap", self.overlap, _OVERLAPS),
            ("misfire", self.misfire, _MISFIRES),
        ):
            if value not in known:
                raise invalid([(name, f"{value!r} is not one of {', '.join(known)}")])
        into.cron, into.time_zone = self.cron, self.time_zone
        into.interval_ms = milliseconds("interval", self.interval)
        into.begins_at_ms, into.ends_at_ms = moment_ms("begins", self.begins), moment_ms("ends", self.ends)
        into.overlap, into.misfire = _OVERLAPS[self.overlap], _MISFIRES[self.misfire]
        into.catch_up_ms = milliseconds("catch_up", self.catch_up)


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as it stands."""

    id: str
    timing: Timing
    type: str
    version: int
    paused: bool = False
    pause_reason: str = ""
    next: tuple[datetime, ...] = ()
    last: datetime | None = None
    last_task: str = ""
    running: tuple[str, ...] = ()
    queued: int = 0
    fired: int = 0
    skipped: int = 0
    missed: int = 0

    @classmethod
    def of(cls, raw: schedules_pb2.Schedule) -> ScheduleInfo:
        """The dataclass for a message."""
        timing = Timing(
            cron=raw.cron,
            interval=raw.interval_ms / 1000 if raw.interval_ms else None,
            time_zone=raw.time_zone,
            begins=moment(raw.begins_at_ms),
            ends=moment(raw.ends_at_ms),
            overlap=_OVERLAP_NAMES.get(raw.overlap, str(raw.overlap)),
            misfire=_MISFIRE_NAMES.get(raw.misfire, str(raw.misfire)),
            catch_up=raw.catch_up_ms / 1000,
        )
        return cls(
            id=raw.schedule_id,
            timing=timing,
            type=raw.task.type,
            version=raw.version,
            paused=raw.paused,
            pause_reason=raw.pause_reason,
            next=tuple(at for at in map(moment, raw.next_ms) if at is not None),
            last=moment(raw.last_nominal_ms),
            last_task=raw.last_task,
            running=tuple(raw.running),
            queued=len(raw.queued_ms),
            fired=raw.fired,
            skipped=raw.skipped,
            missed=raw.missed,
        )


ScheduleList = list[ScheduleInfo]  # inside Schedules `list` is a method
Jobs = list[Job]


class Schedules:
    """Tasks by the clock: `cluster.schedules`."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def apply(
        self,
        schedule_id: str,
        timing: Timing,
        *,
        type: str,
        payload: Any = None,
        validate_only: bool = False,
        **options: Unpack[TaskOptions],
    ) -> ScheduleInfo:
        """Makes the schedule, or changes it. `type`, `payload` and `options` are those of `submit_task`, and
        say what is submitted each time. `validate_only`: only check it, and say when it would fire."""
        connection = self._opened()
        spec = TaskSpec.of({"type": type, "payload": payload, **options})
        prepared = prepare(spec, connection.tenant)
        if prepared.blob is not None:
            raise invalid([("payload", "is too large for a schedule: give where to find it")])
        request = schedules_pb2.ApplyScheduleRequest(
            parent=f"tenants/{connection.tenant}", validate_only=validate_only
        )
        request.schedule.schedule_id = schedule_id
        timing.fill(request.schedule)
        request.schedule.task.CopyFrom(prepared.request.task)
        return ScheduleInfo.of(await connection.caller.unary(lambda e: e.schedules.ApplySchedule, request))

    async def get(self, schedule_id: str) -> ScheduleInfo:
        """Raises NotFound."""
        request = schedules_pb2.GetScheduleRequest(parent=self._parent, schedule_id=schedule_id)
        return ScheduleInfo.of(await self._opened().caller.unary(lambda e: e.schedules.GetSchedule, request))

    async def list(self) -> ScheduleList:
        """The tenant's schedules, by id."""
        request = schedules_pb2.ListSchedulesRequest(parent=self._parent)
        answer = await self._opened().caller.unary(lambda e: e.schedules.ListSchedules, request)
        return [ScheduleInfo.of(raw) for raw in answer.schedules]

    async def remove(self, schedule_id: str) -> None:
        """Runs that have begun go on. NotFound: there is no such schedule."""
        request = schedules_pb2.DeleteScheduleRequest(parent=self._parent, schedule_id=schedule_id)
        await self._opened().caller.delete(lambda e: e.schedules.DeleteSchedule, request)

    async def pause(self, schedule_id: str, reason: str = "") -> ScheduleInfo:
        """It fires no more until `resume`. Times in between are not made up for."""
        request = schedules_pb2.PauseScheduleRequest(
            parent=self._parent, schedule_id=schedule_id, reason=reason
        )
        return ScheduleInfo.of(
            await self._opened().caller.unary(lambda e: e.schedules.PauseSchedule, request)
        )

    async def resume(self, schedule_id: str) -> ScheduleInfo:
        """It fires again from now on."""
        request = schedules_pb2.ResumeScheduleRequest(parent=self._parent, schedule_id=schedule_id)
        return ScheduleInfo.of(
            await self._opened().caller.unary(lambda e: e.schedules.ResumeSchedule, request)
        )

    async def trigger(self, schedule_id: str, *, request_id: str = "") -> Job:
        """Runs it now, beside its times."""
        request = schedules_pb2.TriggerScheduleRequest(
            parent=self._parent, schedule_id=schedule_id, request_id=new_request_id(request_id)
        )
        answer = await self._opened().caller.unary(lambda e: e.schedules.TriggerSchedule, request)
        return self._job(answer.tasks[0])

    async def backfill(
        self, schedule_id: str, begin: datetime, end: datetime, *, request_id: str = ""
    ) -> Jobs:
        """Runs it for every time from `begin` on and before `end`, which lie in the past."""
        request = schedules_pb2.BackfillScheduleRequest(
            parent=self._parent,
            schedule_id=schedule_id,
            from_ms=moment_ms("begin", begin),
            to_ms=moment_ms("end", end),
            request_id=new_request_id(request_id),
        )
        answer = await self._opened().caller.unary(lambda e: e.schedules.BackfillSchedule, request)
        return [self._job(task_id) for task_id in answer.tasks]

    def _job(self, task_id: str) -> Job:
        return Job(self._opened(), self._opened().task_name(task_id))

    @property
    def _parent(self) -> str:
        return f"tenants/{self._opened().tenant}"
