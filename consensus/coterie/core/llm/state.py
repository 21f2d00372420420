"""The part of the replicated state that is about language models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256

from coterie.core.llm.nouns import Account, CachedAnswer, DoubtfulCall, LlmBudget, LlmCall, LlmUsage
from coterie.core.nouns import TaskId

MARK_BYTES = 6
PARTS = tuple(part.name for part in fields(LlmBudget))


def mark_of(budgets: Mapping[str, LlmBudget]) -> int:
    """A number that stands for these budgets, on every node the same; never 0."""
    ranked = (budget for _, budget in sorted(budgets.items()))
    text = "\0".join(f"{getattr(budget, part)}" for budget in ranked for part in PARTS)
    return int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:MARK_BYTES], "big") + 1


@dataclass(slots=True)
class LlmState:
    """Live calls by task, budgets and their accounts, what is in doubt, what was used, kept answers."""

    budgets: dict[str, LlmBudget] = field(default_factory=dict)
    accounts: OrderedDict[str, Account] = field(default_factory=OrderedDict)  # the one used last is last
    calls: dict[TaskId, tuple[LlmCall, ...]] = field(default_factory=dict)
    doubtful: OrderedDict[str, DoubtfulCall] = field(default_factory=OrderedDict)  # oldest first
    usage: dict[str, LlmUsage] = field(default_factory=dict)
    cache: OrderedDict[str, CachedAnswer] = field(default_factory=OrderedDict)  # oldest first
    flights: dict[str, int] = field(default_factory=dict, compare=False)  # open calls, by cache key
    cache_bytes: int = field(default=0, compare=False)
    mark: int = field(default=0, compare=False)  # of the budgets as they are: after a change it is another

    def __post_init__(self) -> None:
        if not self.mark:
            self.budgets_changed()

    def budgets_changed(self) -> None:
        """Whoever saw them before, and goes to sleep over what it saw, is told so: see `mark`."""
        self.mark = mark_of(self.budgets)

    def rebuild(self) -> None:
        """Derive the look-ups again, after a restore."""
        self.budgets_changed()
        self.cache_bytes = sum(len(answer.result.inline) for answer in self.cache.values())
        self.flights = {}
        for calls in self.calls.values():
            for call in calls:
                if call.open and call.cache_key:
                    self.flights[call.cache_key] = self.flights.get(call.cache_key, 0) + 1

    def restore(self, record: object) -> None:
        """Take in one record of an image; they come in the order in which they left."""
        match record:
            case LlmBudget():
                self.budgets[record.budget_id] = record
            case Account():
                self.accounts[record.name] = record
            case LlmCall():
                self.calls[record.task_id] = (*self.calls.get(record.task_id, ()), record)
            case DoubtfulCall():
                self.doubtful[record.name] = record
            case LlmUsage():
                self.usage[record.name] = record
            case CachedAnswer():
                self.cache[record.key] = record
            case _:
                raise TypeError(f"no table for {type(record).__name__}")

    def find(self, task_id: TaskId, key: str) -> LlmCall | None:
        """The call of that step of a live task."""
        return next((call for call in self.calls.get(task_id, ()) if call.key == key), None)

    def copy(self) -> LlmState:
        """An image that stays as it is."""
        return LlmState(
            dict(self.budgets),
            self.accounts.copy(),
            dict(self.calls),
            self.doubtful.copy(),
            dict(self.usage),
            self.cache.copy(),
            mark=self.mark,
        )
