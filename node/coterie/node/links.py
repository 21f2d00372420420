"""Connections to the other nodes: a Raft stream per pair on a channel of its own, another for the rest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import grpc

from coterie.node.observability import get_logger
from coterie.v1 import peer_pb2, peer_pb2_grpc

log = get_logger(__name__)

ASK_S = 3.0
DIRECT_PAUSE_S = 60.0  # a socket that a firewall swallows costs seconds; not at every reconnect
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.05, 0.5
CLAIM_KEY = "coterie-node"
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
    """What a Raft stream is plugged into: the engine."""

    def link_up(self, peer: str, write: Write, disk_id: str = "") -> None: ...
    def link_down(self, peer: str, write: Write) -> None: ...
    def receive(self, peer: str, frame: bytes) -> None: ...


class PeerChannels:
    """One channel per peer and purpose. With TLS a peer's certificate must name that very peer."""

    def __init__(
        self, me: str, peers: Mapping[str, str], credentials: grpc.ChannelCredentials | None
    ) -> None:
        self.me, self.peers = me, dict(peers)
        self._credentials = credentials
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

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
        return ((CLAIM_KEY, self.me),)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()

    def _open(self, peer: str) -> grpc.aio.Channel:
        address = self.peers[peer]
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", peer)]
        return grpc.aio.secure_channel(address, self._credentials, options=options)


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
    sink: FrameSink, peer: str, frames: Any, write: Callable[[peer_pb2.RaftFrame], Any]
) -> None:
    """Plug one bidirectional stream into the engine until either side ends it."""
    outgoing = Outgoing()
    sink.link_up(peer, outgoing.write)
    pump = asyncio.create_task(outgoing.pump(write), name=f"raft-pump-{peer}")
    try:
        async for message in frames:
            for frame in message.frames:
                sink.receive(peer, frame)
            if pump.done() or outgoing.broken.is_set():
                return
    finally:
        sink.link_down(peer, outgoing.write)
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)


class DirectDialer(Protocol):
    """Opens sockets for Raft frames; see coterie.node.direct."""

    async def serve(self, peer: str, address: tuple[str, int]) -> bool:
        """Dial, and carry frames until the socket ends. False when there was no getting through."""


class RaftDialer:
    """Keeps a link to every peer with a smaller id; the others dial us. It is a socket of its own where the
    peer can be reached by one, else a gRPC stream."""

    def __init__(self, channels: PeerChannels, sink: FrameSink, direct: DirectDialer | None = None) -> None:
        self._channels, self._sink, self._direct = channels, sink, direct
        self._direct_again: dict[str, float] = {}  # when to try a socket again, by peer

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for peer in self._channels.peers:
                if peer < self._channels.me:
                    group.create_task(self._keep(peer), name=f"raft-dial-{peer}")
            await asyncio.Event().wait()  # also when all the others dial us

    async def _keep(self, peer: str) -> None:
        pause = RECONNECT_MIN_S
        while True:
            try:
                if await self._once(peer):
                    pause = RECONNECT_MIN_S
            except grpc.aio.AioRpcError as error:
                log.debug("raft stream ended", extra={"peer": peer, "error": error.details()})
                if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                    log.warning("a peer refused us", extra={"peer": peer, "error": error.details()})
            except Exception as error:  # bytes that are no frame: the link's end, not this node's
                log.warning("a raft stream broke", extra={"peer": peer, "error": str(error)[:200]})
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, RECONNECT_MAX_S)

    async def _once(self, peer: str) -> bool:
        """One link, from dialling to its end; whether it ever stood."""
        if await self._once_direct(peer):
            return True
        call = self._channels.stub(peer, "raft").Raft(metadata=self._channels.metadata)
        try:
            await call.wait_for_connection()
            await run_stream(self._sink, peer, call, call.write)
        finally:
            call.cancel()
        return True

    async def _once_direct(self, peer: str) -> bool:
        now = asyncio.get_running_loop().time()
        if self._direct is None or now < self._direct_again.get(peer, 0.0):
            return False
        stub = self._channels.stub(peer, "raft")
        request = peer_pb2.GetRaftAddressRequest()
        answer = await stub.GetRaftAddress(request, metadata=self._channels.metadata, timeout=ASK_S)
        if not answer.port:
            return False
        host = self._channels.peers[peer].rpartition(":")[0].strip("[]")
        if await self._direct.serve(peer, (host, answer.port)):
            return True
        self._direct_again[peer] = now + DIRECT_PAUSE_S
        return False
