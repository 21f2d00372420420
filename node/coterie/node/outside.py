"""What the node calls outside the cluster on behalf of skills: language models and MCP servers."""

from __future__ import annotations

from collections.abc import Mapping

from coterie.node.breakers import Breakers
from coterie.node.clock import Clock
from coterie.node.config import NodeSettings
from coterie.node.llm.calls import LlmCaller
from coterie.node.llm.tokens import TokenHub
from coterie.node.mcp.calls import McpCaller
from coterie.node.skill_calls import Handlers


class Outside:
    """One of each."""

    def __init__(self, settings: NodeSettings, breakers: Breakers, clock: Clock) -> None:
        self.tokens = TokenHub()
        self.llm = LlmCaller(settings.llm, breakers, clock, self.tokens)
        self.mcp = McpCaller(settings.mcp)

    @property
    def handlers(self) -> Handlers:
        """For the table of what skills may ask for."""
        return {**self.llm.handlers, **self.mcp.handlers}

    def gauges(self) -> Mapping[str, float]:
        """For the metrics."""
        return {**self.llm.gauges(), **self.mcp.gauges()}

    def prepare(self) -> None:
        """Begin to load what the first calls will need."""
        self.llm.prepare()
        self.mcp.prepare()

    async def close(self) -> None:
        """Let go of all connections, also of the second where the first cannot be."""
        try:
            await self.mcp.close()
        finally:
            await self.llm.close()
