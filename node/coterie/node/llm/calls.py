"""The call llm.call of a running skill, from its intent to its recorded answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from coterie.node.clock import Clock
from coterie.node.config import LlmSettings
from coterie.node.llm.clients import Client
from coterie.node.llm.completion import OnText
from coterie.node.llm.one_call import Desk, OneCall
from coterie.node.llm.request import read_request
from coterie.node.llm.retrying import RetryBudget
from coterie.node.skill_calls import Handlers, Run

OpenStream = Callable[[str, str, int, int], OnText]  # task, step, attempt, number of the call


class LlmCaller:
    """Calls the providers on behalf of skills: their keys never leave the node."""

    def __init__(self, settings: LlmSettings, clock: Clock, open_stream: OpenStream) -> None:
        self._settings, self._clock = settings, clock
        self._open_stream = open_stream
        self._clients = {name: Client(provider) for name, provider in settings.providers.items()}
        self._budgets = {name: RetryBudget() for name in settings.providers}
        self._counts: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    @property
    def handlers(self) -> Handlers:
        """For the table of what skills may ask for."""
        return {"llm.call": self.call}

    async def call(self, run: Run, given: Any) -> dict[str, Any]:
        """The answer, recorded. Raises CallRefused, CallFailed, Fenced, Suspended."""
        request = read_request(self._settings, run.task.tenant, given)
        policy = request.args.on_unknown or self._settings.on_unknown
        desk = Desk(self._client, self._budgets, self._clock, self._open_stream, self._counts, self._tokens)
        return await OneCall(desk, run, request, policy).answer()

    def _client(self, provider: str) -> Client | None:
        return self._clients.get(provider)

    def gauges(self) -> Mapping[str, float]:
        """For the metrics: calls by outcome, tokens by kind."""
        calls = {f'llm_calls_total{{outcome="{name}"}}': float(n) for name, n in self._counts.items()}
        return calls | {f'llm_tokens_total{{kind="{kind}"}}': float(n) for kind, n in self._tokens.items()}

    async def close(self) -> None:
        """Let go of all connections."""
        for client in self._clients.values():
            await client.close()
