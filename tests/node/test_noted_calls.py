"""Calls that no command stands for are in the audit log, whatever came of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from coterie.core.access import ADMIN, Token
from coterie.core.access_commands import CreateToken, NoteCall
from coterie.node.errors import ApiError, not_found
from coterie.node.rpc import unary
from coterie.node.security.authenticator import Authenticator
from coterie.node.security.guard import UNKNOWN, Guard
from coterie.node.security.principal import Principal, caller
from coterie.node.security.tokens import mint, parse
from coterie.v1 import cluster_pb2, cluster_pb2_grpc
from tests.core.builders import CoreCluster

NODE = cluster_pb2.RemoveNodeRequest(node_id="n7")


class Service:
    """Removes a node, refuses to, or takes for ever."""

    def __init__(self) -> None:
        self.refusal: ApiError | None = None
        self.began, self.ends = asyncio.Event(), asyncio.Event()

    @unary
    async def RemoveNode(
        self, request: cluster_pb2.RemoveNodeRequest, context: Any
    ) -> cluster_pb2.RemoveNodeResponse:
        self.began.set()
        await self.ends.wait()
        if self.refusal is not None:
            raise self.refusal
        return cluster_pb2.RemoveNodeResponse(removed=True)


@dataclass
class World:
    service: Service
    metadata: tuple[tuple[str, str], ...]
    notes: asyncio.Queue[tuple[NoteCall, Principal]] = field(default_factory=asyncio.Queue)
    stub: Any = None

    def call(self) -> Any:
        return self.stub.RemoveNode(NODE, metadata=self.metadata, timeout=30)

    async def noted(self) -> NoteCall:
        async with asyncio.timeout(30):
            note, who = await self.notes.get()
        assert who.origin is not None and who.origin.method == "Cluster/RemoveNode"
        return note


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    core, secret = CoreCluster(), mint()
    parsed = parse(secret)
    assert parsed is not None
    core.do(CreateToken(Token(parsed.token_id, parsed.digest, "*", (ADMIN,)), 0))
    made = World(Service(), (("authorization", f"Bearer {secret}"),))

    async def note(command: NoteCall, timeout_s: float) -> None:
        made.notes.put_nowait((command, caller()))

    async def no_news(timeout_s: float) -> None:
        return None

    knows = Authenticator(lambda: core.state, lambda: 1_000, lambda name: False, tmp_path / "none")
    server = grpc.aio.server(interceptors=[Guard(knows, note, no_news)])
    method = grpc.unary_unary_rpc_method_handler(
        made.service.RemoveNode,
        request_deserializer=cluster_pb2.RemoveNodeRequest.FromString,
        response_serializer=cluster_pb2.RemoveNodeResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler("coterie.v1.Cluster", {"RemoveNode": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        made.stub = cluster_pb2_grpc.ClusterStub(channel)
        yield made
    await server.stop(0)


async def test_what_was_done_is_noted(world: World) -> None:
    world.service.ends.set()
    assert (await world.call()).removed
    assert await world.noted() == NoteCall("n7", "OK")


async def test_what_was_refused_is_noted_with_the_reason(world: World) -> None:
    world.service.ends.set()
    world.service.refusal = not_found("NODE", "n7")
    with pytest.raises(grpc.aio.AioRpcError, match="no node 'n7'"):
        await world.call()
    assert await world.noted() == NoteCall("n7", "NODE_NOT_FOUND")


async def test_a_caller_that_hangs_up_is_noted(world: World) -> None:
    call = world.call()
    async with asyncio.timeout(30):
        await world.service.began.wait()
    call.cancel()
    assert await world.noted() == NoteCall("n7", UNKNOWN)
    assert world.notes.empty()
