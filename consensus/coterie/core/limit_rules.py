"""Limits and tenants of the cluster: setting them, and taking tokens ahead."""

from __future__ import annotations

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
from coterie.core.limits import Profile, counter_name, take, tokens_at_ms
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
    duplicate = state.limits.get(limit.limit_id) == limit
    state.limits[limit.limit_id] = limit
    if not duplicate:
        state.indexes.relimit(state.tasks)
    return Accepted(duplicate=duplicate)


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
    return ""


def delete_limit(state: ClusterState, command: DeleteLimit, moment: Moment) -> Outcome:
    if state.limits.pop(command.limit_id, None) is None:
        return Rejected("LIMIT_NOT_FOUND", f"no limit {command.limit_id}")
    prefix = f"{command.limit_id}\0"
    for name in [name for name in state.buckets if name.startswith(prefix)]:
        del state.buckets[name]
    state.indexes.relimit(state.tasks)
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
    if limit is None or not limit.rate_count:
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


def advance(state: ClusterState, command: AdvanceClock, moment: Moment) -> Outcome:
    """The entry's own time has moved the clock already; this makes up for what the leader saw of it."""
    state.advance(command.to_ms)
    return Accepted(number=state.meta.clock_ms)
