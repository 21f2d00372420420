"""The sum of the results."""

from __future__ import annotations

from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> dict[str, Any]:
    return {"sum": sum(input["results"]), "of": len(input["results"]), "failed": len(input.get("failed", []))}
