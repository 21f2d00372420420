"""Channels that are closed because their peer has left or moved end calls, never the loops that made them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from coterie.core.nouns import NodeId
from coterie.core.ports import Engine, Member, Role
from coterie.node.blob_exchange import BlobExchange
from coterie.node.blobs import BlobStore
from coterie.node.clock import Clock
from coterie.node.cluster_service import ClusterService
from coterie.node.dialer import DialerParts, RaftDialer
from coterie.node.errors import ApiError
from coterie.node.hub import Bell
from coterie.node.latency import LatencyProbe
from coterie.node.ledger import Gap, Ledger
from coterie.node.ledger.feed import GapFiller
from coterie.node.links import Links, PeerChannels, Write
from coterie.node.loads import Lease, LoadBook, Reporter
from coterie.node.roster import Roster
from coterie.node.routes import Router
from coterie.node.server import CLUSTER, TASKS
from coterie.v1 import cluster_pb2, peer_pb2, peer_pb2_grpc, tasks_pb2

ENDS_S = 20


class Mute(peer_pb2_grpc.PeerServicer):
    """A peer that takes every call and answers none."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[None] = asyncio.Queue()

    async def _never(self) -> None:
        self.calls.put_nowait(None)
        await asyncio.Event().wait()

    async def Ping(self, request: Any, context: Any) -> Any:
        await self._never()

    async def GetLoads(self, request: Any, context: Any) -> Any:
        await self._never()

    async def GetRaftAddress(self, request: Any, context: Any) -> Any:
        await self._never()

    async def StoreBlob(self, request_iterator: Any, context: Any) -> Any:
        await self._never()

    async def Report(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        await self._never()
        yield

    async def Raft(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        await self._never()
        yield

    async def FetchBlob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._never()
        yield

    async def FetchLedger(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._never()
        yield

    async def WatchTokens(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._never()
        yield


class World:
    """This node is n2; n1 is mute."""

    def __init__(self, peer: Mute, address: str) -> None:
        self.peer, self.address = peer, address
        self.channels = PeerChannels("n2", {"n1": address}, None)

    async def until_called(self) -> None:
        """Until the peer has one call more."""
        async with asyncio.timeout(ENDS_S):
            await self.peer.calls.get()

    async def stays(self, loop: Coroutine[Any, Any, None]) -> None:
        """Whether a loop calls again after its channel was closed under a call."""
        running = asyncio.ensure_future(loop)
        try:
            await self.until_called()
            self.channels.update({})
            await asyncio.sleep(0.1)
            assert not running.done(), "the loop has ended, and with it the node"
            self.channels.update({"n1": (self.address,)})
            await self.until_called()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    server, peer = grpc.aio.server(), Mute()
    peer_pb2_grpc.add_PeerServicer_to_server(peer, cast("Any", server))
    server.add_generic_rpc_handlers(
        (mute(peer, CLUSTER, "TransferLeadership"), mute(peer, TASKS, "RouteTask"))
    )
    world = World(peer, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    await server.start()
    yield world
    await world.channels.close()
    await server.stop(0)


def mute(peer: Mute, service: str, method: str) -> grpc.GenericRpcHandler:
    """The same for a call of a client that a node passes on."""

    async def never(request: Any, context: Any) -> None:
        await peer._never()

    handler: Any = grpc.unary_unary_rpc_method_handler(cast("Any", never))
    return grpc.method_handlers_generic_handler(service, {method: handler})


class Caller:
    """The context of a call from outside; what it is told is raised."""

    def time_remaining(self) -> float:
        return 3_600.0

    async def abort(self, code: grpc.StatusCode, message: str, trailing_metadata: Any) -> None:
        raise Told(code, message)


class Told(Exception):
    """How the call ended."""


async def test_a_call_that_was_passed_on_to_the_leader(world: World) -> None:
    """Whoever asked hears that the leader is gone, not that the call was cancelled."""
    engine = SimpleNamespace(leader="n1", is_leader=False, members=())
    parts: Any = SimpleNamespace(engine=engine, channels=world.channels)
    parts.state = parts.proposer = parts.book = parts.policy = None
    service: Any = ClusterService(parts)
    asking = asyncio.ensure_future(
        service.TransferLeadership(cluster_pb2.TransferLeadershipRequest(), Caller())
    )
    await world.until_called()
    world.channels.update({})
    with pytest.raises(Told) as told:
        await asyncio.wait_for(asking, ENDS_S)
    assert told.value.args[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_question_to_the_leader_where_a_task_would_go(world: World) -> None:
    """This node answers by what it knows."""
    parts: Any = SimpleNamespace(
        engine=SimpleNamespace(leader="n1", is_leader=False), channels=world.channels
    )
    parts.me = "n2"
    asking = asyncio.ensure_future(Router(parts).ask_leader(tasks_pb2.RouteTaskRequest()))
    await world.until_called()
    world.channels.update({})
    assert await asyncio.wait_for(asking, ENDS_S) is None


class Follower:
    """An engine that follows n1."""

    leader, is_leader = "n1", False


async def test_the_reporter(world: World) -> None:
    clock = Clock()
    reporter = Reporter(
        cast("Engine", Follower()),
        world.channels,
        LoadBook(clock, 3_000),
        Lease(clock, 700, lambda left_ms: None),
        lambda: peer_pb2.LoadReport(node_id=NodeId("n2")),
        clock,
        0.05,
    )
    await world.stays(reporter.run())


async def test_the_latency_probe(world: World) -> None:
    await world.stays(LatencyProbe(world.channels, Clock(), 0.05, 10.0).run())


class Sink:
    """An engine that hears nothing."""

    def link_up(self, peer: str, write: Write, disk_id: str = "") -> None: ...
    def link_down(self, peer: str, write: Write) -> None: ...
    def receive(self, peer: str, frame: bytes) -> None: ...


async def test_the_dialler(world: World) -> None:
    """A peer that has moved is dialled at its new address, though the call to the old one was cut off."""
    addresses = {"n1": world.address}

    def members() -> tuple[Member, ...]:
        me = Member("n2", "n2:1", Role.VOTER, "d")
        return (Member("n1", addresses["n1"], Role.VOTER, "d"), me)

    parts = DialerParts(
        world.channels,
        Links(Sink()),
        Roster("n2", "n2:1", {}, members, lambda: "d"),
        Bell(),
        lambda: False,
        lambda peer, why: None,
        lambda reason: None,
    )
    running = asyncio.ensure_future(RaftDialer(parts).run())
    try:
        await world.until_called()
        addresses["n1"] = world.address.replace("127.0.0.1", "localhost")
        await world.until_called()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Gaps:
    """A ledger that lacks rows."""

    gaps = (Gap(0, 5),)


async def test_the_filler_of_gaps(world: World) -> None:
    await world.stays(GapFiller(cast("Ledger", Gaps()), world.channels).run())


class Store:
    """A store of one small blob, or of none."""

    def __init__(self, has: bool) -> None:
        self._has = has

    async def has(self, sha256: str) -> bool:
        return self._has

    async def size(self, sha256: str) -> int:
        return 1

    async def open_chunks(self, sha256: str, size: int) -> AsyncIterator[bytes]:
        yield b"x"

    async def put(self, chunks: Any, sha256: str, size: int) -> None:
        async for _ in chunks:
            pass


@pytest.mark.parametrize("call", ["spread", "preserve", "ensure"])
async def test_blobs(world: World, call: str) -> None:
    """The caller hears that too few answer, not that it was cancelled itself."""
    store = cast("BlobStore", Store(has=call != "ensure"))
    exchange = BlobExchange(store, world.channels, 100, lambda: frozenset(("n1", "n2")))
    arguments = ("ab", 1) if call != "ensure" else ("ab",)
    asking = asyncio.ensure_future(getattr(exchange, call)(*arguments))
    await world.until_called()
    world.channels.update({})
    with pytest.raises((ApiError, grpc.aio.AioRpcError)):
        await asyncio.wait_for(asking, ENDS_S)
