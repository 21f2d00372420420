"""What skill processes write to stdout and stderr below Python's streams: read, cut into lines, limited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

READ_BYTES = 64 * 1024
PAUSE_S = 0.005
LINE_BYTES_MAX = 4 * 1024
TAIL_BYTES_MAX = 8 * 1024


class OutputPipe:
    """The node's end of a pipe that skills print to.

    A flood is read slowly and dropped, never left in the pipe: the skill would hang in its print.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, fd: int, bytes_max: int, on_line: Callable[[str], None]
    ) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fd
        self._bytes_max = bytes_max
        self._left = bytes_max
        self._on_line = on_line
        self._line = bytearray()
        self._tail = bytearray()
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        loop.add_reader(fd, self._readable)

    @property
    def tail(self) -> str:
        """The last of the output since `reset`, also of what was dropped."""
        return self._tail.decode("utf-8", "replace")

    def reset(self) -> None:
        """A new run begins: a new budget, an empty tail."""
        self._left = self._bytes_max
        if self._tail:
            self._tail.clear()

    def drain(self) -> None:
        """Read what is there now, within reason, and let go an unfinished line."""
        for _ in range(1 + self._bytes_max // READ_BYTES):
            if self._closed or not self._read():
                break
        if self._line:
            self._emit(bytes(self._line))
            self._line.clear()

    def close(self) -> None:
        """Stop reading. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        if self._pause is not None:
            self._pause.cancel()
        os.close(self._fd)

    def _readable(self) -> None:
        self._read()
        if self._left <= 0 and not self._closed:
            self._loop.remove_reader(self._fd)
            self._pause = self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._fd, self._readable)

    def _read(self) -> bool:
        """Read one chunk; False when there was nothing."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            self.close()
            return False
        self._tail += data
        del self._tail[:-TAIL_BYTES_MAX]
        if self._left > 0:
            self._take(data[: self._left])
            self._left -= len(data)
        return True

    def _take(self, data: bytes) -> None:
        self._line += data
        *lines, rest = self._line.split(b"\n")
        for line in lines:
            self._emit(bytes(line))
        self._line = rest
        while len(self._line) > LINE_BYTES_MAX:
            self._emit(bytes(self._line[:LINE_BYTES_MAX]))
            del self._line[:LINE_BYTES_MAX]

    def _emit(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self._on_line(text)
