"""The end of a process that took too much memory, without taking it."""

from __future__ import annotations

import os
import signal
from typing import Any


async def run(ctx: Any, input: Any) -> None:
    """SIGKILL, as the kernel sends it."""
    os.kill(os.getpid(), signal.SIGKILL)
