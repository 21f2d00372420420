"""How a process ended, in words."""

from __future__ import annotations

import os
import signal


def describe_status(status: int) -> str:
    """A wait status: the signal's name or the exit code."""
    if not os.WIFSIGNALED(status):
        return f"exited with status {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"
