"""The call llm.call of a running skill, from its intent to its recorded answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from coterie.node.breakers import Breakers
from coterie.node.clock import Clock
from coterie.node.config import LlmSettings
from coterie.node.llm.one_call import Desk, OneCall
from coterie.node.llm.provider import Provider
from coterie.node.llm.request import read_request
from coterie.node.llm.retrying import RetryBudget
from coterie.node.llm.tokens import TokenHub
from coterie.node.side_loop import SideLoop
from coterie.node.skill_calls import Handlers, Run


class LlmCaller:
    """Calls the providers on behalf of skills: their keys never leave the node."""

    def __init__(self, settings: LlmSettings, breakers: Breakers, clock: Clock, tokens: TokenHub) -> None:
        self._settings, self._hub = settings, tokens
        self._side = SideLoop("llm")
        self._preparing: list[asyncio.Task[None]] = []
        self._providers = {name: Provider(one, self._side) for name, one in settings.providers.items()}
        budgets = {name: RetryBudget() for name in settings.providers}
        self._counts: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._cache: Counter[str] = Counter()
        self._desk = Desk(
            self._providers.get,
            breakers,
            budgets,
            clock,
            tokens.writer,
            self._counts,
            self._tokens,
            self._cache,
        )

    @property
    def handlers(self) -> Handlers:
        """For the table of what skills may ask for."""
        return {"llm.call": self.call}

    async def call(self, run: Run, given: Any) -> dict[str, Any]:
        """The answer, recorded. Raises CallRefused, CallFailed, Fenced, Suspended."""
        request = read_request(self._settings, run.task.tenant, given)
        policy = request.args.on_unknown or self._settings.on_unknown
        try:
            return await OneCall(self._desk, run, request, policy).answer()
        finally:
            self._hub.close(run.task_id, request.args.key, run.attempt)

    def gauges(self) -> Mapping[str, float]:
        """For the metrics: calls by outcome, tokens by kind, and how often the cache had an answer."""
        calls = {f'llm_calls_total{{outcome="{name}"}}': float(n) for name, n in self._counts.items()}
        tokens = {f'llm_tokens_total{{kind="{kind}"}}': float(n) for kind, n in self._tokens.items()}
        hits, lookups = self._cache["hit"], self._cache.total()
        cache = {
            'llm_cache_lookups_total{result="hit"}': float(hits),
            'llm_cache_lookups_total{result="miss"}': float(lookups - hits),
            "llm_cache_hit_ratio": hits / lookups if lookups else 0.0,
        }
        return calls | tokens | cache

    def prepare(self) -> None:
        """Begin to load what the first call will need."""
        for name, provider in self._providers.items():
            self._preparing.append(asyncio.create_task(provider.prepare(), name=f"llm {name}"))

    async def close(self) -> None:
        """Let go of all connections."""
        for task in self._preparing:
            await task
        for provider in self._providers.values():
            await provider.close()
        self._side.stop()
