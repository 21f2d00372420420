"""Adds one to a shared counter under a lock, a few times."""

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
    begun = await ctx.now()
    for turn in range(input["rounds"]):
        async with ctx.lock("share/counter", ttl=20.0) as token:
            witness(input["witness"], f"in {token} {ctx.task_id}")
            entry = await ctx.kv.entry("share/counter")
            await ctx.kv.put("share/counter", (entry.value if entry else 0) + 1)
            await asyncio.sleep(input["hold_ms"] / 1000)
            witness(input["witness"], f"out {token} {ctx.task_id}")
        await ctx.publish("share.done", {"task": ctx.task_id, "turn": turn}, headers={"by": "share"})
    return {"begun": begun.isoformat(), "attempt": ctx.attempt}
