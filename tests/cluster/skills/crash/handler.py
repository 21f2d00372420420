"""Ways to die."""

from __future__ import annotations

import os
from typing import Any

from coterie.skills import NonRetryable


async def run(ctx: Any, input: dict[str, Any]) -> None:
    how = input["how"]
    if how == "abort":
        os.abort()
    if how == "exit":
        os._exit(3)
    if how == "raise-final":
        raise NonRetryable("never again")
    raise RuntimeError("told to fail")
