"""Calls that end leave nothing behind.

gRPC keeps a call that was aborted, with its request, in a ring of references until the collector of garbage
comes by, which is seldom here (see start.calm_the_collector). A call whose stream of messages is left before
its end is kept for good, unless the iterator over them is closed. Either would let a caller whose large
requests are refused fill the memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

import grpc
import grpc.aio


class Forgetting(grpc.aio.ServerInterceptor):
    """Cuts the ring. It has to be the first interceptor: whatever is outside of it is in the ring as well."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None or not str(handler_call_details.method).startswith("/coterie."):
            return handler
        asked = "stream" if handler.request_streaming else "unary"
        kind = f"{asked}_{'stream' if handler.response_streaming else 'unary'}"
        forgetting = _stream if handler.response_streaming else _unary
        return handler._replace(**{kind: forgetting(getattr(handler, kind))})


def _unary(call: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def forgetting(request: Any, context: Any) -> Any:
        try:
            try:
                return await call(request, context)
            finally:
                await _close(request)
        except grpc.aio.AbortError as error:
            del request, context
            raise _alone(error) from None

    return forgetting


def _stream(call: Callable[[Any, Any], Any]) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def forgetting(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            try:
                async with aclosing(call(request, context)) as responses:
                    async for response in responses:
                        yield response
            finally:
                await _close(request)
        except grpc.aio.AbortError as error:
            del request, context
            raise _alone(error) from None

    return forgetting


async def _close(request: Any) -> None:
    if hasattr(request, "__aiter__"):
        with suppress(RuntimeError):  # somebody still waits for its next message, and ends it with the call
            await aiter(request).aclose()


def _alone(error: BaseException) -> BaseException:
    """The exception, without all that it refers to."""
    error.__context__ = None
    return error.with_traceback(None)
