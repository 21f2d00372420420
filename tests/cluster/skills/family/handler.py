"""A parent with children, and children of children."""

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
    if "number" in input:
        if input["number"] in input.get("broken", ()):
            raise ValueError(f"number {input['number']} is broken")
        await asyncio.sleep(input.get("ms", 0) / 1000)
        await ctx.step("done", witness, input["witness"], f"{ctx.task_id} {ctx.attempt}")
        return input["number"] ** 2
    numbers = range(input["children"])
    shared: dict[str, Any] = {key: input[key] for key in ("witness", "ms", "broken") if key in input}
    if input.get("deep"):
        given = {key: input[key] for key in input if key != "deep"}
        return sum(await ctx.gather(*(ctx.task("family", given) for _ in range(input["deep"]))))
    children = [ctx.task("family", {"number": n, **shared}, max_attempts=1) for n in numbers]
    results = await ctx.gather(*children, window=input.get("window", 16))
    return sum(results)
