"""Frames between node, zygote and children: two lengths, a JSON header, raw body bytes. No pickle.

    uint32 header length | uint32 body length | header: a JSON object with "op" | body

Every length is checked before anything is allocated, because children are not trusted.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

LENGTHS = struct.Struct("!II")
HEADER_BYTES_MAX = 256 * 1024  # a message and a traceback, of characters that take 12 bytes each in JSON
RECEIVE_BYTES = 32 * 1024
DRAIN_READS_MAX = 512
JOINED_BYTES_MAX = 64 * 1024  # parts of a body that are larger are sent as they are: joining them is a copy

_write_json = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps makes one for each call

Header = dict[str, Any]


class Frame(NamedTuple):
    """One message. The header always has a str under "op"."""

    header: Header
    body: bytes


class FrameError(Exception):
    """The other side broke the protocol; the connection is of no more use."""


def encode_frame(header: Header, body: bytes = b"") -> bytes:
    """The bytes of one frame."""
    text = _write_json(header).encode()
    return b"".join((LENGTHS.pack(len(text), len(body)), text, body))


def encode_parts(header: Header, parts: Sequence[bytes]) -> list[bytes]:
    """The same for a body in several parts, in few pieces."""
    text = _write_json(header).encode()
    pieces, small = [], [LENGTHS.pack(len(text), sum(map(len, parts))), text]
    size = len(text)
    for part in filter(None, parts):
        if size + len(part) > JOINED_BYTES_MAX:
            pieces.append(b"".join(small))  # no copy when it is one alone
            small, size = [], 0
        small.append(part)
        size += len(part)
    return [*pieces, b"".join(small)]


class FrameDecoder:
    """Bytes in, frames out (sans-I/O). Limits are in bytes."""

    def __init__(self, body_bytes_max: int, header_bytes_max: int = HEADER_BYTES_MAX) -> None:
        self._body_bytes_max = body_bytes_max
        self._header_bytes_max = header_bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames completed by `data`. Raises FrameError."""
        self._buffer += data
        frames = []
        while (frame := self._take()) is not None:
            frames.append(frame)
        return frames

    def _take(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < LENGTHS.size:
            return None
        header_length, body_length = LENGTHS.unpack_from(buffer)
        if header_length > self._header_bytes_max or body_length > self._body_bytes_max:
            raise FrameError(f"a frame of {header_length} + {body_length} bytes is above the limit")
        header_end = LENGTHS.size + header_length
        end = header_end + body_length
        if len(buffer) < end:
            return None
        header = _parse_header(bytes(buffer[LENGTHS.size : header_end]))
        body = bytes(buffer[header_end:end])
        del buffer[:end]
        return Frame(header, body)


def _parse_header(text: bytes) -> Header:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameError("a frame's header is not JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("op"), str):
        raise FrameError("a frame's header has no op")
    return header


class FrameSocket:
    """A non-blocking stream socket that speaks frames on an asyncio loop (uvloop included).

    `on_frame` runs in the loop for each frame; `on_closed` runs once, with None at end of stream or the
    error that ended it. Sending never blocks: what the kernel does not take is queued, and who sends to one
    that may not read watches `unsent_bytes`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        decoder: FrameDecoder,
        on_frame: Callable[[Frame], None],
        on_closed: Callable[[Exception | None], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._decoder = decoder
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._unsent: deque[tuple[memoryview, Sequence[int]]] = deque()
        self.unsent_bytes = 0
        self._paused = False
        self.closed = False
        loop.add_reader(sock.fileno(), self._readable)

    def send(self, header: Header, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send one frame. `fds` travel with it; they are closed on this side once they are sent."""
        self._put(encode_frame(header, body), fds)

    def send_parts(self, header: Header, parts: Sequence[bytes]) -> None:
        """Send one frame with the parts for a body. However large that is, it is not copied."""
        for piece in encode_parts(header, parts):
            self._put(piece, ())

    def _put(self, data: bytes, fds: Sequence[int]) -> None:
        if self.closed:
            _close_all(fds)
            return
        if not self._unsent:
            sent = self._try_send(data, fds)
            if sent == len(data) or self.closed:
                return
            rest, fds = memoryview(data)[sent:], () if sent else fds
            self._loop.add_writer(self._sock.fileno(), self._writable)
        else:
            rest = memoryview(data)
        self._unsent.append((rest, fds))
        self.unsent_bytes += len(rest)

    def pause(self, paused: bool) -> None:
        """Whether what arrives is left where it is for now."""
        if paused != self._paused and not self.closed:
            self._paused = paused
            if paused:
                self._loop.remove_reader(self._sock.fileno())
            else:
                self._loop.add_reader(self._sock.fileno(), self._readable)

    def drain(self) -> None:
        """Read and handle what has arrived, now; no more than a socket holds, if somebody goes on writing."""
        for _ in range(DRAIN_READS_MAX):
            if self.closed or not self._read_once():
                return

    def close(self) -> None:
        """Close without calling `on_closed`. May be called twice."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._unsent:
            _close_all(fds)
        self._unsent.clear()
        self.unsent_bytes = 0

    def _readable(self) -> None:
        self._read_once()

    def _read_once(self) -> bool:
        """Read one chunk; False when there was nothing."""
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:
            # The other side is gone and had not read everything: it died, as by a signal, and broke no rule.
            self._end(None)
            return False
        except OSError as error:
            self._end(error)
            return False
        if not data:
            self._end(None)
            return False
        try:
            frames = self._decoder.feed(data)
        except FrameError as error:
            self._end(error)
            return False
        for frame in frames:
            if not self.closed:
                self._on_frame(frame)
        return True

    def _try_send(self, data: bytes | memoryview, fds: Sequence[int]) -> int:
        try:
            sent = socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            # The reader will see the end of the stream, after what the other side still had to say.
            _close_all(fds)
            return len(data)
        _close_all(fds)
        return sent

    def _writable(self) -> None:
        while self._unsent:
            data, fds = self._unsent[0]
            sent = self._try_send(data, fds)
            if sent == 0:
                return
            self.unsent_bytes -= sent
            if sent < len(data):
                self._unsent[0] = (data[sent:], ())
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _end(self, error: Exception | None) -> None:
        if not self.closed:
            self.close()
            self._on_closed(error)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
