"""A skill that takes longer than its own timeout."""

from __future__ import annotations

import asyncio
from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> Any:
    if input.get("child"):
        return await ctx.task("brief", {}, name="late", max_attempts=1)
    await asyncio.sleep(300)
    return None
