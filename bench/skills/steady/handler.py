"""Steps, timed from inside."""

from __future__ import annotations

import time
from typing import Any


async def run(ctx: Any, given: dict[str, Any]) -> list[int]:
    """What each step took beyond its function, in microseconds."""
    taken = []
    text = "x" * int(given.get("bytes", 1))
    spent = 0

    async def work() -> str:
        nonlocal spent
        began = time.perf_counter_ns()
        result: str = text[:]
        spent = time.perf_counter_ns() - began
        return result

    for _ in range(given["steps"]):
        began = time.perf_counter_ns()
        await ctx.step("work", work)
        taken.append((time.perf_counter_ns() - began - spent) // 1_000)
    if given.get("wait"):
        await ctx.wait_signal("go")
    return taken
