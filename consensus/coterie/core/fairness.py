"""Whose turn it is: weighted fair shares of slot time, by committed numbers.

What a tenant stands at is the slot time of its attempts by its weight; the lowest is next. An attempt that
runs counts with the time it has had and a second on top: nobody knows how long it will take, and those who
hold less go first. It is start-time fair queueing (Goyal, Vin and Cheng 1996) over slots: the standing of the
tenant last served is the cluster's virtual time, and nobody stands more than a window below it, so that
idleness earns no more than a short preference."""

from __future__ import annotations

from coterie.core.bounds64 import within
from coterie.core.nouns import Task, evolve
from coterie.core.quotas import Share
from coterie.core.state import ClusterState

SCALE = 1_000  # standings are in thousandths of a millisecond of a slot, by weight
RUNNING_MS = 1_000  # what an attempt that runs counts for, beside the time it has had
ATTEMPT_MS = 5  # what an attempt that has ended counts for at least: who ran for no time at all had a slot
WINDOW_MS = 10_000
SHARES_MAX = 1_000  # beyond, those that say nothing any more are swept out
SHARES_KEPT_MAX = 4_000  # beyond, of those whose tenants hold nothing the half with the least use goes


def weight_of(state: ClusterState, tenant: str) -> int:
    known = state.tenants.get(tenant)
    return known.weight if known is not None else 1


def attempt_cost(state: ClusterState, tenant: str) -> int:
    """What a tenant's standing rises by when one more of its tasks begins."""
    return RUNNING_MS * SCALE // weight_of(state, tenant)


def standing(state: ClusterState, tenant: str, now_ms: int) -> int:
    """Lower goes first."""
    held, since_ms = state.indexes.usage.get(tenant, (0, 0))
    share = state.shares.get(tenant)
    used = share.used if share is not None else 0
    return max(used + _running(state, tenant, held, since_ms, now_ms), _floor(state))


def _running(state: ClusterState, tenant: str, held: int, since_ms: int, now_ms: int) -> int:
    return (held * (now_ms + RUNNING_MS) - since_ms) * SCALE // weight_of(state, tenant)


def _floor(state: ClusterState) -> int:
    return state.meta.fair_time - WINDOW_MS * SCALE


def note_served(state: ClusterState, tenant: str, now_ms: int) -> None:
    """A task of the tenant is about to be assigned: virtual time moves on to where the tenant stood. What it
    would have had beyond the window is forgotten now, so that what it gets from here on counts."""
    stood = standing(state, tenant, now_ms)
    if stood > state.meta.fair_time:
        state.meta = evolve(state.meta, fair_time=within(stood))
    elif stood == _floor(state):
        held, since_ms = state.indexes.usage.get(tenant, (0, 0))
        _keep(state, tenant, stood - _running(state, tenant, held, since_ms, now_ms))


def note_let_go(state: ClusterState, task: Task, now_ms: int) -> None:
    """A node is about to let go of the task: the time it had is used now."""
    tenant = task.tenant
    held, since_ms = state.indexes.usage[tenant]
    rest = _running(state, tenant, held - 1, since_ms - task.assigned_at_ms, now_ms)
    expected = (RUNNING_MS - _on_top(state, now_ms - task.assigned_at_ms)) * SCALE // weight_of(state, tenant)
    _keep(state, tenant, standing(state, tenant, now_ms) - rest - expected)


def _on_top(state: ClusterState, took_ms: int) -> int:
    """What an attempt counts for beside its time. Clusters made by early versions add ATTEMPT_MS to each, by
    which tenants of short tasks got less than their share."""
    least_ms = state.meta.policy.attempt_ms_min
    return max(0, least_ms - took_ms) if least_ms else ATTEMPT_MS


def _keep(state: ClusterState, tenant: str, used: int) -> None:
    if tenant not in state.shares and len(state.shares) >= SHARES_MAX:
        _sweep(state)
    state.shares[tenant] = Share(tenant, within(used))


def _sweep(state: ClusterState) -> None:
    """A tenant that holds nothing and stands at the floor anyway is as good as one never seen. Where very
    many came once each nobody raises the floor: then those near to it are taken for such, too."""
    floor, usage = _floor(state), state.indexes.usage
    for tenant in [t for t, share in state.shares.items() if share.used <= floor]:
        if tenant not in usage:
            del state.shares[tenant]
    if len(state.shares) >= SHARES_KEPT_MAX:
        idle = sorted((share.used, t) for t, share in state.shares.items() if t not in usage)
        for _, tenant in idle[: len(idle) // 2]:
            del state.shares[tenant]
