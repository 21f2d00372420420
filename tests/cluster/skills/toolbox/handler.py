"""Calls of MCP tools, one after the other."""

from __future__ import annotations

from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"servers": await ctx.mcp_servers()}
    if "list" in input:
        found["tools"] = {one.name: one.input_schema for one in await ctx.mcp_tools(input["list"])}
    options = {"on_unknown": input["on_unknown"]} if "on_unknown" in input else {}
    answers = [await ctx.mcp(*call, **options) for call in input.get("calls", ())]
    told = [[one.text, one.is_error, one.replayed] for one in answers]
    return {**found, "answers": told, "attempt": ctx.attempt}
