"""Steps with an independent witness."""

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


async def run(ctx: Any, input: dict[str, Any]) -> dict[str, Any]:
    done = []

    async def one(number: int) -> int:
        await asyncio.sleep(input.get("step_ms", 50) / 1000)
        witness(input["witness"], f"{ctx.task_id} {number} {ctx.attempt} {os.getpid()}")
        return number * number

    first = (ctx.restored or {}).get("next", 0) if input.get("checkpoint") else 0
    for number in range(first, input["steps"]):
        done.append(await ctx.step(f"step-{number}", one, number))
        await ctx.progress(100 * (number + 1) / input["steps"], f"step {number}")
        if input.get("checkpoint"):
            await ctx.checkpoint({"next": number + 1})
    return {"squares": done, "first": first, "attempt": ctx.attempt}
