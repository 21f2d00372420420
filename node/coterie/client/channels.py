"""As many connections to one address as its open calls need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

# Open at once on one connection. A node admits 1 000; what is beyond waits inside gRPC, unseen, for its turn.
CALLS_MAX = 900


class _Line:
    """One connection, and how many calls are open on it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel, self.calls = channel, 0
        self.methods: dict[str, Callable[..., Any]] = {}  # by path, made at first use


class Channels:
    """Many channels as one, as much of it as generated stubs use.

    A call takes the first channel that has room for it, so that few calls use one connection. An empty
    channel is closed when another is half empty; until then it is kept for the next call.
    """

    def __init__(self, connect: Callable[[], grpc.aio.Channel]) -> None:
        self._connect = connect
        self._lines: list[_Line] = []
        self._closed = False
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Closes every channel; calls on them end at once."""
        self._closed = True
        lines, self._lines = self._lines, []
        for line in lines:
            await line.channel.close()
        await asyncio.gather(*self._closing)

    def unary_unary(self, path: str, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._method(path, lambda channel: channel.unary_unary(path, *arguments, **options))

    def unary_stream(self, path: str, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._method(path, lambda channel: channel.unary_stream(path, *arguments, **options))

    def stream_unary(self, path: str, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._method(path, lambda channel: channel.stream_unary(path, *arguments, **options))

    def stream_stream(self, path: str, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._method(path, lambda channel: channel.stream_stream(path, *arguments, **options))

    def _method(self, path: str, make: Callable[[grpc.aio.Channel], Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            line = self._with_room()
            method = line.methods.get(path)
            if method is None:
                method = line.methods[path] = make(line.channel)
            opened = method(*arguments, **options)
            line.calls += 1
            opened.add_done_callback(lambda _: self._ended(line))
            return opened

        return call

    def _with_room(self) -> _Line:
        if self._closed:
            raise grpc.aio.UsageError("the channel is closed")
        for line in self._lines:
            if line.calls < CALLS_MAX:
                return line
        self._lines.append(_Line(self._connect()))
        return self._lines[-1]

    def _ended(self, line: _Line) -> None:
        line.calls -= 1
        if len(self._lines) <= 1:
            return
        first = self._lines[0]
        used = [one for one in self._lines if one.calls or one is first]
        if all(one.calls > CALLS_MAX // 2 for one in used):
            return
        for empty in self._lines:
            if empty not in used:
                closing = asyncio.create_task(empty.channel.close(), name="coterie-client-close")
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        self._lines = used
