"""A skill without steps, whose state is asked for."""

from __future__ import annotations

import asyncio
from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> list[Any]:
    """Where each attempt began, and where it ran."""
    past = ctx.restored or {"at": 0, "attempts": []}
    at, attempts = past["at"], [*past["attempts"], [past["at"], ctx.node_id]]
    ctx.on_checkpoint(lambda: {"at": at, "attempts": attempts})
    while at < input["to"]:
        await asyncio.sleep(input["pause_ms"] / 1_000)
        at += 1
    return attempts
