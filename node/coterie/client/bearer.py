"""A token with every call: it goes over TLS only, and is never shown in a repr."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio

from coterie.client.errors import ConfigError

_TOKEN = re.compile(r"[\x21-\x7e]{16,4096}")


def checked(token: str) -> str:
    """The token without white space around it. Raises ConfigError, which does not repeat it."""
    bare = token.strip()
    if not _TOKEN.fullmatch(bare):
        raise ConfigError("token: is no token; give the text that `coterie token create` printed")
    return bare


class BearerChannel:
    """A channel whose calls carry the token. As much of a channel as generated stubs use."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def unary_unary(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._signed(self._channel.unary_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._signed(self._channel.unary_stream(*arguments, **options))

    def stream_unary(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._signed(self._channel.stream_unary(*arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._signed(self._channel.stream_stream(*arguments, **options))

    def _signed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def signed(*arguments: Any, metadata: Sequence[tuple[str, Any]] = (), **options: Any) -> Any:
            return call(*arguments, metadata=(*metadata, *self._metadata), **options)

        return signed
