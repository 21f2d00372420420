"""An effect on a file, slow enough to be killed in the middle."""

from __future__ import annotations

import asyncio
import os
from typing import Any


def witness(path: str, line: str) -> None:
    """One atomic append."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (line + "\n").encode())
    finally:
        os.close(fd)


async def run(ctx: Any, input: dict[str, Any]) -> Any:
    async def send(effect: Any) -> str:
        witness(input["witness"], f"{effect.key} {effect.attempt}")
        await asyncio.sleep(input.get("ms", 0) / 1000)
        return "sent"

    if "call" in input:
        decision = await ctx.approve("May I?", input["call"], input.get("approvers", 1))
        await ctx.emit("decided", {"by": list(decision.by)})
        if not decision:
            return "not allowed"
    options = {"on_unknown": input["on_unknown"]} if "on_unknown" in input else {}
    return await ctx.effect("send", send, key=f"{ctx.task_id}-mail", **options)
