"""Which limits count a task, and when a rate limit has a token again: integers, on the cluster's clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from coterie.core.bounds64 import within
from coterie.core.quotas import Bucket, Limit

EACH = "*"
NS_PER_MS = 1_000_000
TENTH = 10
SWEEP = 2  # buckets looked at for each new one: forgetting is faster than making


class Profile(NamedTuple):
    """What limits look at."""

    tenant: str
    agent: str
    type: str
    key: str


def counter_name(limit: Limit, profile: Profile) -> str | None:
    """The counter, or bucket, of this limit that a task of that profile falls under; None: not counted."""
    wanted = (limit.tenant, limit.agent, limit.type, limit.key)
    parts = [limit.limit_id]
    for want, value in zip(wanted, profile, strict=True):
        if want == EACH:
            if not value:
                return None
            parts.append(value)
        elif want and want != value:
            return None
    return "\0".join(parts) if len(parts) > 1 else parts[0] + "\0"


def interval_ns(limit: Limit) -> int:
    """Time from one token to the next, rounded up."""
    burst = burst_of(limit)
    count = limit.rate_count if limit.burst else limit.rate_count - burst + 1
    return -(-limit.rate_period_ms * NS_PER_MS // count)


def burst_of(limit: Limit) -> int:
    """Tokens of a full bucket. Where nobody chose a burst, burst and refill together never exceed the count
    in any period."""
    return limit.burst or max(1, limit.rate_count // TENTH)


def tokens_at_ms(limit: Limit, bucket: Bucket | None, count: int = 1) -> int:
    """When the bucket has that many tokens (the generic cell rate algorithm, ITU-T I.371); -1: never."""
    burst = burst_of(limit)
    if count > burst:
        return -1
    if bucket is None:
        return 0
    at_ns = bucket.full_at_ns - (burst - count) * interval_ns(limit)
    return max(0, -(-at_ns // NS_PER_MS))


def take(buckets: OrderedDict[str, Bucket], limit: Limit, name: str, now_ms: int, count: int = 1) -> None:
    """Take tokens that are there. Full buckets that were used longest ago are forgotten on the way."""
    now_ns = now_ms * NS_PER_MS
    before = buckets.get(name)
    if before is None:
        _sweep(buckets, now_ns)
    full_at_ns = max(before.full_at_ns if before else 0, now_ns) + count * interval_ns(limit)
    buckets[name] = Bucket(name, within(full_at_ns))
    buckets.move_to_end(name)


def repaced(bucket: Bucket, before: Limit, after: Limit, now_ms: int) -> Bucket:
    """The bucket of a limit whose rate or burst has changed: as many tokens are used as were, up to all."""
    now_ns, pace_ns = now_ms * NS_PER_MS, interval_ns(after)
    used_ns = -(-max(0, bucket.full_at_ns - now_ns) * pace_ns // interval_ns(before))
    return Bucket(bucket.name, within(now_ns + min(used_ns, burst_of(after) * pace_ns)))


def _sweep(buckets: OrderedDict[str, Bucket], now_ns: int) -> None:
    for _ in range(SWEEP):
        name = next(iter(buckets), None)
        if name is None:
            return
        if buckets[name].full_at_ns <= now_ns:
            del buckets[name]
        else:
            buckets.move_to_end(name)


class Counted(NamedTuple):
    """A limit that counts a task, under that name."""

    limit: Limit
    name: str


class Blocker(NamedTuple):
    """A limit that keeps a task from starting."""

    limit: Limit
    until_ms: int  # when it lets the next one start; 0: when one of those that run has ended


NOTHING: Mapping[str, int] = {}
MEMO_MAX = 10_000
ANY_KEY = "*"


def _counts(limit: Limit, kind: Profile) -> bool:
    """It counts tasks of that tenant, agent and type, whatever it says of their key."""
    return counter_name(replace(limit, key=""), kind) is not None


class Gauges:
    """What runs under each limit, counted as tasks come and go."""

    __slots__ = ("_buckets", "_kinds", "_limits", "_memo", "running")

    def __init__(self, limits: Mapping[str, Limit], buckets: Mapping[str, Bucket]) -> None:
        self._limits, self._buckets = limits, buckets
        self._memo: dict[Profile, tuple[tuple[Counted, ...], tuple[Counted, ...]]] = {}
        self._kinds: dict[Profile, tuple[Limit, ...]] = {}  # of whatever key
        self.running: dict[str, int] = {}  # by counter; never 0

    def counted(self, profile: Profile) -> tuple[Counted, ...]:
        """Every limit that counts tasks of that profile."""
        keyed, others = self._sorted_out(profile)
        return keyed + others

    def _sorted_out(self, profile: Profile) -> tuple[tuple[Counted, ...], tuple[Counted, ...]]:
        """The limits that look at the key, and the others."""
        known = self._memo.get(profile)
        if known is None:
            if len(self._memo) >= MEMO_MAX:
                self._memo.clear()
            both: tuple[list[Counted], list[Counted]] = ([], [])
            for limit in self._of_kind(profile):
                name = counter_name(limit, profile)
                if name is not None:
                    both[not limit.key].append(Counted(limit, name))
            known = self._memo[profile] = tuple(both[0]), tuple(both[1])
        return known

    def _of_kind(self, profile: Profile) -> tuple[Limit, ...]:
        """The limits on tasks that would count it under some key: there may be many limits, and many keys."""
        kind = Profile(profile.tenant, profile.agent, profile.type, ANY_KEY)
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= MEMO_MAX:
                self._kinds.clear()
            ranked = (limit for _, limit in sorted(self._limits.items()))
            known = self._kinds[kind] = tuple(one for one in ranked if not one.calls and _counts(one, kind))
        return known

    def count(self, profile: Profile, by: int) -> bool:
        """A task of that profile begins or ends to be held by a node: does that close or open the way for
        others of its key?"""
        turned = False
        if self._limits:
            for limit, name in self.counted(profile):
                if limit.concurrent:
                    before = self.running.get(name, 0)
                    if before + by:
                        self.running[name] = before + by
                    else:
                        self.running.pop(name, None)
                    full = before >= limit.concurrent, before + by >= limit.concurrent
                    turned |= bool(limit.key) and full[0] != full[1]
        return turned

    def key_blocker(self, profile: Profile, now_ms: int, more: Mapping[str, int] = NOTHING) -> Blocker | None:
        """A limit that looks at the key and lets no task of the profile start. `more`: starts by counter that
        the gauges do not know of yet."""
        return self._blocker(self._sorted_out(profile)[0], now_ms, more) if self._limits else None

    def other_blocker(
        self, profile: Profile, now_ms: int, more: Mapping[str, int] = NOTHING
    ) -> Blocker | None:
        """The same of the limits that do not look at the key."""
        return self._blocker(self._sorted_out(profile)[1], now_ms, more) if self._limits else None

    def blocker(self, profile: Profile, now_ms: int) -> Blocker | None:
        """A limit that lets no task of the profile start now."""
        return self.key_blocker(profile, now_ms) or self.other_blocker(profile, now_ms)

    def _blocker(self, counted: tuple[Counted, ...], now_ms: int, more: Mapping[str, int]) -> Blocker | None:
        latest: Blocker | None = None
        for limit, name in counted:
            extra = more.get(name, 0)
            if limit.concurrent and self.running.get(name, 0) + extra >= limit.concurrent:
                return Blocker(limit, 0)
            if limit.rate_count:
                at_ms = tokens_at_ms(limit, self._buckets.get(name), 1 + extra)
                if at_ms < 0:
                    return Blocker(limit, now_ms + 1)
                if at_ms > now_ms and (latest is None or at_ms > latest.until_ms):
                    latest = Blocker(limit, at_ms)
        return latest

    def forget(self) -> None:
        """The limits have changed: everything has to be counted again."""
        self._memo.clear()
        self._kinds.clear()
        self.running.clear()
