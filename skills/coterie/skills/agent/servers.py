"""Tools of MCP servers as tools of an agent."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from coterie.skills import SkillContext
from coterie.skills.agent.plan import Tool, tool_name


async def server_tools(
    ctx: SkillContext, loaded: Mapping[str, Any], pinned: Sequence[str] | None = None
) -> list[Tool]:
    """What the agent may call of its servers, by the globs of its files and of the operator. `pinned`: only
    these names, those that the run began with. Raises CallRefused, CallFailed."""
    tools: list[Tool] = []
    for server, allow in loaded["mcp"].items():
        for one in await ctx.mcp_tools(server):
            name = tool_name(f"{server}__{one.name}")
            if _allowed(one.name, allow, name, loaded) and (pinned is None or name in pinned):
                tools.append(Tool(name, one.name, one.description, one.input_schema, server=server))
    return tools


def _allowed(tool: str, allow: Sequence[str], name: str, loaded: Mapping[str, Any]) -> bool:
    if any(fnmatch.fnmatchcase(name, glob) for glob in loaded["deny"]):
        return False
    here = any(fnmatch.fnmatchcase(tool, glob) for glob in allow)
    return here and any(fnmatch.fnmatchcase(name, glob) for glob in loaded["allow"])
