"""Ways to harm a node."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import sys
from typing import Any

LIMIT_BYTES = 2 << 30


async def run(ctx: Any, input: dict[str, Any]) -> None:
    how = input["how"]
    if how == "abort":
        os.abort()
    if how == "segv":
        ctypes.string_at(0)
    if how == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        hoard = []
        while True:
            hoard.append(bytearray(64 * 1024 * 1024))
    if how == "loop":
        while True:
            pass
    if how == "flood":
        for _ in range(800):
            sys.stdout.write("x" * 65_536)
            sys.stdout.flush()
        raise RuntimeError("50 MB said")
    asyncio.get_running_loop().call_later(0.0, os._exit, 3)
    while True:
        await ctx.checkpoint({"blob": "x" * 100_000})
