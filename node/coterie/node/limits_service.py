"""The Limits service: what may run at once or per time in the cluster, and what each tenant may have."""

from __future__ import annotations

import re
from collections.abc import Callable

from coterie.core import commands
from coterie.core.commands import Rejected
from coterie.core.limits import EACH, Profile, interval_ns
from coterie.core.quotas import Limit, Tenant
from coterie.core.state import ClusterState
from coterie.node.admission import DURATION_MS_MAX, LABEL_CHARS_MAX, checked_tenant, tenant_fault
from coterie.node.errors import Violation, from_rejection, invalid
from coterie.node.meters import Meters, Want
from coterie.node.proposer import Proposer
from coterie.node.reads import Reader
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.security.principal import caller
from coterie.v1 import tasks_pb2, tasks_pb2_grpc

COUNT_MAX = 1_000_000_000
WEIGHT_MAX = 1_000_000
FILLING_NS_MAX = 4 * 10**18  # from an empty bucket to a full one: 126 years
_LIMIT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")
_LIMIT_FIELDS = (
    "limit_id",
    "tenant",
    "agent",
    "type",
    "key",
    "concurrent",
    "rate_count",
    "rate_period_ms",
    "burst",
    "calls",
)


class LimitsService(tasks_pb2_grpc.LimitsServicer):
    """Setting what is set already changes nothing, so that each call may be repeated."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        reader: Reader,
        proposer: Proposer,
        meters: Meters,
        gate: Gate,
    ) -> None:
        self._state, self._reader, self._proposer, self.gate = state, reader, proposer, gate
        self._meters = meters

    @unary
    async def SetLimit(self, request: tasks_pb2.SetLimitRequest, context: Context) -> tasks_pb2.Limit:
        limit = request.limit
        if wrong := _limit_faults(limit):
            raise invalid(wrong)
        values = {name: getattr(limit, name) for name in _LIMIT_FIELDS}
        await self._commit(commands.SetLimit(Limit(**values)), context)
        return limit

    @unary
    async def ListLimits(
        self, request: tasks_pb2.ListLimitsRequest, context: Context
    ) -> tasks_pb2.ListLimitsResponse:
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        limits, who = self._state().limits.values(), caller()
        shown = [one for one in limits if one.tenant in ("", EACH) or who.sees(one.tenant)]
        shown.sort(key=lambda limit: limit.limit_id)
        return tasks_pb2.ListLimitsResponse(limits=[_limit_to_pb(limit) for limit in shown])

    @unary
    async def DeleteLimit(
        self, request: tasks_pb2.DeleteLimitRequest, context: Context
    ) -> tasks_pb2.DeleteLimitResponse:
        if not _LIMIT_ID.fullmatch(request.limit_id):
            raise invalid([_bad_id(request.limit_id, "limit_id")])
        await self._commit(commands.DeleteLimit(request.limit_id), context)
        return tasks_pb2.DeleteLimitResponse()

    @unary
    async def SetTenant(self, request: tasks_pb2.SetTenantRequest, context: Context) -> tasks_pb2.Tenant:
        given = request.tenant
        if wrong := _tenant_faults(given):
            raise invalid(wrong)
        tenant = Tenant(given.tenant, given.weight or 1, given.pending_tasks_max)
        await self._commit(commands.SetTenant(tenant), context)
        return _tenant_to_pb(tenant)

    @unary
    async def ListTenants(
        self, request: tasks_pb2.ListTenantsRequest, context: Context
    ) -> tasks_pb2.ListTenantsResponse:
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        shown = [one for one in self._state().tenants.values() if caller().sees(one.tenant)]
        tenants = sorted(shown, key=lambda tenant: tenant.tenant)
        return tasks_pb2.ListTenantsResponse(tenants=[_tenant_to_pb(tenant) for tenant in tenants])

    @unary
    async def TakeTokens(
        self, request: tasks_pb2.TakeTokensRequest, context: Context
    ) -> tasks_pb2.TakeTokensResponse:
        cost = request.cost or 1
        wrong = [] if _LIMIT_ID.fullmatch(request.limit_id) else [_bad_id(request.limit_id, "limit_id")]
        if not 1 <= cost <= COUNT_MAX:
            wrong.append(Violation("cost", f"{cost} is not in 1..{COUNT_MAX} (0: 1)"))
        if not 0 <= request.wait_ms <= DURATION_MS_MAX:
            wrong.append(Violation("wait_ms", f"{request.wait_ms} is not in 0..{DURATION_MS_MAX} ms"))
        tenant = checked_tenant(request.parent)
        if wrong:
            raise invalid(wrong)
        await self._reader.connected()
        if request.limit_id not in self._state().limits:
            await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        profile = Profile(tenant, request.agent, request.type, request.key)
        wait_s = min(request.wait_ms / 1000, propose_seconds(context))
        await self._meters.take(Want(request.limit_id, profile, cost), wait_s)
        return tasks_pb2.TakeTokensResponse()

    async def _commit(self, command: commands.Command, context: Context) -> None:
        await self._reader.connected()
        outcome = await self._proposer.one(command, propose_seconds(context))
        if isinstance(outcome, Rejected):
            raise from_rejection(outcome)


def _limit_to_pb(limit: Limit) -> tasks_pb2.Limit:
    return tasks_pb2.Limit(**{name: getattr(limit, name) for name in _LIMIT_FIELDS})


def _tenant_to_pb(tenant: Tenant) -> tasks_pb2.Tenant:
    return tasks_pb2.Tenant(
        tenant=tenant.tenant, weight=tenant.weight, pending_tasks_max=tenant.pending_tasks_max
    )


def _limit_faults(limit: tasks_pb2.Limit) -> list[Violation]:
    wrong = [] if _LIMIT_ID.fullmatch(limit.limit_id) else [_bad_id(limit.limit_id, "limit.limit_id")]
    wrong += [
        Violation(f"limit.{name}", f"has more than {LABEL_CHARS_MAX} characters")
        for name in ("tenant", "agent", "type", "key")
        if len(getattr(limit, name)) > LABEL_CHARS_MAX
    ]
    for name in ("concurrent", "rate_count", "burst", "rate_period_ms"):
        most = DURATION_MS_MAX if name == "rate_period_ms" else COUNT_MAX
        value = getattr(limit, name)
        if not 0 <= value <= most:
            wrong.append(Violation(f"limit.{name}", f"{value} is not in 0..{most}"))
    if not limit.concurrent and not limit.rate_count:
        wrong.append(Violation("limit.concurrent", "0, and rate_count too: a limit needs one of them"))
    if bool(limit.rate_count) != bool(limit.rate_period_ms):
        wrong.append(Violation("limit.rate_period_ms", "goes with rate_count: give both, or none"))
    if limit.calls and (limit.concurrent or limit.burst):
        text = "a limit on calls has a rate only: leave concurrent and burst out"
        wrong.append(Violation("limit.calls", text))
    if limit.burst and not limit.rate_count:
        wrong.append(Violation("limit.burst", "goes with rate_count and rate_period_ms; give them too"))
    return wrong or _burst_faults(limit)


def _burst_faults(limit: tasks_pb2.Limit) -> list[Violation]:
    """Of a limit that is right otherwise. The time at which a bucket is full again is a number of 64 bits."""
    if not limit.burst:
        return []
    most = FILLING_NS_MAX // interval_ns(Limit(**{name: getattr(limit, name) for name in _LIMIT_FIELDS}))
    if limit.burst <= most:
        return []
    text = f"{limit.burst} tokens at {limit.rate_count} per {limit.rate_period_ms} ms come back too late"
    return [Violation("limit.burst", f"{text}: give {most} at most, or a higher rate", most)]


def _tenant_faults(tenant: tasks_pb2.Tenant) -> list[Violation]:
    wrong = tenant_fault("tenant.tenant", tenant.tenant)
    if not 0 <= tenant.weight <= WEIGHT_MAX:
        wrong.append(Violation("tenant.weight", f"{tenant.weight} is not in 1..{WEIGHT_MAX} (0: 1)"))
    if not 0 <= tenant.pending_tasks_max <= COUNT_MAX:
        text = f"{tenant.pending_tasks_max} is not in 0..{COUNT_MAX} (0: the cluster's percentage)"
        wrong.append(Violation("tenant.pending_tasks_max", text))
    return wrong


def _bad_id(limit_id: str, field: str) -> Violation:
    return Violation(field, f"{limit_id!r}: use 1 to 128 letters, digits and . _ ~ -")
