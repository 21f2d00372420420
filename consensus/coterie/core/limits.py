"""Which limits count a task, and when a rate limit has a token again: integers, on the cluster's clock."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

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
    buckets[name] = Bucket(name, full_at_ns)
    buckets.move_to_end(name)


def _sweep(buckets: OrderedDict[str, Bucket], now_ns: int) -> None:
    for _ in range(SWEEP):
        name = next(iter(buckets), None)
        if name is None:
            return
        if buckets[name].full_at_ns <= now_ns:
            del buckets[name]
        else:
            buckets.move_to_end(name)
