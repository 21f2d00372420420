"""Wait in recorded steps."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from coterie.skills import NonRetryable, SkillContext

SECONDS_MAX = 86_400.0
STEPS_MAX = 1_000


async def run(ctx: SkillContext, input: Any) -> dict[str, Any]:
    """Sleep `seconds` in `steps` equal recorded pieces."""
    seconds, steps = _checked(input)
    for number in range(1, steps + 1):
        await ctx.step("nap", _nap, seconds / steps)
        await ctx.progress(100 * number / steps, f"{number} of {steps}")
    return {"slept_seconds": seconds, "steps": steps}


async def _nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def _checked(given: Any) -> tuple[float, int]:
    fields = given if isinstance(given, dict) else {"seconds": given}
    seconds, steps = fields.get("seconds", 1), fields.get("steps", 1)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise NonRetryable(
            f"seconds: {seconds!r} is not a number; give seconds such as 1.5", code="BAD_INPUT"
        )
    if not 0 <= seconds <= SECONDS_MAX:
        raise NonRetryable(f"seconds: {seconds} is not in 0..{SECONDS_MAX:.0f}", code="BAD_INPUT")
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= STEPS_MAX:
        raise NonRetryable(f"steps: {steps!r} is not a whole number in 1..{STEPS_MAX}", code="BAD_INPUT")
    return float(seconds), steps
