"""Return the input unchanged."""

from __future__ import annotations

from typing import Any

from coterie.skills import SkillContext


async def run(ctx: SkillContext, input: Any) -> Any:
    """The result is the input."""
    return input
