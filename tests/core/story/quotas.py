"""What tenants may have, and what is left of it."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.commands import DeleteLimit, SetLimit, SetTenant, TakeTokens
from coterie.core.meters import LeaseTokens, SettleTokens
from coterie.core.quotas import Limit, Tenant
from tests.core.story.stage import Stage

HOUR_MS = 3_600_000


def limit(stage: Stage) -> None:
    """A limit of each kind, with tokens taken and leased of them."""
    stage.do(SetTenant(Tenant("acme", weight=3, pending_tasks_max=500)))
    each = Limit("starts", tenant="*", agent="*", type="echo", key="*", rate_period_ms=HOUR_MS)
    stage.do(SetLimit(replace(each, concurrent=40, rate_count=60, burst=20)))
    stage.do(SetLimit(replace(each, limit_id="calls", rate_count=100, calls=True)))
    whose = ("acme", "scribe", "echo", "customer-7")
    stage.do(TakeTokens("starts", 3, *whose))
    for lease_id, minimum in (("lease-1", 2), ("lease-2", 3)):
        stage.do(LeaseTokens("calls", lease_id, 20, minimum, *whose))
    stage.do(SettleTokens(next(iter(stage.state.meters)), "lease-1", 9))


def lift(stage: Stage) -> None:
    stage.do(DeleteLimit("starts"))
    stage.do(DeleteLimit("calls"))
