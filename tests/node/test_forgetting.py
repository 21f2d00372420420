"""What is left of calls that have ended: nothing, even while no garbage is collected."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from coterie.node.forgetting import Forgetting, _close

METHODS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
PREFIX = "/coterie.v1.Test/"


class Asked:
    """A request."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        KEPT.add(self)


KEPT: weakref.WeakSet[Asked] = weakref.WeakSet()


async def answer(request: Any, context: Any) -> bytes:
    asked: Asked = request if isinstance(request, Asked) else await anext(aiter(request))  # and no further
    if asked.raw == b"refuse":
        try:
            raise ValueError(asked)
        except ValueError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
    return asked.raw


async def answers(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield await answer(request, context)


class Methods(grpc.GenericRpcHandler):
    """One of each kind."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        kind = str(handler_call_details.method).removeprefix(PREFIX)
        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(answers if kind.endswith("stream") else answer, request_deserializer=Asked)


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[Forgetting()])
    server.add_generic_rpc_handlers((Methods(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(None)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def ask(channel: grpc.aio.Channel, kind: str, raw: bytes) -> bytes:
    call: Any = getattr(channel, kind)(PREFIX + kind)
    called = call(iter([raw, b"more"]) if kind.startswith("stream") else raw, timeout=10)
    if kind.endswith("unary"):
        return await called  # type: ignore[no-any-return]
    return b"".join([part async for part in called])


@pytest.mark.parametrize("kind", METHODS)
async def test_a_refused_request_is_not_kept(
    channel: grpc.aio.Channel, no_collector: None, kind: str
) -> None:
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError, match="refused") as refusal:
            await ask(channel, kind, b"refuse")
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await ask(channel, kind, b"well") == b"well"
    assert not [asked for asked in KEPT if asked.raw == b"refuse"]


@pytest.mark.parametrize("kind", METHODS[2:])
async def test_a_stream_that_is_left_early_is_closed(kind: str) -> None:
    closed = []

    async def requests() -> AsyncIterator[Asked]:
        try:
            while True:
                yield Asked(b"well")
        finally:
            closed.append(kind)

    async def found(details: grpc.HandlerCallDetails) -> Any:
        return Methods().service(details)

    details: Any = type("Details", (), {"method": PREFIX + kind})
    handler = await Forgetting().intercept_service(found, details)
    called = getattr(handler, kind)(requests(), None)
    got = await called if kind.endswith("unary") else b"".join([part async for part in called])
    assert (got, closed) == (b"well", [kind])


async def test_messages_that_somebody_still_waits_for_do_not_hide_the_answer() -> None:
    """gRPC ends them with the call; to close them here and now is an error in Python."""
    never = asyncio.Event()

    async def messages() -> AsyncIterator[bytes]:
        await never.wait()
        yield b""

    request = messages()
    waiting = asyncio.ensure_future(anext(request))
    await asyncio.sleep(0)
    await _close(request)
    never.set()
    assert await waiting == b""
