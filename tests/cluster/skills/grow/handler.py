"""A planner that is no model."""

from __future__ import annotations

from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> list[str]:
    added: list[str] = await ctx.add_nodes(input["nodes"])
    return added
