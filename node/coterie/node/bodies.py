"""Requests whose bytes are no message: the caller is told so, and no stranger can fill the log with them.

gRPC would answer UNKNOWN and log a traceback for each."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from coterie.node.errors import ApiError
from coterie.node.observability import get_logger

log = get_logger(__name__)

LOG_EVERY_S: Final = 1.0
MESSAGE: Final = "the request's bytes are no message of this method"


class Unreadable:
    """Stands in for a request that could not be decoded."""


UNREADABLE: Final = Unreadable()


def unreadable() -> ApiError:
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, "BAD_BODY", MESSAGE)


class BodyGuard(grpc.aio.ServerInterceptor):
    """Lets calls with unreadable requests end with INVALID_ARGUMENT."""

    def __init__(self) -> None:
        self._log_at = float("-inf")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        method = str(handler_call_details.method)
        ours = method.startswith("/coterie.")
        decode = self._decoder(handler.request_deserializer, method, stream=handler.request_streaming)
        if not (handler.request_streaming or handler.response_streaming):
            return handler._replace(request_deserializer=decode, unary_unary=_guarded(handler.unary_unary))
        return handler._replace(request_deserializer=decode) if ours else handler

    def _decoder(
        self, decode: Callable[[bytes], Any], method: str, *, stream: bool
    ) -> Callable[[bytes], Any]:
        """In a stream it raises, into the handler that iterates; before a handler was entered it must not."""

        def guarded(raw: bytes) -> Any:
            try:
                return decode(raw)
            except DecodeError:
                self._note(method, len(raw))
                if stream:
                    raise unreadable() from None
                return UNREADABLE

        return guarded

    def _note(self, method: str, size: int) -> None:
        now = time.monotonic()
        if now >= self._log_at:
            self._log_at = now + LOG_EVERY_S
            log.warning("a request could not be decoded", extra={"method": method, "size_bytes": size})


def _guarded(call: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def guarded(request: Any, context: Any) -> Any:
        if request is UNREADABLE:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, MESSAGE)
        return await call(request, context)

    return guarded
