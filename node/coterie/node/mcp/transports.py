"""The library's transports, which note what became of each call. Imported with the first connection."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
from anyio.streams.text import TextReceiveStream
from mcp import StdioServerParameters
from mcp.client import stdio
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from coterie.node.mcp.exchange import Exchange, current

SESSION_HEADER = "mcp-session-id"
# Of one message of a server, well above what is kept of an answer: the library gathers a message whole, and
# looks at all there is of a line with each piece of it, which takes minutes for what takes a second to send.
MESSAGE_SIZE_MAX = 32 << 20


class _Lines(TextReceiveStream):
    """What a program writes, whose lines have an end. A longer one is the end of the connection."""

    _size = 0

    async def receive(self) -> str:
        text = await super().receive()
        end = text.rfind("\n")
        self._size = self._size + len(text) if end < 0 else len(text) - end - 1
        if self._size > MESSAGE_SIZE_MAX:
            await self.aclose()  # else the library reads on to the end of the program before it says so
            raise anyio.BrokenResourceError(f"a line of more than {MESSAGE_SIZE_MAX} characters")
        return text


stdio.TextReceiveStream = _Lines  # type: ignore[attr-defined]  # the library has no limit of its own


class _Body(httpx2.AsyncByteStream):
    """An answer by HTTP, which has an end."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MESSAGE_SIZE_MAX
        async for piece in self._inner:
            left -= len(piece)
            if left < 0:
                raise httpx2.StreamError(f"more than {MESSAGE_SIZE_MAX} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


class NotingClient(httpx2.AsyncClient):
    """An HTTP client."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """See AsyncClient."""
        exchange = current() if _is_request(request) else Exchange()
        exchange.posts += 1
        try:
            response = await super().send(request, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
            exchange.unreached = exchange.posts == 1
            raise
        exchange.answered(response.status_code, SESSION_HEADER in request.headers)
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        if isinstance(response.stream, httpx2.AsyncByteStream) and not is_stream:
            response.stream = _Body(response.stream)
        return response


def _is_request(request: httpx2.Request) -> bool:
    """Whether it asks for something; else it takes up an answer, or tells that nobody waits for one."""
    said = json.loads(request.content) if request.method == "POST" else None
    return isinstance(said, dict) and "id" in said and "method" in said


class _NotingStream:
    """The way to a server. It is used by the task that calls, whatever other tasks the library makes."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def send(self, item: Any) -> None:
        exchange = current()
        before, exchange.sent = exchange.sent, True
        try:
            await self._inner.send(item)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # nobody took it
            exchange.sent = before
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> _NotingStream:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._inner.__aexit__(*error)


@asynccontextmanager
async def program(server: StdioServerParameters) -> AsyncGenerator[Any, None]:
    """A program that is started, and ends with the context."""
    async with stdio_client(server) as (reading, writing):
        yield reading, _NotingStream(writing)


@asynccontextmanager
async def address(url: str, client: NotingClient) -> AsyncGenerator[Any, None]:
    """A server at an address."""
    async with streamable_http_client(url, http_client=client) as (reading, writing):
        yield reading, _NotingStream(writing)
