"""How busy the machine is with other things, which limits in seconds must allow for."""

from __future__ import annotations

import os

BUSY_FACTOR = 2.0


def is_busy() -> bool:
    """More is ready to run than there are cores: then what takes a second alone takes longer."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def patience(busy: bool) -> float:
    """What to multiply limits in seconds by."""
    return BUSY_FACTOR if busy else 1.0
