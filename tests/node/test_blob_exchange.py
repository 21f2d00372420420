"""Blobs between nodes: a majority before anything refers to one, and any node can hand one out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from coterie.core.nouns import Data, TaskId
from coterie.node import blob_exchange, blobs
from coterie.node.blob_errors import BlobQuotaExceeded, BlobStorageFailed
from coterie.node.blob_exchange import BlobExchange, receive_blob
from coterie.node.blob_keeper import BlobKeeper
from coterie.node.blobs import BlobEntry, BlobOptions, BlobStore
from coterie.node.errors import ApiError, from_exception, to_status
from coterie.node.gateway import BlobsService
from coterie.node.patient_blobs import PatientBlobs
from coterie.node.rpc import Gate
from coterie.v1 import tasks_pb2

CONTENT = b"x" * 3_000_000
NAME = sha256(CONTENT).hexdigest()
REF = Data(sha256=NAME, size_bytes=len(CONTENT))


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


def over_quota() -> grpc.aio.AioRpcError:
    status = to_status(from_exception(BlobQuotaExceeded("no room"))).SerializeToString()
    details = grpc.aio.Metadata(("grpc-status-details-bin", status))
    return grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), details)


class FakeCall:
    """A streamed answer of a peer."""

    def __init__(self, chunks: AsyncIterator[tasks_pb2.BlobChunk]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[tasks_pb2.BlobChunk]:
        return self._chunks

    def cancel(self) -> bool:
        return True


class FakePeer:
    """A store behind the two calls of the Peer service; none: the peer is down."""

    def __init__(self, store: BlobStore) -> None:
        self.store, self.down, self.full = store, False, False
        self.given_s: list[float] = []  # to store a blob
        self.stuck = False

    async def StoreBlob(self, chunks: Any, *, timeout: float, **_: Any) -> tasks_pb2.BlobRef:
        self.given_s.append(timeout)
        if self.down:
            raise rpc_error(grpc.StatusCode.UNAVAILABLE)
        if self.full:
            raise over_quota()
        return await receive_blob(self.store, chunks)

    def FetchBlob(self, request: tasks_pb2.GetBlobRequest, **_: Any) -> FakeCall:
        return FakeCall(self._fetch(request.sha256))

    async def _fetch(self, name: str) -> AsyncIterator[tasks_pb2.BlobChunk]:
        if self.down:
            raise rpc_error(grpc.StatusCode.UNAVAILABLE)
        if not await self.store.has(name):
            raise rpc_error(grpc.StatusCode.NOT_FOUND)
        yield tasks_pb2.BlobChunk(ref=tasks_pb2.BlobRef(sha256=name, size_bytes=await self.store.size(name)))
        if self.stuck:
            await asyncio.Event().wait()
        async for part in self.store.open_chunks(name):
            yield tasks_pb2.BlobChunk(data=part)


class World:
    """This node and two peers."""

    def __init__(self, stores: list[BlobStore]) -> None:
        self.store = stores[0]
        self.peers = {f"n{n}": FakePeer(store) for n, store in enumerate(stores[1:], 2)}
        self.metadata, self.me = (), "n1"
        self.voters: frozenset[str] = frozenset()
        channels: Any = self
        self.exchange = BlobExchange(self.store, channels, 1_000, lambda: self.voters)

    def stub(self, peer: str) -> FakePeer:
        return self.peers[peer]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    stores = [await BlobStore.open(tmp_path / name) for name in ("n1", "n2", "n3")]
    yield World(stores)
    for store in stores:
        await store.close()


async def copies(world: World) -> int:
    return sum([await store.has(NAME) for store in (world.store, *(p.store for p in world.peers.values()))])


async def refused(world: World, data: Data = REF) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await world.exchange.secure(data)
    return caught.value


async def test_a_node_without_the_blob_gets_it_by_name_alone(world: World) -> None:
    await world.peers["n3"].store.put_bytes(CONTENT)
    await world.exchange.ensure(NAME)
    assert await world.store.get(NAME) == CONTENT


async def test_a_blob_that_only_this_node_has_is_on_a_majority_before_it_is_referred_to(world: World) -> None:
    """A PutBlob that failed half-way leaves one copy behind; a submission must not rely on it."""
    await world.store.put_bytes(CONTENT)
    await world.exchange.secure(REF)
    assert await copies(world) >= 2


async def test_without_a_majority_nothing_may_refer_to_a_blob(world: World) -> None:
    await world.store.put_bytes(CONTENT)
    for peer in world.peers.values():
        peer.down = True
    assert (await refused(world)).reason == "NO_QUORUM"
    world.peers["n2"].down = False
    await world.exchange.secure(REF)


async def test_copies_on_runners_are_no_majority(world: World) -> None:
    await world.store.put_bytes(CONTENT)
    world.voters = frozenset({"n1", "n2"})
    world.peers["n2"].down = True
    assert "1 of 2 voters" in (await refused(world)).message
    world.peers["n2"].down = False
    await world.exchange.secure(REF)


async def test_a_wrong_size_is_refused_at_the_door(world: World) -> None:
    await world.store.put_bytes(CONTENT)
    error = await refused(world, Data(sha256=NAME, size_bytes=5))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "size_bytes" in error.message


async def test_a_blob_is_called_missing_only_when_every_node_says_so(world: World) -> None:
    assert (await refused(world)).reason == "BLOB_NOT_FOUND"
    world.peers["n3"].down = True
    assert (await refused(world)).code is grpc.StatusCode.UNAVAILABLE


async def test_what_is_on_a_majority_is_not_copied_again(world: World) -> None:
    await world.store.put_bytes(CONTENT)
    await world.peers["n3"].store.put_bytes(CONTENT)
    await world.exchange.preserve(NAME, len(CONTENT))
    assert await copies(world) == 2


async def test_other_voters_get_what_they_lack(world: World) -> None:
    """n1 and n2 had it as a majority of three; n2 has left, and n3 is all that is left beside n1."""
    await world.store.put_bytes(CONTENT)
    await world.peers["n2"].store.put_bytes(CONTENT)
    keeper = BlobKeeper(world.exchange, world.store, lambda: world.voters)
    world.voters = frozenset({"n1", "n3"})
    world.peers["n3"].down = True
    assert not await keeper._keep(world.voters)
    assert keeper.kept_for == frozenset()
    world.peers["n3"].down = False
    assert await keeper._keep(world.voters)
    assert await world.peers["n3"].store.has(NAME)
    assert keeper.kept_for == {"n1", "n3"}


async def test_a_disk_that_cannot_be_listed_for_a_moment_does_not_end_the_keeper(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.voters = frozenset({"n1", "n2"})
    listed, calls = world.store.entries, 0

    async def fails_once() -> list[BlobEntry]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise BlobStorageFailed("Too many open files")
        return await listed()

    monkeypatch.setattr(world.store, "entries", fails_once)
    keeper = BlobKeeper(world.exchange, world.store, lambda: world.voters)
    assert not await keeper._keep(world.voters)
    assert await keeper._keep(world.voters)


async def test_a_large_blob_has_the_time_that_a_slow_link_needs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fixed time would end every try on such a link, and the next would begin from the start."""
    await world.store.put_bytes(CONTENT)
    monkeypatch.setattr(blob_exchange, "COPY_BYTES_PER_S", 10_000)
    await world.exchange.spread(NAME, len(CONTENT))
    assert world.peers["n2"].given_s == [30 + 2 * 300], "to two peers at once"


async def test_a_peer_that_stops_in_the_middle_is_left_for_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_exchange, "COPY_TIMEOUT_S", 2.0)
    for peer in world.peers.values():
        await peer.store.put_bytes(CONTENT)
    world.peers["n2"].stuck = True
    async with asyncio.timeout(30):
        await world.exchange.ensure(NAME)
    assert await world.store.get(NAME) == CONTENT


async def test_what_is_read_comes_once_whichever_peers_give_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_exchange, "COPY_TIMEOUT_S", 2.0)
    content = bytes(range(256)) * 12_000
    name = sha256(content).hexdigest()
    for peer in world.peers.values():
        await peer.store.put_bytes(content)
    whole = world.peers["n2"].store.open_chunks

    async def halts(name: str) -> AsyncIterator[bytes]:
        async for part in whole(name, 1_000_003):
            yield part
            await asyncio.Event().wait()

    monkeypatch.setattr(world.peers["n2"].store, "open_chunks", halts)
    parts = [part async for part in world.exchange.read(name)]
    assert b"".join(parts) == content and len(parts[0]) == 1_000_003


async def test_large_content_is_not_hashed_on_the_event_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB take most of a tenth of a second."""
    loop, there = threading.get_ident(), [0, 0]

    def counting(content: bytes = b"") -> Any:
        there[threading.get_ident() != loop] += len(content)
        return sha256(content)

    for module in (blob_exchange, blobs):
        monkeypatch.setattr(module, "hashlib", SimpleNamespace(sha256=counting))
    assert (await world.exchange.keep(CONTENT)).sha256 == NAME
    assert there[0] == 0 and there[1] >= len(CONTENT)


async def test_peers_without_room_are_told_as_what_they_are(world: World) -> None:
    await world.store.put_bytes(CONTENT)
    for peer in world.peers.values():
        peer.full = True
    assert (await refused(world)).reason == "BLOB_QUOTA"
    world.peers["n2"].full, world.peers["n2"].down = False, True
    assert (await refused(world)).reason == "NO_QUORUM", "n2 may have room"


class Aborted(Exception):
    """How a call ended."""


class Context:
    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        raise Aborted(code, details)


async def test_a_client_that_stops_sending_keeps_no_room(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some 160 calls that send nothing would use up the quota of a node, else, for as long as they please."""
    monkeypatch.setattr(blob_exchange, "COPY_TIMEOUT_S", 0.02)
    store = await BlobStore.open(tmp_path / "small", BlobOptions(total_bytes_max=len(CONTENT)))
    tickets: Any = None
    service: Any = BlobsService(store, world.exchange, tickets, tickets, Gate(1))
    chunk = tasks_pb2.BlobChunk(ref=tasks_pb2.BlobRef(sha256="a" * 64, size_bytes=len(CONTENT)), data=b"a")

    async def stalls() -> AsyncIterator[tasks_pb2.BlobChunk]:
        yield chunk
        await asyncio.Event().wait()

    async with asyncio.timeout(30):
        with pytest.raises(Aborted, match="no part of the blob came") as caught:
            await service.PutBlob(stalls(), Context())
    assert caught.value.args[0] is grpc.StatusCode.UNAVAILABLE
    await store.put_bytes(CONTENT)
    await store.close()


async def test_tries_without_a_majority_come_ever_more_rarely(world: World) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            world.peers["n2"].down = False

    for peer in world.peers.values():
        peer.down = True
    await PatientBlobs(world.exchange, TaskId("t1"), 1, pause).keep(CONTENT)
    assert pauses[0] <= 0.1 and pauses == sorted(pauses)
    assert pauses[4] > 1.0 and pauses[-1] <= 10.0
