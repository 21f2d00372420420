"""Budgets and usage of language models for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from coterie.client import usage
from coterie.client.sync_queueing import Run


class Usage:
    """See `coterie.client.usage.Usage`."""

    def __init__(self, run: Run, inner: usage.Usage) -> None:
        self._run, self._inner = run, inner

    def set_budget(self, budget: usage.Budget) -> usage.Budget:
        """See `coterie.client.usage.Usage.set_budget`."""
        return self._run(self._inner.set_budget(budget))

    def budgets(self) -> list[usage.Budget]:
        """See `coterie.client.usage.Usage.budgets`."""
        return self._run(self._inner.budgets())

    def remove_budget(self, budget_id: str) -> None:
        """See `coterie.client.usage.Usage.remove_budget`."""
        self._run(self._inner.remove_budget(budget_id))

    def rows(self, by: usage.By | None = None, *, tenant: str = "") -> list[usage.UsageRow]:
        """See `coterie.client.usage.Usage.rows`."""
        return self._run(self._inner.rows(by, tenant=tenant))

    def in_doubt(self, *, tenant: str = "", limit: int = 100) -> list[usage.DoubtfulCall]:
        """See `coterie.client.usage.Usage.in_doubt`."""
        return self._run(self._inner.in_doubt(tenant=tenant, limit=limit))
