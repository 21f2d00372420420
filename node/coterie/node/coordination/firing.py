"""The leader's part of schedules: which nominal times have come, and what to propose about them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice, takewhile

from coterie.core.commands import AdvanceClock, Command
from coterie.core.coordination.commands import FireSchedule
from coterie.core.coordination.nouns import FireKind, Misfire, Schedule
from coterie.core.state import ClusterState
from coterie.node.coordination.timing import BadTiming, times_after

COMMANDS_MAX = 128
PUNCTUAL_MS = 5_000  # a time that is no later than this has not been missed, whatever the misfire policy
LOOKED_THROUGH_MAX = 1_000  # times that are looked at in one go, of all schedules: each costs up to 15 us
LOOKS_MAX = 50  # schedules whose next time is found in one go: one can cost a millisecond


class Firing:
    """Looks at schedules anew when one of them has changed, else only at the clock."""

    def __init__(self) -> None:
        self._version = -1
        self._seen: dict[str, tuple[Schedule, int]] = {}  # with its next time; 0: none
        self._waiting: dict[str, Schedule] = {}  # with runs that wait for others
        self._last = ""  # the schedule whose orders were the last that had room
        self.more = False  # than the last plan had room for
        self.next_ms = 0  # 0: nothing comes

    def look(self, state: ClusterState) -> bool:
        """Find the next times of schedules that have changed: of some of them. Whether there are more."""
        if state.meta.schedules_version == self._version:
            return False
        seen: dict[str, tuple[Schedule, int]] = {}
        looks = 0
        for key, schedule in state.schedules.items():
            known = self._seen.get(key)
            if known is not None and known[0] is schedule:
                seen[key] = known
            elif looks < LOOKS_MAX:
                seen[key] = schedule, _next(schedule)
                looks += 1
            else:
                looks += 1
        self._seen = seen
        if looks > LOOKS_MAX:
            return True
        self._version = state.meta.schedules_version
        self._waiting = {key: schedule for key, schedule in state.schedules.items() if schedule.queued}
        self.next_ms = min((at_ms for _, at_ms in seen.values() if at_ms), default=0)
        return False

    def plan(self, state: ClusterState, now_ms: int) -> list[Command]:
        """What to propose now: the clock first, so that what is due here is due there."""
        while self.look(state):
            pass
        orders = self._orders(state, now_ms)
        return [AdvanceClock(now_ms), *orders] if orders else []

    def earlier(self, due_ms: int) -> int:
        """The earlier of a time and the next nominal one; 0 is none."""
        return min(due_ms or self.next_ms, self.next_ms or due_ms)

    def _orders(self, state: ClusterState, now_ms: int) -> list[Command]:
        """Of all schedules in turn: where there is not room for all of them, the next look begins behind the
        last one. What is refused, as by a full queue, comes again and again, and keeps no other from it."""
        orders: list[Command] = []
        looks = LOOKED_THROUGH_MAX
        for key in self._turns(now_ms):
            schedule, next_ms = self._seen[key]
            orders += _queued(state, schedule)
            if 0 < next_ms <= now_ms:
                come = takewhile(lambda at_ms: at_ms <= now_ms, _times(schedule))
                times = list(islice(come, looks + 1))
                orders += _due(schedule, times[:looks], now_ms, more=len(times) > looks)
                looks -= len(times)
            if looks <= 0 or len(orders) >= COMMANDS_MAX:
                self._last, self.more = key, True
                return orders[:COMMANDS_MAX]
        self.more = False
        return orders

    def _turns(self, now_ms: int) -> list[str]:
        """Schedules for which something may be to be done."""
        found = dict.fromkeys(self._waiting)
        if self.next_ms and self.next_ms <= now_ms:
            found.update({key: None for key, (_, next_ms) in self._seen.items() if 0 < next_ms <= now_ms})
        ordered = sorted(found)
        first = bisect_right(ordered, self._last)
        return ordered[first:] + ordered[:first]


def _next(schedule: Schedule) -> int:
    if schedule.paused:
        return 0
    return next(_times(schedule), 0)


def _times(schedule: Schedule) -> Iterator[int]:
    try:
        yield from times_after(schedule.plan, schedule.created_at_ms, schedule.last_nominal_ms)
    except BadTiming:  # a zone that this node does not know: another leader may
        return


def _queued(state: ClusterState, schedule: Schedule) -> list[Command]:
    """The run that waits, when those that it waits for are over."""
    if not schedule.queued or schedule.paused or any(task_id in state.tasks for task_id in schedule.runs):
        return []
    return [_order(schedule, schedule.queued[0], FireKind.QUEUED)]


def _due(schedule: Schedule, times: list[int], now_ms: int, *, more: bool) -> Iterator[Command]:
    """Times that have come, with those that are given up, in order. `more`: later ones have come too."""
    wanted = _wanted(schedule, times, now_ms, more)
    missed = 0
    for at_ms in times:
        if at_ms in wanted:
            yield _order(schedule, at_ms, FireKind.TICK, missed)
            missed = 0
        else:
            missed += 1
    if missed:
        yield _order(schedule, times[-1], FireKind.PASS, missed - 1)


def _wanted(schedule: Schedule, times: list[int], now_ms: int, more: bool) -> set[int]:
    """Those that fire: what is on time always, what is late as the misfire policy says."""
    plan = schedule.plan
    late = [at_ms for at_ms in times if at_ms < now_ms - PUNCTUAL_MS]
    on_time = set(times) - set(late)
    in_window = [at_ms for at_ms in late if at_ms >= now_ms - plan.catch_up_ms]
    if plan.misfire is Misfire.FIRE_ALL:
        return on_time | set(in_window)
    if plan.misfire is Misfire.FIRE_ONCE and not on_time:
        return set() if more else set(in_window[-1:])
    return on_time


def _order(schedule: Schedule, nominal_ms: int, kind: FireKind, missed: int = 0) -> FireSchedule:
    return FireSchedule(schedule.tenant, schedule.schedule_id, schedule.number, nominal_ms, kind, missed)
