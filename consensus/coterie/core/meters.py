"""Limits on calls: how much may be done per time in the whole cluster, without a commit for each call.

A node leases a slice of a limit's tokens and hands them out by itself until the lease ends; then it says how
many it spent, and the rest is free again. The state keeps for each slice how many tokens may have been spent
and until when at the latest: a sliding window over grants. For leases see C. Gray and D. Cheriton, "Leases:
an efficient fault-tolerant mechanism for distributed file cache consistency" (1989).

Invariant: in no period of the limit, by the cluster's clock, are more than `rate_count` tokens spent. Proof:
take a window of that length and the newest slice spent in it, granted at g. Every other slice spent in it
ended after g - period, so it was counted when the newest was granted, with no fewer tokens than were spent.

A node that dies spends nothing more; its slices count as spent whole until their lease is a period old."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from coterie.core.limits import Profile, counter_name
from coterie.core.quotas import Limit

LEASE_MS_MIN, LEASE_MS_MAX = 200, 5_000
LEASES_PER_PERIOD = 10  # about: a lease lasts so much of the period
SHARES = 4  # no slice is more than this part of the limit, so that other nodes find some left
SLICES_MAX = 256  # of one meter
MERGE = 64  # ended slices within this part of the period become one
METERS_MAX = 100_000
SWEEP = 2  # meters looked at for each new one


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens of a limit that were given to a node."""

    lease_id: str  # empty: it has ended, maybe together with others
    count: int  # no more than so many are spent of it
    until_ms: int  # of the cluster's clock: nothing is spent of it after that


@dataclass(frozen=True, slots=True)
class Meter:
    """The slices of a limit, or of one of the values it counts each for itself."""

    name: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class LeaseTokens:
    """Take a slice for a node: `count` at best, `minimum` at least. Proposed twice it takes once."""

    limit_id: str
    lease_id: str
    count: int
    minimum: int = 1
    tenant: str = ""
    agent: str = ""
    type: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class SettleTokens:
    """A lease has ended: so many of its tokens were spent, and no more will be."""

    meter: str
    lease_id: str
    spent: int


TABLES: tuple[tuple[str, type, Callable[[Any], str]], ...] = (("meters", Meter, lambda meter: meter.name),)


def lease_ms(limit: Limit) -> int:
    """How long a slice of the limit may be spent, from when it was asked for."""
    return max(LEASE_MS_MIN, min(LEASE_MS_MAX, limit.rate_period_ms // LEASES_PER_PERIOD))


def meter_name(limit: Limit, profile: Profile) -> str | None:
    """The meter of what has that profile; None: the limit does not count it."""
    return counter_name(limit, profile)


def counted(meter: Meter | None, limit: Limit, now_ms: int) -> tuple[Slice, ...]:
    """The slices that a grant of now could meet in one window."""
    if meter is None:
        return ()
    return tuple(one for one in meter.slices if one.until_ms > now_ms - limit.rate_period_ms)


def free_at_ms(slices: Iterable[Slice], limit: Limit, wanted: int) -> int:
    """When so many tokens are free, if nobody takes any before."""
    free = limit.rate_count - sum(one.count for one in slices)
    at_ms = 0
    for one in sorted(slices, key=lambda one: one.until_ms):
        if free >= wanted:
            break
        free, at_ms = free + one.count, one.until_ms + limit.rate_period_ms
    return at_ms


def settled(meter: Meter, limit: Limit, lease_id: str, spent: int, now_ms: int) -> Meter:
    """The meter after a lease has ended. Ended slices of one 64th of the period, by the clock, become one,
    which counts until the last of them: none counts for longer than that beyond its time."""
    kept: list[Slice] = []
    ended: list[Slice] = []
    for one in meter.slices:
        if one.lease_id == lease_id:
            one = Slice("", min(max(spent, 0), one.count), min(one.until_ms, now_ms))
        (kept if one.lease_id else ended).append(one)
    near_ms = max(1, limit.rate_period_ms // MERGE)
    merged: list[Slice] = []
    for one in sorted(ended, key=lambda one: one.until_ms):
        if merged and one.until_ms // near_ms == merged[-1].until_ms // near_ms:
            merged[-1] = replace(one, count=merged[-1].count + one.count)
        elif one.count:
            merged.append(one)
    return Meter(meter.name, (*merged, *kept))


def sweep(meters: OrderedDict[str, Meter], limits: dict[str, Limit], now_ms: int) -> None:
    """Forget meters of which nothing counts any more; those that were used longest ago come first."""
    for _ in range(SWEEP):
        name = next(iter(meters), None)
        if name is None:
            return
        limit = limits.get(name.partition("\0")[0])
        if limit is None or not counted(meters[name], limit, now_ms):
            del meters[name]
        else:
            meters.move_to_end(name)
