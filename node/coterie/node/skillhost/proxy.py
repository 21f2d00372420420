"""The one way out of a confined skill's network: an HTTP proxy (CONNECT, and plain http) with its rules.

Runs in the node, one for each run, on a socket that listens in the run's own network: whoever connects is
that run, so no password is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from urllib.parse import urlsplit

from coterie.node.skillhost.egress import Egress, NotAllowed

HEAD_BYTES_MAX = 64 * 1024
CONNECTIONS_MAX = 32
CONNECT_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 300.0
CHUNK_BYTES = 64 * 1024
# Of the connection to the proxy, not of the request (RFC 9110, 7.6.1).
_HOP = frozenset({"connection", "proxy-connection", "proxy-authorization", "keep-alive", "te", "upgrade"})

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

log = logging.getLogger(__name__)


class Proxy:
    """Serves one run until `close`."""

    def __init__(self, egress: Egress, task_id: str) -> None:
        self._egress, self._task_id = egress, task_id
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, door: socket.socket) -> None:
        """Begin to accept; the socket is ours from here."""
        # Known to `close` before the first turn of the loop, in which the run may end.
        self._server = await asyncio.start_server(
            self._accept, sock=door, limit=HEAD_BYTES_MAX, start_serving=False
        )
        await self._server.start_serving()

    async def close(self) -> None:
        """Cut all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if len(self._open) > CONNECTIONS_MAX:
                await _refuse(writer, 503, f"more than {CONNECTIONS_MAX} connections at once")
            else:
                await self._serve_one(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # the skill, its peer or the run has gone
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            host, port, first = _destination(head)
        except (asyncio.LimitOverrunError, ValueError) as error:
            await _refuse(writer, 400, f"not a request to a proxy: {error}")
            return
        try:
            far = await self._egress.connect(host, port, CONNECT_TIMEOUT_S)
        except NotAllowed as error:
            log.warning("a skill was kept from connecting: task_id=%s %s", self._task_id, error)
            await _refuse(writer, 403, str(error))
            return
        except (OSError, TimeoutError) as error:
            await _refuse(writer, 502, f"{host}:{port} cannot be reached: {error}")
            return
        if first:
            far[1].write(first)
        else:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _join((reader, writer), far)


def _destination(head: str) -> tuple[str, int, bytes]:
    """Host, port, and for plain http the request as the host wants it. Raises ValueError."""
    request, *lines = head.split("\r\n")
    method, target, version = request.split(" ")
    if method == "CONNECT":
        host, _, port = target.rpartition(":")
        return host, int(port), b""
    parts = urlsplit(target)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{target!r} is neither http://… nor asked for by CONNECT")
    path = parts._replace(scheme="", netloc="").geturl() or "/"
    kept = [line for line in lines if line and line.partition(":")[0].strip().lower() not in _HOP]
    text = "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "", ""])
    return parts.hostname, parts.port or 80, text.encode("latin-1")


async def _refuse(writer: asyncio.StreamWriter, status: int, reason: str) -> None:
    body = (reason + "\n").encode()
    head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain; charset=utf-8\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    with contextlib.suppress(OSError):
        await writer.drain()


async def _join(near: Streams, far: Streams) -> None:
    """Carry bytes both ways until both sides are done."""
    try:
        await asyncio.gather(_carry(near[0], far[1]), _carry(far[0], near[1]))
    finally:
        far[1].close()


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while True:
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            data = await source.read(CHUNK_BYTES)
            if not data:
                break
            sink.write(data)
            await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
