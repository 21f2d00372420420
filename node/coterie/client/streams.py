"""Streams that survive nodes: opened again on another node, from where the last one stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from coterie.client.caller import Backoff, Caller
from coterie.client.endpoints import Endpoint
from coterie.client.errors import ClusterError

Message = TypeVar("Message")


class Outage:
    """How long a stream is served by nobody: from the first failure after the last sign of life. What the
    reader takes for a message is its own time."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._ends_at: float | None = None

    def over(self) -> None:
        """A node served the stream."""
        self._ends_at = None

    def ends_at(self) -> float:
        """After a failure: when there have been enough."""
        if self._ends_at is None:
            self._ends_at = self._caller.clock() + self._caller.timeouts.outage
        return self._ends_at


async def resumed(
    caller: Caller, open_call: Callable[[Endpoint], Any], kind: type[Message]
) -> AsyncGenerator[Message, None]:
    """Every message of a stream without an end. `open_call` opens it on an endpoint, each time from where the
    reader stands by then. Raises Unavailable when for `timeouts.outage` no node served it."""
    backoff = Backoff()
    endpoint: Endpoint | None = None
    outage = Outage(caller)
    while True:
        endpoint = caller.pool.pick(avoid=endpoint)
        failure = ClusterError("the node ended the stream", code="UNAVAILABLE", reason="SHUTTING_DOWN")
        try:
            with caller.using(endpoint):
                call = open_call(endpoint)
                try:
                    while isinstance(message := await _read(caller, endpoint, call), kind):
                        outage.over()
                        backoff.reset()
                        yield message
                finally:
                    call.cancel()
        except ClusterError as error:
            failure = error
        await caller.before_retry(failure, backoff, outage.ends_at())


async def _read(caller: Caller, endpoint: Endpoint, call: Any) -> Any:
    try:
        async with asyncio.timeout(caller.timeouts.stream_silence):
            return await call.read()
    except TimeoutError:
        raise caller.silent(endpoint, "the node sent no sign of life") from None
