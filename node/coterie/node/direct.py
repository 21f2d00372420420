"""Raft frames between two nodes on a socket of their own: about half the processor time per commit.

    connection = hello, then frames, in both directions
    frame      = length (4 bytes, big endian) bytes; length 0 is a sign of life

The dialling node says hello first (a RaftHello), the listening one answers with its own; then both plug the
socket into the engine. Under TLS each side's certificate must name the very node that the hello names. Where
the peer listens is asked over gRPC, and a peer that cannot be reached this way is served over gRPC."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import tempfile
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError

from coterie.node.links import Link
from coterie.node.observability import get_logger
from coterie.node.sealed import Sealed
from coterie.node.server import PortInUse
from coterie.node.tls import NODE_URI, TlsMaterial
from coterie.v1.peer_pb2 import RaftHello

log = get_logger(__name__)

FORMAT: Final = 1
HELLO_S: Final = 3.0  # for the handshake and both hellos
HELLO_BYTES_MAX: Final = 4_096
STOP_S: Final = 1.0  # for connections to say that they are gone
LIFE_SIGN_S: Final = 1.0
SILENCE_S: Final = 4.0  # a peer that says nothing for so long is gone, or its network is
UNSENT_BYTES_MAX: Final = 32 << 20  # a peer that does not read is cut off
LOG_EVERY_S: Final = 1.0
STRANGERS_MAX: Final = 64  # connections that have not said hello yet
_LENGTH = struct.Struct(">I")
_LIFE_SIGN = _LENGTH.pack(0)


@dataclass(frozen=True, slots=True)
class Me:
    """What this node tells of itself, and the largest frame it takes."""

    node_id: str
    cluster_id: str
    frame_bytes_max: int
    disk_id: str = ""

    def hello(self) -> bytes:
        said = RaftHello(
            format=FORMAT, cluster_id=self.cluster_id, node_id=self.node_id, disk_id=self.disk_id
        )
        return said.SerializeToString()


class LinkSink(Protocol):
    """What a socket is plugged into; see coterie.node.links.Links."""

    def link_up(self, peer: str, link: Link, disk_id: str = "") -> None:
        """Raises an exception for whom it does not let in. The link is not written to before it returns."""

    def link_down(self, peer: str, link: Link) -> None: ...
    def receive(self, peer: str, link: Link, frame: bytes) -> None: ...


class Refused(Exception):
    """The other side is not who it should be, or did not take us."""


class DirectLink(asyncio.Protocol):
    """One socket, from its hello to its end."""

    def __init__(self, me: Me, sink: LinkSink, peers: Container[str], dials: str = "") -> None:
        """dials: the peer this side has dialled; empty when it was dialled."""
        self._me, self._sink, self._peers, self._dials = me, sink, peers, dials
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.peer = ""  # set when both have said hello, and the sink has let it in
        self.broken = False  # the other side has sent what it must not send
        # Whoever makes links counts them from here on; a failed TLS handshake makes none.
        self.on_made: Callable[[DirectLink], bool] = lambda link: True  # False: too many of them
        self.on_settled: Callable[[DirectLink], None] = lambda link: None
        self.closed: asyncio.Future[str] = self._loop.create_future()  # why it ended
        self._reason = "the peer closed the connection"

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        if not self.on_made(self):
            self._close("too many connections have not said hello yet")
            return
        _set_options(transport)
        self._timer = self._loop.call_later(HELLO_S, self._close, "it did not say hello in time")
        if self._dials:
            self._say_hello()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while (end := self._frame_end(position)) and not self._transport.is_closing():
                self._take(bytes(memoryview(buffer)[position + _LENGTH.size : end]))
                position = end
        except Exception as error:  # a stranger's bytes, or a frame the engine refuses: the link's end
            self.broken = True
            self._close(f"{error}"[:200] or type(error).__name__)
        del buffer[:position]

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.peer:
            self._sink.link_down(self.peer, self)
        else:
            self.on_settled(self)
        if not self.closed.done():
            self.closed.set_result(str(error) if error else self._reason)

    # --- frames

    def write(self, frame: bytes) -> None:
        """Queue a frame; never blocks."""
        if self._transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._close("it does not read what it is sent")
            return
        self._transport.write(_LENGTH.pack(len(frame)) + frame)

    def close(self) -> None:
        self._close("this node closed the connection")

    def _frame_end(self, position: int) -> int:
        """Where the frame at `position` ends; 0 while it is not complete. Raises Refused."""
        have = len(self._buffer) - position
        if have < _LENGTH.size:
            return 0
        (size,) = _LENGTH.unpack_from(self._buffer, position)
        limit = self._me.frame_bytes_max if self.peer else HELLO_BYTES_MAX
        if size > limit:
            raise Refused(f"a frame of {size} bytes is above the limit of {limit}")
        return position + _LENGTH.size + int(size) if have >= _LENGTH.size + size else 0

    def _take(self, frame: bytes) -> None:
        if not self.peer:
            self._settle(frame)
        elif frame:
            self._sink.receive(self.peer, self, frame)

    # --- hello

    def _say_hello(self) -> None:
        said = self._me.hello()
        self._transport.write(_LENGTH.pack(len(said)) + said)

    def _settle(self, frame: bytes) -> None:
        try:
            hello = RaftHello.FromString(frame)
        except DecodeError as error:
            raise Refused("its hello is none") from error
        refusal = self._refusal(hello)
        if refusal:
            raise Refused(refusal)
        self._sink.link_up(hello.node_id, self, hello.disk_id)
        self.peer = hello.node_id
        if not self._dials:
            self._say_hello()
        if self._timer is not None:
            self._timer.cancel()
        self.on_settled(self)
        self._timer = self._loop.call_later(LIFE_SIGN_S, self._watch)

    def _refusal(self, hello: RaftHello) -> str:
        if hello.format != FORMAT:
            return f"its hello has format {hello.format}, this node knows {FORMAT}"
        if hello.cluster_id != self._me.cluster_id:
            return f"it is of cluster {hello.cluster_id!r}"
        if self._dials and hello.node_id != self._dials:
            return f"{hello.node_id!r} answered where {self._dials!r} should"
        named = _named_by(self._transport)
        if named is not None and named != hello.node_id:
            return f"its certificate names {named!r}, its hello {hello.node_id!r}"
        return "" if hello.node_id in self._peers else f"{hello.node_id!r} is no member of this cluster"

    def _watch(self) -> None:
        if self._loop.time() - self._heard_at > SILENCE_S:
            self._close(f"it said nothing for {SILENCE_S:g} s")
            return
        self._transport.write(_LIFE_SIGN)
        self._timer = self._loop.call_later(LIFE_SIGN_S, self._watch)

    def _close(self, reason: str) -> None:
        if not self._transport.is_closing():  # else it is known why
            self._reason = reason
        self._transport.abort()


def _named_by(transport: Any) -> str | None:
    """The node a peer's certificate names, empty when it names none; None without TLS."""
    if transport.get_extra_info("ssl_object") is None and transport.get_extra_info("sslcontext") is None:
        return None
    names = (transport.get_extra_info("peercert") or {}).get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    return next((uri.removeprefix(NODE_URI) for uri in uris if uri.startswith(NODE_URI)), "")


class DirectRaft:
    """This node's side of all direct links: it listens for peers and dials them."""

    def __init__(self, me: Me, sink: LinkSink, peers: Container[str], tls: TlsMaterial | None) -> None:
        self._me, self._sink, self._peers = me, sink, peers
        self._taking = tls_context(tls, ssl.PROTOCOL_TLS_SERVER) if tls else None
        self._dialling = tls_context(tls, ssl.PROTOCOL_TLS_CLIENT) if tls else None
        self._links: set[DirectLink] = set()
        self._strangers = 0
        self._log_at: dict[str, float] = {}  # when a phrase may be logged again
        self._server: asyncio.Server | None = None
        self.port = 0  # 0: not listening

    async def start(self, host: str, port: int | None, disk_id: str) -> None:
        """Listen: on any free port when `port` is None, not at all when it is 0. Raises PortInUse."""
        self._me = replace(self._me, disk_id=disk_id)
        if port == 0:
            return
        try:
            self._server = await self._listen(host, port or 0)
        except OSError as error:
            raise PortInUse(f"cannot listen on {host}:{port or 0} for raft frames: {error}") from error
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _listen(self, host: str, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if self._taking is None:
            return await loop.create_server(self._taken, host, port)
        taking = self._taking
        return await loop.create_server(lambda: Sealed(self._taken, taking, HELLO_S), host, port)

    async def stop(self) -> None:
        """Stop listening and end all links."""
        self.port = 0
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.close()
        if self._links:
            await asyncio.wait([link.closed for link in self._links], timeout=STOP_S)

    async def serve(self, peer: str, address: tuple[str, int]) -> bool:
        """See DirectDialer."""
        try:
            link = await self._dial(peer, address)
        except (OSError, TimeoutError, Refused) as error:
            extra = {"peer": peer, "port": address[1], "error": str(error)[:200]}
            log.info("no direct socket for raft frames; a gRPC stream carries them", extra=extra)
            return False
        try:
            log.debug("direct link ended", extra={"peer": peer, "reason": await asyncio.shield(link.closed)})
        finally:
            link.close()
        return True

    async def _dial(self, peer: str, address: tuple[str, int]) -> DirectLink:
        """Raises OSError (ssl.SSLError is one), TimeoutError or Refused."""
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[None] = loop.create_future()

        def on_settled(link: DirectLink) -> None:
            if not settled.done():
                settled.set_result(None)

        def make() -> DirectLink:
            link = DirectLink(self._me, self._sink, {peer}, dials=peer)
            link.on_made, link.on_settled = self._keep, on_settled
            return link

        async with asyncio.timeout(HELLO_S):
            link = await self._connect(make, peer, address)
            try:
                await settled
            except asyncio.CancelledError:
                link.close()
                raise
        if not link.peer:
            raise Refused(await link.closed)
        return link

    async def _connect(
        self, make: Callable[[], DirectLink], peer: str, address: tuple[str, int]
    ) -> DirectLink:
        """A link that has not said hello yet. Raises OSError."""
        loop, context = asyncio.get_running_loop(), self._dialling
        if context is None:
            return (await loop.create_connection(make, *address))[1]
        _, sealed = await loop.create_connection(lambda: Sealed(make, context, HELLO_S, peer), *address)
        try:
            return await sealed.opened
        except asyncio.CancelledError:
            sealed.abort()
            raise

    def _keep(self, link: DirectLink) -> bool:
        self._links.add(link)
        link.closed.add_done_callback(lambda closed: self._ended(link, closed.result()))
        return True

    def _taken(self) -> DirectLink:
        link = DirectLink(self._me, self._sink, self._peers)
        link.on_made, link.on_settled = self._met, self._settled
        return link

    def _met(self, link: DirectLink) -> bool:
        self._keep(link)
        link.closed.add_done_callback(lambda closed: self._turned_away(link, closed.result()))
        self._strangers += 1
        return self._strangers <= STRANGERS_MAX

    def _settled(self, link: DirectLink) -> None:
        self._strangers -= 1

    def _ended(self, link: DirectLink, reason: str) -> None:
        self._links.discard(link)
        if link.peer and link.broken:
            self._warn("a link for raft frames broke", peer=link.peer, reason=reason)

    def _turned_away(self, link: DirectLink, reason: str) -> None:
        if not link.peer:
            self._warn("a connection for raft frames was refused", reason=reason)

    def _warn(self, phrase: str, **fields: str) -> None:
        """Whoever connects again and again, a stranger or a member, must not be able to fill the log."""
        now = asyncio.get_running_loop().time()
        if now >= self._log_at.get(phrase, 0.0):
            self._log_at[phrase] = now + LOG_EVERY_S
            log.warning(phrase, extra=fields)


def _set_options(transport: Any) -> None:
    """A peer that vanished is noticed by its silence, but the kernel shall not keep its bytes for minutes.
    A frame goes to the kernel at once: uvloop would keep it to the end of the loop's turn."""
    transport.set_write_buffer_limits(high=0)
    sock = transport.get_extra_info("socket")
    if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_S * 1000))


def tls_context(tls: TlsMaterial, purpose: int) -> ssl.SSLContext:
    """Mutual TLS 1.3 from the node's own files."""
    context = ssl.SSLContext(purpose)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=tls.ca.decode("ascii"))
    with tempfile.NamedTemporaryFile() as pair:  # the module reads keys from files only; this one is 0600
        pair.write(tls.cert + b"\n" + tls.key)
        pair.flush()
        context.load_cert_chain(pair.name)
    return context
