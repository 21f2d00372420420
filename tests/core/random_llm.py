"""Random commands about language models, for the random logs."""

from __future__ import annotations

import random

from coterie.core.commands import Command
from coterie.core.llm.commands import (
    BeginLlmCall,
    DeleteLlmBudget,
    NoteLlmHandle,
    SetLlmBudget,
    SettleLlmCall,
)
from coterie.core.llm.nouns import LlmBudget, LlmVerdict, OnExhausted
from coterie.core.nouns import Data, TaskId


def llm_command(dice: random.Random, task_id: TaskId, attempt: int, key: str, number: int) -> Command:
    """About a language model call, or the budgets of such calls."""
    scope = {name: dice.choice(["", "", "*"]) for name in ("tenant", "agent", "session", "task")}
    budget = LlmBudget(
        f"b{dice.randint(1, 3)}",
        **scope,
        tokens=dice.choice([0, 30, 200]),
        micro_usd=dice.choice([0, 500]),
        requests=dice.choice([0, 3]),
        window_ms=dice.choice([0, 20, 200]),
        on_exhausted=dice.choice(list(OnExhausted)),
    )
    asked = dice.choice(["", "same", f"other{dice.randint(1, 3)}"])
    verdict = dice.choice([LlmVerdict.DONE, LlmVerdict.DONE, *LlmVerdict])
    data, used, ttl_ms = Data(b"r" * dice.randint(0, 30)), dice.randint(0, 5), dice.choice([0, 50])
    tokens, alone = dice.randint(-1, 20), dice.random() < 0.3
    begin = BeginLlmCall(task_id, attempt, key, number, "main", "m", "h", tokens, 100, asked, alone)
    settle = SettleLlmCall(task_id, attempt, key, number, verdict, data, used, used, 0, 7, ttl_ms)
    handle = NoteLlmHandle(task_id, attempt, key, number, "r1")
    orders: list[Command] = [begin, begin, begin, settle, settle, handle, SetLlmBudget(budget)]
    return dice.choice([*orders, DeleteLlmBudget(budget.budget_id)])
