"""Streams that survive nodes: opened again on another node, from where the last one stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from coterie.client.caller import Backoff, Caller
from coterie.client.endpoints import Endpoint
from coterie.client.errors import ClusterError

Message = TypeVar("Message")


async def resumed(
    caller: Caller, open_call: Callable[[Endpoint], Any], kind: type[Message]
) -> AsyncGenerator[Message, None]:
    """Every message of a stream without an end. `open_call` opens it on an endpoint, each time from where the
    reader stands by then. Raises Unavailable after `timeouts.outage` without any message."""
    backoff = Backoff()
    endpoint: Endpoint | None = None
    deadline = caller.clock() + caller.timeouts.outage
    while True:
        endpoint = caller.pool.pick(avoid=endpoint)
        failure = ClusterError("the node ended the stream", code="UNAVAILABLE", reason="SHUTTING_DOWN")
        try:
            with caller.using(endpoint):
                call = open_call(endpoint)
                try:
                    while isinstance(message := await _read(caller, endpoint, call), kind):
                        deadline = caller.clock() + caller.timeouts.outage
                        backoff.reset()
                        yield message
                finally:
                    call.cancel()
        except ClusterError as error:
            failure = error
        await caller.before_retry(failure, backoff, deadline)


async def _read(caller: Caller, endpoint: Endpoint, call: Any) -> Any:
    try:
        async with asyncio.timeout(caller.timeouts.stream_silence):
            return await call.read()
    except TimeoutError:
        raise caller.silent(endpoint, "the node sent no sign of life") from None
