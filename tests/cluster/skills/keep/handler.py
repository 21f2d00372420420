"""One checkpoint, of the size that is asked for."""

from __future__ import annotations

from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> int:
    await ctx.checkpoint("x" * (input["bytes"] - 2))
    return int(input["bytes"])
