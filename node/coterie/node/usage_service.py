"""The Usage service: budgets of language models, what was used, and calls that are in doubt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

from coterie.core.commands import Command, Rejected
from coterie.core.llm.accounts import EACH, accounts_of, current
from coterie.core.llm.commands import DeleteLlmBudget, SetLlmBudget
from coterie.core.llm.nouns import Account, DoubtfulCall, LlmBudget, LlmUsage, OnExhausted
from coterie.core.state import ClusterState
from coterie.node.admission import LABEL_CHARS_MAX
from coterie.node.clock import Clock, LogTime
from coterie.node.errors import Violation, from_rejection, invalid
from coterie.node.proposer import Proposer
from coterie.node.reads import Reader
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.security.principal import caller
from coterie.v1 import tasks_pb2, usage_pb2, usage_pb2_grpc

AMOUNT_MAX = 10**15
WINDOW_MS_MAX = 366 * 86_400_000
DOUBTS_MAX = 1_000
DOUBTS = 100
ACCOUNTS_SHOWN_MAX = 1_000
_BUDGET_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")
_SCOPE = ("tenant", "agent", "session", "task")
_AMOUNTS = ("tokens", "micro_usd", "requests")
_USAGE = tuple(field.name for field in usage_pb2.UsageRow.DESCRIPTOR.fields)


class UsageService(usage_pb2_grpc.UsageServicer):
    """Every call may be repeated."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        reader: Reader,
        proposer: Proposer,
        clock: Clock,
        gate: Gate,
    ) -> None:
        self._state, self._reader, self._proposer, self.gate = state, reader, proposer, gate
        self._time = LogTime(clock, lambda: state().meta.clock_ms)

    @unary
    async def SetBudget(self, request: usage_pb2.SetBudgetRequest, context: Context) -> usage_pb2.Budget:
        given = request.budget
        if wrong := _faults(given):
            raise invalid(wrong)
        values = {name: getattr(given, name) for name in ("budget_id", *_SCOPE, *_AMOUNTS, "window_ms")}
        budget = LlmBudget(**values, on_exhausted=OnExhausted.FAIL if given.fail else OnExhausted.WAIT)
        await self._commit(SetLlmBudget(budget), context)
        return self._told(budget)

    @unary
    async def ListBudgets(
        self, request: usage_pb2.ListBudgetsRequest, context: Context
    ) -> usage_pb2.ListBudgetsResponse:
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        who = caller()
        budgets = sorted(self._state().llm.budgets.items())
        found = [
            self._told(budget)
            for _, budget in budgets
            if who.everywhere or budget.tenant == EACH or who.sees(budget.tenant)
        ]
        return usage_pb2.ListBudgetsResponse(budgets=found)

    @unary
    async def DeleteBudget(
        self, request: usage_pb2.DeleteBudgetRequest, context: Context
    ) -> usage_pb2.DeleteBudgetResponse:
        if not _BUDGET_ID.fullmatch(request.budget_id):
            raise invalid([_bad_id("budget_id", request.budget_id)])
        await self._commit(DeleteLlmBudget(request.budget_id), context)
        return usage_pb2.DeleteBudgetResponse()

    @unary
    async def GetUsage(
        self, request: usage_pb2.GetUsageRequest, context: Context
    ) -> usage_pb2.GetUsageResponse:
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        who, rows = caller(), sorted(self._state().llm.usage.items())
        wanted = [row for _, row in rows if request.tenant in ("", row.tenant) and who.sees(row.tenant)]
        return usage_pb2.GetUsageResponse(rows=[_row(row) for row in wanted])

    @unary
    async def ListDoubtfulCalls(
        self, request: usage_pb2.ListDoubtfulCallsRequest, context: Context
    ) -> usage_pb2.ListDoubtfulCallsResponse:
        if not 0 <= request.limit <= DOUBTS_MAX:
            raise invalid([Violation("limit", f"{request.limit} is not in 0..{DOUBTS_MAX}")])
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        who, calls = caller(), reversed(self._state().llm.doubtful.values())
        wanted = (one for one in calls if request.tenant in ("", one.tenant) and who.sees(one.tenant))
        found = [_doubt(one) for one in islice(wanted, request.limit or DOUBTS)]
        return usage_pb2.ListDoubtfulCallsResponse(calls=found)

    async def _commit(self, command: Command, context: Context) -> None:
        await self._reader.connected()
        outcome = await self._proposer.one(command, propose_seconds(context))
        if isinstance(outcome, Rejected):
            raise from_rejection(outcome)

    def _told(self, budget: LlmBudget) -> usage_pb2.Budget:
        told = usage_pb2.Budget(
            budget_id=budget.budget_id,
            tenant=budget.tenant,
            agent=budget.agent,
            session=budget.session,
            task=budget.task,
            tokens=budget.tokens,
            micro_usd=budget.micro_usd,
            requests=budget.requests,
            window_ms=budget.window_ms,
            fail=budget.on_exhausted is OnExhausted.FAIL,
        )
        told.accounts.extend(islice(self._accounts(budget), ACCOUNTS_SHOWN_MAX))
        return told

    def _accounts(self, budget: LlmBudget) -> Iterator[usage_pb2.Account]:
        llm, now_ms, who = self._state().llm, self._time.now_ms(), caller()
        for name in sorted(accounts_of(llm, budget.budget_id)):
            values = [value for value in name.split("\0")[1:] if value]
            if budget.tenant != EACH or who.sees(values[0]):
                yield _account(values, current(llm, budget, name, "", now_ms))


def _account(values: list[str], account: Account) -> usage_pb2.Account:
    billed, reserved = account.billed, account.reserved
    return usage_pb2.Account(
        values=values,
        tokens=billed.tokens,
        micro_usd=billed.micro_usd,
        requests=billed.requests,
        tokens_reserved=reserved.tokens,
        micro_usd_reserved=reserved.micro_usd,
        requests_reserved=reserved.requests,
    )


def _row(usage: LlmUsage) -> usage_pb2.UsageRow:
    return usage_pb2.UsageRow(**{name: getattr(usage, name) for name in _USAGE})


def _doubt(call: DoubtfulCall) -> usage_pb2.DoubtfulCall:
    return usage_pb2.DoubtfulCall(
        task=f"tenants/{call.tenant}/tasks/{call.task_id}",
        step=call.key,
        call=call.number,
        attempt=call.attempt,
        agent=call.agent,
        provider=call.provider,
        model=call.model,
        response_id=call.handle,
        tokens=call.tokens,
        micro_usd=call.micro_usd,
        at_ms=call.at_ms,
        reason=call.reason,
    )


def _bad_id(field: str, given: str) -> Violation:
    return Violation(field, f"{given!r}: use 1 to 128 letters, digits and . _ ~ -")


def _faults(budget: usage_pb2.Budget) -> list[Violation]:
    wrong = []
    if not _BUDGET_ID.fullmatch(budget.budget_id):
        wrong.append(_bad_id("budget.budget_id", budget.budget_id))
    for name in _SCOPE:
        value = getattr(budget, name)
        if len(value) > LABEL_CHARS_MAX or "\0" in value:
            text = f"has a zero byte, or more than {LABEL_CHARS_MAX} characters"
            wrong.append(Violation(f"budget.{name}", text))
    for name in (*_AMOUNTS, "window_ms"):
        value, most = getattr(budget, name), WINDOW_MS_MAX if name == "window_ms" else AMOUNT_MAX
        if not 0 <= value <= most:
            wrong.append(Violation(f"budget.{name}", f"{value} is not in 0..{most}"))
    if not any(getattr(budget, name) for name in _AMOUNTS):
        wrong.append(
            Violation("budget.tokens", "0, and micro_usd and requests too: a budget needs one of them")
        )
    if budget.accounts:
        wrong.append(Violation("budget.accounts", "is only in answers; leave it out"))
    return wrong
