"""Nouns of language model calls. Money is integer micro-USD; times are ms since the epoch, 0 is none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from coterie.core.nouns import NO_DATA, Data, TaskId


class OnExhausted(IntEnum):
    """What a call does that a budget has no room for."""

    WAIT = 1  # its task is suspended until the budget has room again
    FAIL = 2  # the call raises an error


class LlmVerdict(IntEnum):
    """How a call of a provider ended."""

    DONE = 1  # answered: the answer is a step of the task
    FAILED = 2  # refused by the provider: no tokens billed
    IN_DOUBT = 3  # sent, and nobody knows whether it was answered: counted as billed, at its worst case
    UNSENT = 4  # it never left: nothing is billed


# Of tokens or money in one call. A provider may say anything, and sums are kept in 64 bits.
COUNT_MAX = 1 << 40


@dataclass(frozen=True, slots=True)
class Amount:
    """What a call costs: at its worst before it, as it was after it."""

    tokens: int = 0  # in and out
    micro_usd: int = 0
    requests: int = 0


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class LlmBudget:
    """How much may be spent in the whole cluster, per window.

    tenant, agent, session and task say whose calls it counts: "" anybody's, "*" each value for itself, else
    that value. `task` is the root of a family of tasks. A budget on "*" leaves out calls without that value.
    A window begins at multiples of `window_ms` since the epoch, so that days are days of UTC."""

    budget_id: str
    tenant: str = ""
    agent: str = ""
    session: str = ""
    task: str = ""
    tokens: int = 0  # 0: no limit
    micro_usd: int = 0
    requests: int = 0
    window_ms: int = 0  # 0: one window without end
    on_exhausted: OnExhausted = OnExhausted.WAIT


@dataclass(frozen=True, slots=True)
class Account:
    """What was spent, and set aside, under one budget in one window."""

    name: str  # the budget's id, and the values it is for
    window: int = 0  # its number since the epoch
    billed: Amount = NOTHING
    reserved: Amount = NOTHING
    task: str = ""  # of a budget per family of tasks: forgotten with its root


@dataclass(frozen=True, slots=True)
class Hold:
    """Where a call's reservation stands."""

    account: str
    window: int


@dataclass(frozen=True, slots=True)
class LlmCall:
    """An intended call: committed before the provider hears of it, kept until its step is recorded."""

    task_id: TaskId
    key: str  # of the step that the answer will be
    number: int  # of the call within the step, over all attempts, from 1
    attempt: int  # that made it
    open: bool  # its reservation stands
    tenant: str
    agent: str
    provider: str
    model: str
    request_hash: str
    cache_key: str
    reserved: Amount
    holds: tuple[Hold, ...] = ()
    handle: str = ""  # the provider's id of the answer, as soon as it is known
    begun_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class DoubtfulCall:
    """A call that may have been billed without its answer having arrived."""

    task_id: TaskId
    key: str
    number: int
    attempt: int
    tenant: str
    agent: str
    provider: str
    model: str
    request_hash: str
    handle: str
    tokens: int  # as counted: the worst case
    micro_usd: int
    at_ms: int
    reason: str

    @property
    def name(self) -> str:
        """What the ledger keeps it under."""
        return f"{self.task_id}\0{self.key}\0{self.number}"


@dataclass(frozen=True, slots=True)
class LlmUsage:
    """What one tenant's agent has used of one model, since the cluster began."""

    tenant: str
    agent: str
    model: str
    calls: int = 0  # answered
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0  # of those in, read from the provider's own cache
    micro_usd: int = 0
    failed: int = 0
    in_doubt: int = 0
    in_doubt_tokens: int = 0
    in_doubt_micro_usd: int = 0

    @property
    def name(self) -> str:
        """What it is kept under."""
        return f"{self.tenant}\0{self.agent}\0{self.model}"


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer that an equal request gets without a call."""

    key: str
    result: Data = NO_DATA
    until_ms: int = 0
