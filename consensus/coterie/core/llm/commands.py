"""What may be proposed about language model calls and budgets."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.llm.nouns import LlmBudget, LlmVerdict
from coterie.core.nouns import NO_DATA, Data, TaskId


@dataclass(frozen=True, slots=True)
class BeginLlmCall:
    """The intent, and the reservation of its worst case, in one: proposed before the provider is called."""

    task_id: TaskId
    attempt: int
    key: str
    number: int  # one more than that of the step's last call; from 1
    provider: str
    model: str
    request_hash: str
    tokens: int  # worst case
    micro_usd: int
    cache_key: str = ""  # not empty: only one call with it at a time
    alone: bool = False  # do not look for such another call


@dataclass(frozen=True, slots=True)
class NoteLlmHandle:
    """The provider's id of an answer in the making, by which any node can ask for it."""

    task_id: TaskId
    attempt: int
    key: str
    number: int
    handle: str


@dataclass(frozen=True, slots=True)
class SettleLlmCall:
    """How the call ended. DONE records the answer as the step it is."""

    task_id: TaskId
    attempt: int
    key: str
    number: int
    verdict: LlmVerdict
    result: Data = NO_DATA
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    micro_usd: int = 0
    cache_ttl_ms: int = 0
    reason: str = ""
    beside: tuple[str, ...] = ()  # as in RecordStep


@dataclass(frozen=True, slots=True)
class ForgetLlmAnswers:
    """Kept answers that proved to be bad: equal requests are made anew."""

    task_id: TaskId
    attempt: int
    keys: tuple[str, ...]  # of the cache


@dataclass(frozen=True, slots=True)
class SetLlmBudget:
    budget: LlmBudget


@dataclass(frozen=True, slots=True)
class DeleteLlmBudget:
    budget_id: str
