"""A stretch of time."""

from __future__ import annotations

import asyncio
import time
from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> list[float]:
    began = time.monotonic()
    await asyncio.sleep(input["ms"] / 1000)
    return [1000 * began, 1000 * time.monotonic()]
