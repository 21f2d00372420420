"""A skill that never gives its event loop back."""

from __future__ import annotations

from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> None:
    while True:
        pass
