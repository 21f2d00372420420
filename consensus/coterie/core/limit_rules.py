"""Limits and tenants of the cluster: setting them, and taking tokens ahead."""

from __future__ import annotations

from collections.abc import Iterable

from coterie.core.commands import (
    Accepted,
    AdvanceClock,
    DeleteLimit,
    Outcome,
    Rejected,
    SetLimit,
    SetTenant,
    TakeTokens,
)
from coterie.core.limits import Profile, counter_name, repaced, take, tokens_at_ms
from coterie.core.meters import (
    METERS_MAX,
    SHARES,
    SLICES_MAX,
    LeaseTokens,
    Meter,
    SettleTokens,
    Slice,
    counted,
    free_at_ms,
    lease_ms,
    settled,
    sweep,
)
from coterie.core.quotas import Limit
from coterie.core.state import ClusterState, Moment

TENANTS_MAX = 10_000


def set_limit(state: ClusterState, command: SetLimit, moment: Moment) -> Outcome:
    limit = command.limit
    wrong = _limit_fault(limit)
    if wrong:
        return Rejected("BAD_LIMIT", wrong)
    if limit.limit_id not in state.limits and len(state.limits) >= state.meta.policy.limits_max:
        return Rejected("TOO_MANY_LIMITS", f"there are at most {state.meta.policy.limits_max} limits")
    known = state.limits.get(limit.limit_id)
    state.limits[limit.limit_id] = limit
    if known != limit:
        if known is not None:
            _carry_over(state, known, limit, moment)
        state.indexes.relimit(state.tasks, keyed=bool(limit.key or (known is not None and known.key)))
    return Accepted(duplicate=known == limit)


def _carry_over(state: ClusterState, before: Limit, after: Limit, moment: Moment) -> None:
    """Tokens that are used stay used, and come back at the new pace; what limits something else, or no rate
    any more, begins afresh."""
    if _scope(before) != _scope(after) or not (before.rate_count and after.rate_count):
        _forget(state, before.limit_id)
        return
    for name in _names(state.buckets, before.limit_id):
        state.buckets[name] = repaced(state.buckets[name], before, after, moment.at_ms)


def _scope(limit: Limit) -> tuple[str, str, str, str, bool]:
    return limit.tenant, limit.agent, limit.type, limit.key, limit.calls


def _names(table: Iterable[str], limit_id: str) -> list[str]:
    """What a limit counts under in that table."""
    return [name for name in table if name.startswith(f"{limit_id}\0")]


def _forget(state: ClusterState, limit_id: str) -> None:
    for name in _names(state.buckets, limit_id):
        del state.buckets[name]
    for name in _names(state.meters, limit_id):
        del state.meters[name]


def _limit_fault(limit: Limit) -> str:
    """What is wrong with it; empty: nothing."""
    numbers = (limit.concurrent, limit.rate_count, limit.rate_period_ms, limit.burst)
    if not limit.limit_id or "\0" in limit.limit_id:
        return "limit_id is empty or has a zero byte in it"
    if min(numbers) < 0:
        return "concurrent, rate_count, rate_period_ms and burst are not negative"
    if not limit.concurrent and not limit.rate_count:
        return "concurrent or rate_count must be above 0"
    if bool(limit.rate_count) != bool(limit.rate_period_ms):
        return "rate_count and rate_period_ms go together"
    if limit.calls and (limit.concurrent or limit.burst):
        return "a limit on calls has a rate only: no concurrent, no burst"
    return ""


def delete_limit(state: ClusterState, command: DeleteLimit, moment: Moment) -> Outcome:
    known = state.limits.pop(command.limit_id, None)
    if known is None:
        return Rejected("LIMIT_NOT_FOUND", f"no limit {command.limit_id}")
    _forget(state, command.limit_id)
    state.indexes.relimit(state.tasks, keyed=bool(known.key))
    return Accepted()


def set_tenant(state: ClusterState, command: SetTenant, moment: Moment) -> Outcome:
    tenant = command.tenant
    if not tenant.tenant or tenant.weight < 1 or tenant.pending_tasks_max < 0:
        return Rejected("BAD_TENANT", "tenant is named, weight is at least 1, pending_tasks_max not negative")
    if tenant.tenant not in state.tenants and len(state.tenants) >= TENANTS_MAX:
        return Rejected("TOO_MANY_TENANTS", f"there are at most {TENANTS_MAX} tenants")
    duplicate = state.tenants.get(tenant.tenant) == tenant
    state.tenants[tenant.tenant] = tenant
    return Accepted(duplicate=duplicate)


def take_tokens(state: ClusterState, command: TakeTokens, moment: Moment) -> Outcome:
    limit = state.limits.get(command.limit_id)
    if limit is None or not limit.rate_count or limit.calls:
        return Rejected("LIMIT_NOT_FOUND", f"no rate limit {command.limit_id}")
    name = counter_name(limit, Profile(command.tenant, command.agent, command.type, command.key))
    if name is None or command.count < 1:
        return Rejected("BAD_LIMIT", f"limit {command.limit_id} does not count that, or not so many")
    ready_at_ms = tokens_at_ms(limit, state.buckets.get(name), command.count)
    if ready_at_ms < 0:
        return Rejected("BAD_LIMIT", f"limit {command.limit_id} never has {command.count} tokens at once")
    if ready_at_ms > moment.at_ms:
        return Rejected("RATE_LIMITED", f"limit {command.limit_id} is used up", ready_at_ms)
    take(state.buckets, limit, name, moment.at_ms, command.count)
    state.indexes.queue.recheck(command.key)
    return Accepted()


def lease_tokens(state: ClusterState, command: LeaseTokens, moment: Moment) -> Outcome:
    limit = state.limits.get(command.limit_id)
    if limit is None or not limit.calls:
        return Rejected("LIMIT_NOT_FOUND", f"no limit {command.limit_id} on calls")
    name = counter_name(limit, Profile(command.tenant, command.agent, command.type, command.key))
    if name is None or not command.lease_id or not 1 <= command.minimum <= command.count:
        return Rejected("BAD_LIMIT", f"limit {command.limit_id} does not count that, or not so many")
    if command.minimum > limit.rate_count:
        text = f"{command.minimum} tokens at once, limit {limit.limit_id} has {limit.rate_count} per period"
        return Rejected("BAD_LIMIT", text)
    slices = counted(state.meters.get(name), limit, moment.at_ms)
    if any(one.lease_id == command.lease_id for one in slices):
        return Accepted(duplicate=True)
    free = limit.rate_count - sum(one.count for one in slices)
    if free < command.minimum or len(slices) >= SLICES_MAX:
        at_ms = max(moment.at_ms + 1, free_at_ms(slices, limit, command.minimum))
        return Rejected("RATE_LIMITED", f"limit {limit.limit_id} is used up", at_ms)
    if name not in state.meters:
        sweep(state.meters, state.limits, moment.at_ms)
        if len(state.meters) >= METERS_MAX:
            text = f"there are {METERS_MAX} values in use that limits count each for itself"
            return Rejected("TOO_MANY_LIMITS", text)
    given = max(command.minimum, min(command.count, free, limit.rate_count // SHARES))
    taken = Slice(command.lease_id, given, moment.at_ms + lease_ms(limit))
    state.meters[name] = Meter(name, (*slices, taken))
    state.meters.move_to_end(name)
    return Accepted()


def settle_tokens(state: ClusterState, command: SettleTokens, moment: Moment) -> Outcome:
    """Of a lease that is not known any more there is nothing to give back."""
    meter = state.meters.get(command.meter)
    limit = state.limits.get(command.meter.partition("\0")[0])
    if meter is None or limit is None or not command.lease_id:
        return Accepted(duplicate=True)
    if all(one.lease_id != command.lease_id for one in meter.slices):
        return Accepted(duplicate=True)
    state.meters[meter.name] = settled(meter, limit, command.lease_id, command.spent, moment.at_ms)
    return Accepted()


def advance(state: ClusterState, command: AdvanceClock, moment: Moment) -> Outcome:
    """The entry's own time has moved the clock already; this makes up for what the leader saw of it."""
    state.advance(command.to_ms)
    return Accepted(number=state.meta.clock_ms)
