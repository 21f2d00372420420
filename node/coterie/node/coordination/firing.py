"""The leader's part of schedules: which nominal times have come, and what to propose about them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from coterie.core.commands import AdvanceClock, Command
from coterie.core.coordination.commands import FireSchedule
from coterie.core.coordination.nouns import FireKind, Misfire, Schedule
from coterie.core.state import ClusterState
from coterie.node.coordination.timing import BadTiming, times_after

COMMANDS_MAX = 128
PUNCTUAL_MS = 5_000  # a time that is no later than this has not been missed, whatever the misfire policy
LOOKED_THROUGH_MAX = 5_000  # missed times of one schedule that are looked at in one go


class Firing:
    """Looks at schedules anew when one of them has changed, else only at the clock."""

    def __init__(self) -> None:
        self._version = -1
        self._seen: dict[str, tuple[Schedule, int]] = {}  # with its next time; 0: none
        self._waiting: list[Schedule] = []  # with runs that wait for others
        self.next_ms = 0  # 0: nothing comes

    def plan(self, state: ClusterState, now_ms: int) -> list[Command]:
        """What to propose now: the clock first, so that what is due here is due there."""
        if not state.schedules and self._version == state.meta.schedules_version:
            return []
        if state.meta.schedules_version != self._version:
            self._look(state)
        orders = list(islice(self._orders(state, now_ms), COMMANDS_MAX))
        return [AdvanceClock(now_ms), *orders] if orders else []

    def earlier(self, due_ms: int) -> int:
        """The earlier of a time and the next nominal one; 0 is none."""
        return min(due_ms or self.next_ms, self.next_ms or due_ms)

    def _look(self, state: ClusterState) -> None:
        seen: dict[str, tuple[Schedule, int]] = {}
        for key, schedule in state.schedules.items():
            known = self._seen.get(key)
            fresh = known is None or known[0] is not schedule
            seen[key] = (schedule, _next(schedule)) if known is None or fresh else known
        self._seen, self._version = seen, state.meta.schedules_version
        self._waiting = [schedule for schedule in state.schedules.values() if schedule.queued]
        self.next_ms = min((at_ms for _, at_ms in seen.values() if at_ms), default=0)

    def _orders(self, state: ClusterState, now_ms: int) -> Iterator[Command]:
        for schedule in self._waiting:
            if not schedule.paused and not any(task_id in state.tasks for task_id in schedule.runs):
                yield _order(schedule, schedule.queued[0], FireKind.QUEUED)
        if self.next_ms and self.next_ms <= now_ms:
            for schedule, next_ms in self._seen.values():
                if 0 < next_ms <= now_ms:
                    yield from _due(schedule, now_ms)


def _next(schedule: Schedule) -> int:
    if schedule.paused:
        return 0
    return next(_times(schedule), 0)


def _times(schedule: Schedule) -> Iterator[int]:
    try:
        yield from times_after(schedule.plan, schedule.created_at_ms, schedule.last_nominal_ms)
    except BadTiming:  # a zone that this node does not know: another leader may
        return


def _due(schedule: Schedule, now_ms: int) -> Iterator[Command]:
    """Times that have come, with those that are given up, in order."""
    times: list[int] = []
    for at_ms in islice(_times(schedule), LOOKED_THROUGH_MAX):
        if at_ms > now_ms:
            break
        times.append(at_ms)
    wanted = _wanted(schedule, times, now_ms)
    missed = 0
    for at_ms in times:
        if at_ms in wanted:
            yield _order(schedule, at_ms, FireKind.TICK, missed)
            missed = 0
        else:
            missed += 1
    if missed:
        yield _order(schedule, times[-1], FireKind.PASS, missed - 1)


def _wanted(schedule: Schedule, times: list[int], now_ms: int) -> set[int]:
    """Those that fire: what is on time always, what is late as the misfire policy says."""
    plan = schedule.plan
    late = [at_ms for at_ms in times if at_ms < now_ms - PUNCTUAL_MS]
    on_time = set(times) - set(late)
    in_window = [at_ms for at_ms in late if at_ms >= now_ms - plan.catch_up_ms]
    if plan.misfire is Misfire.FIRE_ALL:
        return on_time | set(in_window)
    if plan.misfire is Misfire.FIRE_ONCE and not on_time:
        return set(in_window[-1:])
    return on_time


def _order(schedule: Schedule, nominal_ms: int, kind: FireKind, missed: int = 0) -> FireSchedule:
    return FireSchedule(schedule.tenant, schedule.schedule_id, schedule.number, nominal_ms, kind, missed)
