"""Tools of MCP servers as tools of an agent."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from coterie.skills import SkillContext
from coterie.skills.agent.plan import GONE, Tool, tool_name

Pinned = Sequence[Sequence[str]]  # name, server and tool of each


async def server_tools(
    ctx: SkillContext, loaded: Mapping[str, Any], pinned: Pinned | None = None
) -> list[Tool]:
    """What the agent may call of its servers, by the globs of its files and of the operator. `pinned`: these
    and no others, those that the run began with, also what a server has no more: it has results of theirs.
    Raises CallRefused, CallFailed."""
    offered = await _offered(ctx, loaded)
    if pinned is None:
        return list(offered.values())
    tools = []
    for name, server, tool in pinned:
        tools.append(offered.get(name) or Tool(name, tool, GONE, {"type": "object"}, server=server))
    return tools


async def _offered(ctx: SkillContext, loaded: Mapping[str, Any]) -> dict[str, Tool]:
    offered = {}
    for server, allow in loaded["mcp"].items():
        for one in await ctx.mcp_tools(server):
            name = tool_name(f"{server}__{one.name}")
            if _allowed(one.name, allow, name, loaded):
                offered[name] = Tool(name, one.name, one.description, one.input_schema, server=server)
    return offered


def _allowed(tool: str, allow: Sequence[str], name: str, loaded: Mapping[str, Any]) -> bool:
    if any(fnmatch.fnmatchcase(name, glob) for glob in loaded["deny"]):
        return False
    here = any(fnmatch.fnmatchcase(tool, glob) for glob in allow)
    return here and any(fnmatch.fnmatchcase(name, glob) for glob in loaded["allow"])
