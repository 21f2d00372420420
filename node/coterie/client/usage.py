"""What language models may cost the cluster, and what they have cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal

from coterie.client.connection import Connection
from coterie.client.rpc_errors import invalid
from coterie.client.units import Duration, duration_ms
from coterie.v1 import usage_pb2

MICRO = 1_000_000
By = Literal["tenant", "agent", "model"]


@dataclass(frozen=True, slots=True)
class Account:
    """What is spent and set aside of a budget in its current window. `values`: of the fields that are "*"."""

    values: tuple[str, ...]
    tokens: int
    usd: float
    requests: int
    tokens_reserved: int
    usd_reserved: float
    requests_reserved: int


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be spent in the whole cluster per `window` (a duration; 0: in all).

    tenant, agent, session and task say whose calls it counts: "" anybody's, "*" each value for itself, else
    that value; `task` is the root of a family. tokens, usd and requests: 0 is no limit. Where there is no
    room tasks wait, or with `fail` their calls fail. Windows begin at multiples since the epoch, in UTC."""

    id: str
    tokens: int = 0
    usd: float = 0.0
    requests: int = 0
    window: Duration = 0
    tenant: str = ""
    agent: str = ""
    session: str = ""
    task: str = ""
    fail: bool = False
    accounts: tuple[Account, ...] = ()

    @classmethod
    def of(cls, raw: usage_pb2.Budget) -> Budget:
        """The dataclass for a message."""
        return cls(
            raw.budget_id,
            raw.tokens,
            raw.micro_usd / MICRO,
            raw.requests,
            raw.window_ms / 1_000,
            raw.tenant,
            raw.agent,
            raw.session,
            raw.task,
            raw.fail,
            tuple(_account(one) for one in raw.accounts),
        )


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums since the cluster began. `calls` were answered; `in_doubt`: may have been billed, at most so."""

    tenant: str = ""
    agent: str = ""
    model: str = ""
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    micro_usd: int = 0
    failed: int = 0
    in_doubt: int = 0
    in_doubt_tokens: int = 0
    in_doubt_micro_usd: int = 0


@dataclass(frozen=True, slots=True)
class DoubtfulCall:
    """A call that may have been billed without its answer having arrived."""

    task_id: str
    step: str
    call: int
    attempt: int
    agent: str
    provider: str
    model: str
    response_id: str
    tokens: int
    micro_usd: int
    at: datetime
    reason: str


class Usage:
    """Budgets of language models, and what was used: `cluster.usage`."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def set_budget(self, budget: Budget) -> Budget:
        """Sets the budget of that id. Raises InvalidRequest with all that is wrong."""
        raw = usage_pb2.Budget(
            budget_id=budget.id,
            tenant=budget.tenant,
            agent=budget.agent,
            session=budget.session,
            task=budget.task,
            tokens=budget.tokens,
            micro_usd=round(budget.usd * MICRO),
            requests=budget.requests,
            window_ms=_window_ms(budget.window),
            fail=budget.fail,
        )
        request = usage_pb2.SetBudgetRequest(budget=raw)
        return Budget.of(await self._opened().caller.unary(lambda e: e.usage.SetBudget, request))

    async def budgets(self) -> list[Budget]:
        """All budgets with the accounts of their current windows, by id."""
        request = usage_pb2.ListBudgetsRequest()
        answer = await self._opened().caller.unary(lambda e: e.usage.ListBudgets, request)
        return [Budget.of(raw) for raw in answer.budgets]

    async def remove_budget(self, budget_id: str) -> None:
        """Lifts a budget. Raises NotFound."""
        request = usage_pb2.DeleteBudgetRequest(budget_id=budget_id)
        await self._opened().caller.delete(lambda e: e.usage.DeleteBudget, request)

    async def rows(self, by: By | None = None, *, tenant: str = "") -> list[UsageRow]:
        """What was used, by tenant, agent and model, or summed up by one of them."""
        request = usage_pb2.GetUsageRequest(tenant=tenant)
        answer = await self._opened().caller.unary(lambda e: e.usage.GetUsage, request)
        rows = [
            UsageRow(**{one.name: getattr(raw, one.name) for one in fields(UsageRow)}) for raw in answer.rows
        ]
        return rows if by is None else _summed(rows, by)

    async def in_doubt(self, *, tenant: str = "", limit: int = 100) -> list[DoubtfulCall]:
        """Calls that may have been billed without an answer, newest first."""
        request = usage_pb2.ListDoubtfulCallsRequest(tenant=tenant, limit=limit)
        answer = await self._opened().caller.unary(lambda e: e.usage.ListDoubtfulCalls, request)
        return [_doubtful(raw) for raw in answer.calls]


def _summed(rows: list[UsageRow], by: By) -> list[UsageRow]:
    names = [one.name for one in fields(UsageRow) if one.name not in ("tenant", "agent", "model")]
    groups: dict[str, dict[str, int]] = {}
    for row in rows:
        sums = groups.setdefault(getattr(row, by), dict.fromkeys(names, 0))
        for name in names:
            sums[name] += getattr(row, name)
    return [UsageRow(**{by: value}, **sums) for value, sums in sorted(groups.items())]  # type: ignore[arg-type]


def _account(raw: usage_pb2.Account) -> Account:
    return Account(
        tuple(raw.values),
        raw.tokens,
        raw.micro_usd / MICRO,
        raw.requests,
        raw.tokens_reserved,
        raw.micro_usd_reserved / MICRO,
        raw.requests_reserved,
    )


def _doubtful(raw: usage_pb2.DoubtfulCall) -> DoubtfulCall:
    return DoubtfulCall(
        raw.task.rpartition("/")[2],
        raw.step,
        raw.call,
        raw.attempt,
        raw.agent,
        raw.provider,
        raw.model,
        raw.response_id,
        raw.tokens,
        raw.micro_usd,
        datetime.fromtimestamp(raw.at_ms / 1_000, UTC),
        raw.reason,
    )


_WINDOWS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000, "total": 0}


def _window_ms(window: Duration) -> int:
    """A duration, or minute, hour, day or total."""
    if isinstance(window, str) and window in _WINDOWS:
        return _WINDOWS[window]
    try:
        return duration_ms(window)
    except ValueError as error:
        raise invalid([("window", str(error))]) from error
