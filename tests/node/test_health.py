"""Whoever watches the health of a node hears of every change, whatever other watchers do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coterie.node.health import HealthService

TASKS = "coterie.v1.Tasks"
SERVING, NOT_SERVING = "SERVING", "NOT_SERVING"


@pytest.fixture
async def health() -> AsyncIterator[tuple[HealthService, Any]]:
    server, service = grpc.aio.server(), HealthService(watches_max=3)
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield service, health_pb2_grpc.HealthStub(channel)
    await server.stop(0)


def asked(name: str = TASKS) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


async def said(answer: Any) -> str:
    async with asyncio.timeout(30):
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name((await answer).status))


async def watched_by(service: HealthService, count: int) -> None:
    async with asyncio.timeout(30):
        while len(service._bells) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_watcher_that_leaves_takes_no_news_from_the_others(health: tuple[HealthService, Any]) -> None:
    service, stub = health
    service.set(TASKS, True)
    first, second = stub.Watch(asked()), stub.Watch(asked())
    assert [await said(one.read()) for one in (first, second)] == [SERVING] * 2
    first.cancel()
    await watched_by(service, 1)
    service.set(TASKS, False)
    assert await said(second.read()) == NOT_SERVING
    assert await said(stub.Check(asked())) == NOT_SERVING
    second.cancel()
    await watched_by(service, 0)


async def test_one_that_does_not_read_holds_nobody_up_and_gets_the_newest() -> None:
    service, context = HealthService(), Any
    watch: Any = service.Watch(asked(), context)  # type: ignore[arg-type]
    assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    for serving in (True, False, True, False):
        service.set(TASKS, serving)
    assert await said(anext(watch)) == NOT_SERVING
    service.set(TASKS, True)
    service.end()
    service.set(TASKS, True)
    hearing = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    assert not hearing.done(), "it knows that already"
    hearing.cancel()


async def test_nobody_can_take_the_places_of_calls(health: tuple[HealthService, Any]) -> None:
    service, stub = health
    open_ones = [stub.Watch(asked("")) for _ in range(3)]
    assert [await said(one.read()) for one in open_ones] == [SERVING] * 3
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await said(stub.Watch(asked("")).read())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    service.end()
    assert [await said(one.read()) for one in open_ones] == [NOT_SERVING] * 3
    for one in open_ones:
        one.cancel()
    await watched_by(service, 0)
    assert await said(stub.Watch(asked("")).read()) == NOT_SERVING


async def test_an_unknown_service_is_not_found(health: tuple[HealthService, Any]) -> None:
    _, stub = health
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(asked("nothing"), timeout=30)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
