"""Makes calls under a limit of the cluster."""

from __future__ import annotations

from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> int:
    for _ in range(input["calls"]):
        await ctx.limit(input["limit"], timeout=input.get("timeout", 30))
    return int(input["calls"])
