"""A skill that will not be talked to."""

from __future__ import annotations

import asyncio
from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue
