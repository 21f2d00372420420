"""Agents for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coterie.client import agents
from coterie.client.sync_queueing import Run


class Agents:
    """See `coterie.client.agents.Agents`."""

    def __init__(self, run: Run, inner: agents.Agents) -> None:
        self._run, self._inner = run, inner

    def apply(
        self, agent: str | Path | Mapping[str, str], *, percent: int = 100, validate_only: bool = False
    ) -> agents.Agent:
        """See `coterie.client.agents.Agents.apply`."""
        return self._run(self._inner.apply(agent, percent=percent, validate_only=validate_only))

    def list(self) -> agents.AgentList:
        """See `coterie.client.agents.Agents.list`."""
        return self._run(self._inner.list())

    def get(self, agent_id: str, revision: str = "") -> agents.Agent:
        """See `coterie.client.agents.Agents.get`."""
        return self._run(self._inner.get(agent_id, revision))

    def status(self, agent_id: str = "") -> agents.StatusList:
        """See `coterie.client.agents.Agents.status`."""
        return self._run(self._inner.status(agent_id))

    def roll_back(self, agent_id: str) -> agents.Agent:
        """See `coterie.client.agents.Agents.roll_back`."""
        return self._run(self._inner.roll_back(agent_id))

    def match(self, *wanted: str, strategy: str = "") -> agents.Match:
        """See `coterie.client.agents.Agents.match`."""
        return self._run(self._inner.match(*wanted, strategy=strategy))

    def remove(self, agent_id: str) -> None:
        """See `coterie.client.agents.Agents.remove`."""
        self._run(self._inner.remove(agent_id))
