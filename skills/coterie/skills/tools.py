"""ctx.tool: a tool by its name, as agents call theirs: another skill, or a tool of an MCP server."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

from coterie.skills.children import Child
from coterie.skills.errors import NonRetryable
from coterie.skills.mcp import McpAnswer

OF_SERVER = "__"  # between the names of a server and of its tool


class ToolFailed(NonRetryable):
    """The tool answered with an error, which is recorded: a later attempt gets the same."""

    code = "TOOL_FAILED"


class Tools:
    """What a context offers to those who call tools by name."""

    def task(self, type: str, payload: Any = None, *, name: str = "", **options: Any) -> Child:
        raise NotImplementedError

    def mcp(
        self, server: str, tool: str, arguments: Mapping[str, Any] | None = None, *, name: str = ""
    ) -> Coroutine[Any, Any, McpAnswer]:
        raise NotImplementedError

    async def tool(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, name: str = "", **options: Any
    ) -> Any:
        """Await this: the result of a tool, recorded.

        `SERVER__TOOL` is that tool of an MCP server, see `mcp`; its result is the structured one where it has
        one, else its text. Anything else is a skill, whose task is a child of this one, see `task`, which
        also takes the `options`. `name` is that of the step or child. Raises ToolFailed (an MCP tool says
        that it went wrong), TaskFailed, ValueError, and what `mcp` and `gather` raise."""
        server, is_theirs, theirs = tool.partition(OF_SERVER)
        if not is_theirs:
            return await self.task(tool, dict(arguments or {}), name=name, **options)
        if options:
            raise ValueError(f"tool: {min(options)!r} is an option of tasks; {tool} is a tool of a server")
        answer = await self.mcp(server, theirs, arguments, name=name)
        if answer.is_error:
            raise ToolFailed(f"{tool}: {answer.text}")
        return answer.text if answer.structured is None else answer.structured
