"""Nominal times of schedules. The only file that knows cron: the language and the rules at changes of the
clock are those of Debian's cron, by cronsim."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from coterie.core.coordination.nouns import SchedulePlan

YEARS_MAX_MS = 4_102_444_800_000  # the year 2100: nothing is looked for beyond


class BadTiming(ValueError):
    """A schedule's times make no sense; `field` says which."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """Raises BadTiming."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        text = f"{name!r} is no time zone this node knows; use an IANA name such as Europe/Berlin"
        raise BadTiming("time_zone", text) from None


def check(plan: SchedulePlan) -> None:
    """Raises BadTiming for a plan that cannot be understood."""
    zone(plan.time_zone)
    if plan.cron:
        try:
            CronSim(plan.cron, datetime(2024, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            text = f"{plan.cron!r} is no cron expression ({error}); for example: 30 7 * * MON-FRI"
            raise BadTiming("cron", text) from error


def times_after(plan: SchedulePlan, made_at_ms: int, after_ms: int) -> Iterator[int]:
    """Nominal times later than `after_ms`, in order. `made_at_ms`: what an interval without a beginning
    counts from. A time that a clock going forward leaves out comes right after the gap; one that a clock
    going back repeats comes once, for jobs at fixed times, and each time for those that run every few minutes
    or hours."""
    begins_ms = plan.begins_at_ms or made_at_ms
    least_ms = max(after_ms, plan.begins_at_ms - 1)
    times = _cron(plan, least_ms) if plan.cron else _interval(begins_ms, plan.interval_ms, least_ms)
    last_ms = plan.ends_at_ms or YEARS_MAX_MS
    for at_ms in times:
        if at_ms > last_ms:
            return
        yield at_ms


def next_time(plan: SchedulePlan, made_at_ms: int, after_ms: int) -> int:
    """0: there is none."""
    return next(times_after(plan, made_at_ms, after_ms), 0)


def times_between(plan: SchedulePlan, made_at_ms: int, from_ms: int, to_ms: int, most: int) -> list[int]:
    """At most so many times from `from_ms` on and before `to_ms`."""
    found = []
    for at_ms in islice(times_after(plan, made_at_ms, from_ms - 1), most):
        if at_ms >= to_ms:
            break
        found.append(at_ms)
    return found


def _interval(begins_ms: int, interval_ms: int, after_ms: int) -> Iterator[int]:
    number = max(0, (after_ms - begins_ms) // interval_ms + 1)
    while True:
        yield begins_ms + number * interval_ms
        number += 1


def _cron(plan: SchedulePlan, after_ms: int) -> Iterator[int]:
    start = datetime.fromtimestamp(after_ms / 1000, zone(plan.time_zone))
    last_ms = after_ms
    try:
        for moment in CronSim(plan.cron, start):
            at_ms = int(moment.timestamp()) * 1000
            if at_ms > last_ms:  # two nominal times may fall on one moment when clocks change
                yield at_ms
                last_ms = at_ms
    except (CronSimError, OverflowError):
        return
