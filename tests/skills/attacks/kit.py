"""What all attacks share."""

from __future__ import annotations

import ctypes
import os
from typing import Any

MIB = 1024 * 1024
ATTACKS: dict[str, Any] = {}
libc = ctypes.CDLL(None, use_errno=True)


def attack(function: Any) -> Any:
    """Register it under its name."""
    ATTACKS[function.__name__] = function
    return function


def syscall(number: int, *arguments: Any) -> int:
    """x86-64 numbers; a negative answer is an error."""
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
