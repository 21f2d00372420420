"""Spending: a call's worst case is set aside in every budget that counts it, then replaced by its cost.

Invariant, for every account at every instant: billed + reserved <= the budget's limit, as long as nobody
lowers the limit and no provider bills more than the worst case that was set aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from coterie.core.bounds64 import within
from coterie.core.commands import Rejected
from coterie.core.llm.nouns import NOTHING, Account, Amount, Hold, LlmBudget, LlmCall, OnExhausted
from coterie.core.llm.state import LlmState

EACH = "*"
ACCOUNTS_MAX = 100_000
SWEEP = 2  # accounts looked at for each new one
SWEEP_CROWDED = 100  # for each call for which there is no room
SOON_MS = 500  # by then calls in the air may have been settled below their worst case
DIMENSIONS = ("tokens", "micro_usd", "requests")


class Subject(NamedTuple):
    """Who spends."""

    tenant: str
    agent: str
    session: str
    task: str  # the root of its family


class Place(NamedTuple):
    """An account that a call falls under, as it is in the current window."""

    budget: LlmBudget
    account: Account


def plus(one: Amount, other: Amount) -> Amount:
    sums = (one.tokens + other.tokens, one.micro_usd + other.micro_usd, one.requests + other.requests)
    return Amount(*map(within, sums))


def minus(one: Amount, other: Amount) -> Amount:
    rests = (one.tokens - other.tokens, one.micro_usd - other.micro_usd, one.requests - other.requests)
    return Amount(*map(within, rests))


def window_of(budget: LlmBudget, at_ms: int) -> int:
    """The number of the window that a time falls in."""
    return at_ms // budget.window_ms if budget.window_ms else 0


def account_name(budget: LlmBudget, subject: Subject) -> str | None:
    """The account of that budget that somebody's calls fall under; None: they are not counted."""
    wanted = (budget.tenant, budget.agent, budget.session, budget.task)
    parts = [budget.budget_id]
    for want, value in zip(wanted, subject, strict=True):
        if want == EACH:
            if not value:
                return None
            parts.append(value)
        elif want and want != value:
            return None
    return "\0".join(parts) if len(parts) > 1 else parts[0] + "\0"


def places(llm: LlmState, subject: Subject, at_ms: int) -> list[Place]:
    """Every account that counts the subject's calls."""
    found = []
    for _, budget in sorted(llm.budgets.items()):
        name = account_name(budget, subject)
        if name is not None:
            family = subject.task if budget.task == EACH else ""
            found.append(Place(budget, current(llm, budget, name, family, at_ms)))
    return found


def current(llm: LlmState, budget: LlmBudget, name: str, family: str, at_ms: int) -> Account:
    """The account in the window of that time; a window that has passed counts no more."""
    window = window_of(budget, at_ms)
    known = llm.accounts.get(name)
    if known is None or known.window != window:
        return Account(name, window, task=family)
    return known


def refusal(found: list[Place], need: Amount, at_ms: int) -> Rejected | None:
    """Why the budgets have no room for that; None: they have."""
    worst: Rejected | None = None
    for budget, account in found:
        for dimension in DIMENSIONS:
            one = _short(budget, account, dimension, getattr(need, dimension), at_ms)
            if one is not None and (worst is None or _is_worse(one, worst)):
                worst = one
    return worst


def _is_worse(one: Rejected, other: Rejected) -> bool:
    """An end is worse than a wait, a wait without end worse than one that ends, long worse than short."""

    def weight(refused: Rejected) -> tuple[bool, bool, int]:
        return refused.code == "BUDGET_EXHAUSTED", not refused.retry_at_ms, refused.retry_at_ms

    return weight(one) > weight(other)


def _short(budget: LlmBudget, account: Account, dimension: str, need: int, at_ms: int) -> Rejected | None:
    limit: int = getattr(budget, dimension)
    billed: int = getattr(account.billed, dimension)
    reserved: int = getattr(account.reserved, dimension)
    if not limit or billed + reserved + need <= limit:
        return None
    text = f"budget {budget.budget_id}: {billed} of {limit} {dimension} are spent and {reserved} set aside, "
    text += f"this call needs up to {need}"
    if need > limit or budget.on_exhausted is OnExhausted.FAIL:
        return Rejected("BUDGET_EXHAUSTED", text)
    if billed + need <= limit:  # what others have set aside is in the way
        return Rejected("BUDGET_WAIT", text, at_ms + SOON_MS)
    ends_at_ms = (account.window + 1) * budget.window_ms
    return Rejected("BUDGET_WAIT", text, ends_at_ms)


def reserve(
    llm: LlmState, found: list[Place], need: Amount, at_ms: int, is_live: Callable[[str], bool]
) -> tuple[Hold, ...]:
    """Set the amount aside in all of these accounts, which have room for it."""
    for _, account in found:
        if account.name not in llm.accounts:
            _sweep(llm, SWEEP, at_ms, is_live)
        llm.accounts[account.name] = replace(account, reserved=plus(account.reserved, need))
        llm.accounts.move_to_end(account.name)
    return tuple(Hold(account.name, account.window) for _, account in found)


def release(llm: LlmState, holds: tuple[Hold, ...], reserved: Amount, billed: Amount) -> None:
    """Replace a reservation by what it came to. In a window that has passed nothing is counted any more."""
    for hold in holds:
        account = llm.accounts.get(hold.account)
        if account is not None and account.window == hold.window:
            after = replace(
                account, billed=plus(account.billed, billed), reserved=minus(account.reserved, reserved)
            )
            llm.accounts[hold.account] = after


def _sweep(llm: LlmState, count: int, at_ms: int, is_live: Callable[[str], bool]) -> None:
    """Of the accounts that were used longest ago look at so many, and forget those that count nothing any
    more: of a budget that is gone, a family that has ended, a window that has passed."""
    for _ in range(min(count, len(llm.accounts))):
        name, account = next(iter(llm.accounts.items()))
        budget = llm.budgets.get(name.partition("\0")[0])
        if budget is None or _counts_nothing(budget, account, at_ms, is_live):
            del llm.accounts[name]
        else:
            llm.accounts.move_to_end(name)


def _counts_nothing(budget: LlmBudget, account: Account, at_ms: int, is_live: Callable[[str], bool]) -> bool:
    if account.reserved != NOTHING:
        return False
    ended = bool(account.task) and not is_live(account.task)
    return ended or account.window != window_of(budget, at_ms)


def full(llm: LlmState, found: list[Place], at_ms: int, is_live: Callable[[str], bool]) -> bool:
    """There is no room for the accounts that would be new, not even after a look at what may be forgotten."""
    if _is_crowded(llm, found):
        _sweep(llm, SWEEP_CROWDED, at_ms, is_live)
    return _is_crowded(llm, found)


def _is_crowded(llm: LlmState, found: list[Place]) -> bool:
    more = sum(place.account.name not in llm.accounts for place in found)
    return bool(more) and len(llm.accounts) + more > ACCOUNTS_MAX


def forget_budget(llm: LlmState, budget_id: str) -> None:
    """Drop the accounts of a budget. What open calls have set aside in them counts nowhere any more, not in
    accounts of the same names either that there may be again."""
    for name in list(accounts_of(llm, budget_id)):
        del llm.accounts[name]
    prefix = f"{budget_id}\0"
    for task_id, calls in llm.calls.items():
        if any(hold.account.startswith(prefix) for call in calls for hold in call.holds):
            llm.calls[task_id] = tuple(_without(call, prefix) for call in calls)


def _without(call: LlmCall, prefix: str) -> LlmCall:
    return replace(call, holds=tuple(hold for hold in call.holds if not hold.account.startswith(prefix)))


def accounts_of(llm: LlmState, budget_id: str) -> Iterator[str]:
    prefix = f"{budget_id}\0"
    return (name for name in llm.accounts if name.startswith(prefix))
