"""Connections to the other nodes: a Raft stream per pair on a channel of its own, another for the rest."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

import grpc

from coterie.node.observability import get_logger
from coterie.v1 import peer_pb2, peer_pb2_grpc

log = get_logger(__name__)

CLAIM_KEY = "coterie-node"
DISK_KEY = "coterie-disk"
CLUSTER_KEY = "coterie-cluster"
FRAME_BYTES_MAX = 16 << 20
ROW_BYTES_MAX = 64 << 20  # of a message that answers a peer: one finished task with all its steps
COALESCE_BYTES = 1 << 20  # frames that wait together travel in one message up to here
Write = Callable[[bytes], None]

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", ROW_BYTES_MAX),
    ("grpc.max_send_message_length", FRAME_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
]


class FrameSink(Protocol):
    """What Raft links are plugged into: the engine."""

    def link_up(self, peer: str, write: Write, disk_id: str = "") -> None: ...
    def link_down(self, peer: str, write: Write) -> None: ...
    def receive(self, peer: str, frame: bytes) -> None: ...


class Link(Protocol):
    """One way to a peer: a socket of its own, or a gRPC stream."""

    def write(self, frame: bytes) -> None: ...
    def close(self) -> None: ...


class Links:
    """The Raft links of a node, one per peer. A newer one ends the older, on both sides: else, when both have
    dialled at once, each might write where the other has left."""

    def __init__(self, sink: FrameSink) -> None:
        self._sink = sink
        self._current: dict[str, Link] = {}

    def link_up(self, peer: str, link: Link, disk_id: str = "") -> None:
        """Raises LinkRefused."""
        self._sink.link_up(peer, link.write, disk_id)
        older = self._current.get(peer)
        self._current[peer] = link
        if older is not None:
            older.close()

    def link_down(self, peer: str, link: Link) -> None:
        if self._current.get(peer) is link:
            del self._current[peer]
        self._sink.link_down(peer, link.write)

    def receive(self, peer: str, link: Link, frame: bytes) -> None:
        """What still comes over a link that a newer one has replaced was lost with it."""
        if self._current.get(peer) is link:
            self._sink.receive(peer, frame)

    def up(self, peer: str) -> bool:
        return peer in self._current

    def keep_only(self, peers: Container[str]) -> None:
        """End the links with everybody else."""
        for peer, link in list(self._current.items()):
            if peer not in peers:
                link.close()


def _no_disk() -> str:
    """For nodes without a data directory, in tests and benches."""
    return ""


class PeerChannels:
    """One channel per peer and purpose. With TLS a peer's certificate must name that very peer."""

    def __init__(
        self,
        me: str,
        peers: Mapping[str, str],
        credentials: grpc.ChannelCredentials | None,
        disk_id: Callable[[], str] = _no_disk,
        cluster: str = "",
    ) -> None:
        """`cluster`: its name, by which nodes of another one are told apart: one that was restored from a
        backup has the same nodes, and may have their addresses."""
        self.me, self.cluster = me, cluster_mark(cluster)
        self._credentials, self._disk_id = credentials, disk_id
        self._known: dict[str, tuple[str, ...]] = {peer: (address,) for peer, address in peers.items()}
        self.peers = dict(peers)  # a new dict at every change: who iterates over it keeps what it began with
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def update(self, known: Mapping[str, Sequence[str]]) -> None:
        """The peers of now, each with the addresses at which it may be reached, the likeliest first."""
        fresh = {peer: tuple(addresses) for peer, addresses in known.items()}
        if fresh == self._known:
            return
        peers = {}
        for peer, addresses in fresh.items():
            same = self._known.get(peer) == addresses
            peers[peer] = self.peers[peer] if same else addresses[0]
        self._known = fresh
        self._turn_to(peers)

    def try_elsewhere(self, peer: str) -> None:
        """The peer does not answer where it was sought: seek it at the next address that is known."""
        addresses = self._known.get(peer, ())
        if len(addresses) > 1:
            at = addresses.index(self.peers[peer])
            self._turn_to({**self.peers, peer: addresses[(at + 1) % len(addresses)]})

    def _turn_to(self, peers: dict[str, str]) -> None:
        before, self.peers = self.peers, peers
        for key in [key for key in self._channels if peers.get(key[0]) != before.get(key[0])]:
            closing = asyncio.ensure_future(self._channels.pop(key).close(None))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def channel(self, peer: str, purpose: str) -> grpc.aio.Channel:
        key = (peer, purpose)
        if key not in self._channels:
            self._channels[key] = self._open(peer)
        return self._channels[key]

    def stub(self, peer: str, purpose: str = "bulk") -> peer_pb2_grpc.PeerAsyncStub:
        stub: Any = peer_pb2_grpc.PeerStub(self.channel(peer, purpose))
        return stub  # type: ignore[no-any-return]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What this node says of itself at the beginning of a call, and of an answer."""
        return ((CLAIM_KEY, self.me), (DISK_KEY, self._disk_id()), (CLUSTER_KEY, self.cluster))

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _open(self, peer: str) -> grpc.aio.Channel:
        address = self.peers.get(peer)
        if address is None:
            raise _gone(peer)
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", peer)]
        return grpc.aio.secure_channel(address, self._credentials, options=options)


def cluster_mark(name: str) -> str:
    """A cluster's name as metadata of a call, which takes no text but ASCII."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _gone(peer: str) -> grpc.aio.AioRpcError:
    """What a call to a node gets that has left while it was being made: the same as from a dead one."""
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, nothing, nothing, f"{peer} is no member of the cluster any more"
    )


@contextmanager
def outliving(peer: str) -> Iterator[None]:
    """Around calls to a peer: when its channel is closed because it has left or moved, gRPC raises
    CancelledError, which would end a task that nobody has cancelled. Raises UNAVAILABLE instead."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _gone(peer) from error


class Outgoing:
    """Frames waiting to be written to one stream. Bounded: a peer that does not read is cut off."""

    FRAMES_MAX = 4_096

    def __init__(self) -> None:
        self._frames: asyncio.Queue[bytes] = asyncio.Queue(self.FRAMES_MAX)
        self.broken = asyncio.Event()

    def write(self, frame: bytes) -> None:
        try:
            self._frames.put_nowait(frame)
        except asyncio.QueueFull:
            self.broken.set()

    def close(self) -> None:
        self.broken.set()

    async def pump(self, write: Callable[[peer_pb2.RaftFrame], Any]) -> None:
        """Write until cancelled, or until the stream or the reader gives up."""
        while not self.broken.is_set():
            frames = [await self._frames.get()]
            size = len(frames[0])
            while not self._frames.empty() and size < COALESCE_BYTES:
                frames.append(self._frames.get_nowait())
                size += len(frames[-1])
            await write(peer_pb2.RaftFrame(frames=frames))


async def run_stream(
    links: Links, peer: str, frames: Any, write: Callable[[peer_pb2.RaftFrame], Any], disk_id: str = ""
) -> None:
    """Plug one bidirectional stream into the engine until either side ends it. Raises LinkRefused, and
    BadFrame for bytes that are no frame."""
    outgoing = Outgoing()
    links.link_up(peer, outgoing, disk_id)
    reading = asyncio.create_task(_read(links, peer, outgoing, frames), name=f"raft-read-{peer}")
    rest = [
        asyncio.create_task(outgoing.pump(write), name=f"raft-pump-{peer}"),
        asyncio.create_task(outgoing.broken.wait(), name=f"raft-end-{peer}"),
    ]
    try:
        await asyncio.wait([reading, *rest], return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
    finally:
        links.link_down(peer, outgoing)
        for task in (reading, *rest):
            task.cancel()
        await asyncio.gather(reading, *rest, return_exceptions=True)
        del reading  # else what it failed with and this frame would keep each other, and the bytes


async def _read(links: Links, peer: str, link: Link, frames: Any) -> None:
    async with aclosing(aiter(frames)) as messages:  # see forgetting.py
        async for message in messages:
            for frame in message.frames:
                links.receive(peer, link, frame)
