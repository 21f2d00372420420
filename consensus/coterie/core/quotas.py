"""Nouns of what the cluster allows: limits, their buckets, tenants and what they have used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of something may run at once, or start per time, in the whole cluster.

    tenant, agent, type and key say which tasks it counts: "" any, "*" each value for itself, else that value.
    A limit on "*" leaves out tasks that have no such value.
    `rate_count` starts per `rate_period_ms`; with `burst` 0 never more than that in any such period, a tenth
    of it at once; with a burst that many at once, and `rate_count` per period from then on."""

    limit_id: str
    tenant: str = ""
    agent: str = ""
    type: str = ""
    key: str = ""
    concurrent: int = 0  # 0: no limit
    rate_count: int = 0  # 0: no limit
    rate_period_ms: int = 0
    burst: int = 0
    calls: bool = False  # it counts what asks for its tokens by name, instead of starts of tasks


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket as the generic cell rate algorithm keeps it (ITU-T I.371): the time at which it will be
    full again. A full bucket is forgotten."""

    name: str  # the limit's id, and the values it is for
    full_at_ns: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """What a tenant may have of the cluster."""

    tenant: str
    weight: int = 1  # its share of the slots against that of the others
    pending_tasks_max: int = 0  # 0: the policy's percentage


@dataclass(frozen=True, slots=True)
class Share:
    """What a tenant has used: slot time of its ended attempts by its weight, on the cluster's scale."""

    tenant: str
    used: int
