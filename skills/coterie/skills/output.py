"""What a skill prints and logs, within a budget per run."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from coterie.skills import jsonio

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

RECORD_CHARS_MAX = 4_096


class Budget:
    """Bytes that may still be written in this run. Threads may race for the last of it, harmlessly."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._left = bytes_max
        self.exceeded = False

    def reset(self) -> None:
        """A new run begins."""
        self._left = self._bytes_max
        self.exceeded = False

    def take(self, wanted: int) -> int:
        """How many of `wanted` bytes may be written; the rest is dropped."""
        granted = min(wanted, self._left)
        self._left -= granted
        self.exceeded = self.exceeded or granted < wanted
        return granted


class CappedOutput(io.RawIOBase):
    """A raw stream to a descriptor that silently drops what is above the budget."""

    def __init__(self, fd: int, budget: Budget) -> None:
        self._fd = fd
        self._budget = budget

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        rest = view[: self._budget.take(len(view))]
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        return len(view)


class LogToNode(logging.Handler):
    """Sends log records to the node, level and text."""

    def __init__(self, send: Callable[[str, str], None], budget: Budget) -> None:
        super().__init__()
        self._send = send
        self._budget = budget

    def emit(self, record: logging.LogRecord) -> None:
        """Format and send one record, unless the run has used up its budget."""
        try:
            text = jsonio.clip(self.format(record), RECORD_CHARS_MAX)
        except Exception:
            self.handleError(record)
            return
        size = max(1, len(text))  # an empty one costs the node no less
        if self._budget.take(size) == size:
            self._send(record.levelname.lower(), text)


def capture(send: Callable[[str, str], None], budget: Budget) -> logging.Logger:
    """Route print and logging of this process; returns the logger that skills get."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(CappedOutput(fd, budget))
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    root = logging.getLogger()
    root.handlers[:] = [LogToNode(send, budget)]
    root.setLevel(logging.INFO)
    return logging.getLogger("skill")
