"""What an agent's `rate_limits` and `replicas` are in the state: limits and budgets of the cluster."""

from __future__ import annotations

from coterie.core.agentbook import AGENT_TYPE
from coterie.core.commands import Command, DeleteLimit, SetLimit
from coterie.core.llm.commands import DeleteLlmBudget, SetLlmBudget
from coterie.core.llm.nouns import LlmBudget
from coterie.core.quotas import Limit
from coterie.core.state import ClusterState
from coterie.node.agents.definition import Definition

MINUTE_MS, DAY_MS = 60_000, 86_400_000
MICRO = 1_000_000


def limits_of(definition: Definition, state: ClusterState) -> list[Command]:
    """The commands that set what the agent asks for, and take away what an earlier revision asked for."""
    agent, rates = definition.agent_id, definition.config.rate_limits
    runs = Limit(f"agent-{agent}", agent=agent, type=AGENT_TYPE, concurrent=definition.concurrent)
    budgets = [
        LlmBudget(
            f"agent-{agent}-minute",
            agent=agent,
            requests=rates.requests_per_minute or 0,
            window_ms=MINUTE_MS,
        ),
        LlmBudget(
            f"agent-{agent}-day",
            agent=agent,
            tokens=rates.tokens_per_day or 0,
            micro_usd=round((rates.usd_per_day or 0) * MICRO),
            window_ms=DAY_MS,
        ),
    ]
    commands: list[Command] = []
    if runs.concurrent:
        commands.append(SetLimit(runs))
    elif runs.limit_id in state.limits:
        commands.append(DeleteLimit(runs.limit_id))
    for budget in budgets:
        if budget.requests or budget.tokens or budget.micro_usd:
            commands.append(SetLlmBudget(budget))
        elif budget.budget_id in state.llm.budgets:
            commands.append(DeleteLlmBudget(budget.budget_id))
    return commands
