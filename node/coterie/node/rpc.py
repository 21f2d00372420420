"""What every handler shares: errors become google.rpc.Status, and nothing escapes as UNKNOWN."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NoReturn, TypeVar, cast

import grpc

from coterie.node.bodies import UNREADABLE, unreadable
from coterie.node.concise import concise
from coterie.node.errors import STATUS_DETAILS_KEY, ApiError, from_exception, to_status
from coterie.node.observability import get_logger

log = get_logger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]
NO_DEADLINE_S = 3_600.0
PROPOSE_MAX_S = 60.0
DEADLINE_MARGIN_S = 0.05


class Gate:
    """How many calls of clients are inside at once: peers must find a free place even when clients fill the
    node with waiting calls. A service has one as its attribute `gate`, or none."""

    def __init__(self, calls_max: int) -> None:
        self._free = calls_max

    @contextmanager
    def call(self) -> Iterator[None]:
        """Raises ApiError RESOURCE_EXHAUSTED when it is full."""
        if self._free <= 0:
            message = "too many calls are open on this node; close some, or use another node"
            raise ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", message, retry_after_ms=500)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


_OPEN = Gate(sys.maxsize)


def _gate(service: object) -> Gate:
    return getattr(service, "gate", _OPEN)


def seconds_left(context: Context) -> float:
    """Until the RPC deadline; an hour when the caller set none."""
    left = context.time_remaining()
    return NO_DEADLINE_S if left is None else max(0.0, left)


def propose_seconds(context: Context) -> float:
    """How long a call may wait for its command to commit, so that it still can answer."""
    return max(DEADLINE_MARGIN_S, min(seconds_left(context) - DEADLINE_MARGIN_S, PROPOSE_MAX_S))


async def abort(context: Context, error: ApiError) -> NoReturn:
    """End the call with the error's status, as far as there is room for it."""
    told = concise(error)
    details = to_status(told).SerializeToString()
    await context.abort(told.code, told.message, trailing_metadata=((STATUS_DETAILS_KEY, details),))


async def _refuse(context: Context, error: Exception) -> NoReturn:
    api_error = from_exception(error)
    if api_error.code is grpc.StatusCode.INTERNAL:
        log.error("a call failed", exc_info=error)
    await abort(context, api_error)


def unary(
    handler: Callable[[Any, Request, Context], Awaitable[Response]],
) -> Callable[[Any, Request, Context], Awaitable[Response]]:
    """Wrap a unary handler (a method) so that its exceptions become statuses."""

    @functools.wraps(handler)
    async def wrapped(self: Any, request: Request, context: Context) -> Response:
        try:
            with _gate(self).call():
                return await handler(self, request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            await _refuse(context, error)

    return wrapped


def streaming(
    handler: Callable[[Any, Request, Context], AsyncIterator[Response]],
) -> Callable[[Any, Request, Context], AsyncIterator[Response]]:
    """The same for handlers that yield; what they hold is let go of as soon as the caller has gone."""

    @functools.wraps(handler)
    async def wrapped(self: Any, request: Request, context: Context) -> AsyncIterator[Response]:
        try:
            if request is UNREADABLE:
                raise unreadable()
            generator = cast("AsyncGenerator[Response, None]", handler(self, request, context))
            with _gate(self).call():
                async with aclosing(generator) as responses:
                    async for response in responses:
                        yield response
        except (asyncio.CancelledError, grpc.aio.AbortError, GeneratorExit):
            raise
        except Exception as error:
            await _refuse(context, error)

    return wrapped
