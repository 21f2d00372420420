"""Waits between steps."""

from __future__ import annotations

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
    told = []
    await ctx.step("begin", witness, input["witness"], f"{ctx.task_id} begin {ctx.attempt}")
    if input.get("sleep_ms"):
        await ctx.sleep(input["sleep_ms"] / 1000)
    for name in input.get("signals", ()):
        timeout_ms = input.get("timeout_ms")
        told.append(await ctx.wait_signal(name, timeout_ms and timeout_ms / 1000))
        await ctx.step(f"after {name}", witness, input["witness"], f"{ctx.task_id} {name} {ctx.attempt}")
    return {"told": told, "attempt": ctx.attempt}
