"""HTTP/1.1 on asyncio streams: one request after the other per connection, whole bodies in, chunks out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import h11

BODY_BYTES_MAX = 20 * 1024 * 1024
READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A request that has arrived whole."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Hangup(Exception):
    """Close the connection now, whatever was said so far."""


class Exchange:
    """The answer to one request."""

    def __init__(self, connection: h11.Connection, writer: asyncio.StreamWriter) -> None:
        self._connection, self._writer = connection, writer

    async def json(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        body = json.dumps(content).encode()
        given = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        await self._send(h11.Response(status_code=status, headers=list(given.items())))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def start_events(self, headers: Mapping[str, str] | None = None) -> None:
        """An answer of server-sent events."""
        given = {"content-type": "text/event-stream", **(headers or {})}
        await self._send(h11.Response(status_code=200, headers=list(given.items())))

    async def event(self, data: str, name: str = "") -> None:
        """One event."""
        head = f"event: {name}\n" if name else ""
        await self._send(h11.Data(data=f"{head}data: {data}\n\n".encode()))

    async def end_events(self) -> None:
        await self._send(h11.EndOfMessage())

    async def _send(self, event: Any) -> None:
        data = self._connection.send(event)
        if data:
            self._writer.write(data)
            await self._writer.drain()


Serve = Callable[[Request, Exchange], Awaitable[None]]


async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, serve: Serve) -> None:
    """Answer requests until the client leaves or breaks the protocol."""
    connection = h11.Connection(h11.SERVER)
    try:
        while (request := await _read(connection, reader)) is not None:
            await serve(request, Exchange(connection, writer))
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()
    except (h11.ProtocolError, ConnectionError, Hangup):
        writer.transport.abort()
    finally:
        writer.close()


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > BODY_BYTES_MAX:
                raise Hangup
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, bytes(body))
        else:
            return None


def _request(head: h11.Request, body: bytes) -> Request:
    target = urlsplit(head.target.decode())
    headers = {name.decode().lower(): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode(), target.path, dict(parse_qsl(target.query)), headers, body)
