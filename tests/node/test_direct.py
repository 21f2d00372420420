"""Raft frames on sockets of their own: real sockets on loopback, with certificates and without."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from coterie.node import direct
from coterie.node.direct import FORMAT, DirectRaft, Me
from coterie.node.links import Link, Write
from coterie.node.server import PortInUse
from coterie.node.tls import TlsMaterial, init_tls, load_tls, node_paths
from coterie.v1.peer_pb2 import RaftHello

HOST = "127.0.0.1"
FRAME_MAX = 1 << 20
PATIENCE_S = 10.0


class Sink:
    """Stands for the engine: remembers what its links do."""

    def __init__(self) -> None:
        self.up: dict[str, Write] = {}
        self.disks: dict[str, str] = {}
        self.frames: list[tuple[str, bytes]] = []
        self.bad, self.bad_disk = b"bad frame", "bad disk"

    def link_up(self, peer: str, link: Link, disk_id: str = "") -> None:
        if disk_id == self.bad_disk:
            raise ValueError("no disk of ours")
        self.up[peer], self.disks[peer] = link.write, disk_id

    def link_down(self, peer: str, link: Link) -> None:
        if self.up.get(peer) == link.write:
            del self.up[peer]

    def receive(self, peer: str, link: Link, frame: bytes) -> None:
        if frame == self.bad:
            raise ValueError("no frame of ours")
        self.frames.append((peer, frame))


class Side:
    """One node's sockets and what its engine saw."""

    def __init__(self, name: str, peers: set[str], tls: TlsMaterial | None, cluster: str = "c") -> None:
        self.name, self.sink = name, Sink()
        self.direct = DirectRaft(Me(name, cluster, FRAME_MAX), self.sink, peers, tls)
        self.served: asyncio.Task[bool] | None = None

    async def start(self) -> None:
        await self.direct.start(HOST, None, f"disk-of-{self.name}")

    def dial(self, other: Side) -> asyncio.Task[bool]:
        self.served = asyncio.create_task(self.direct.serve(other.name, (HOST, other.direct.port)))
        return self.served

    async def stop(self) -> None:
        if self.served is not None:
            self.served.cancel()
            await asyncio.gather(self.served, return_exceptions=True)
        await self.direct.stop()


@asynccontextmanager
async def running(*sides: Side) -> AsyncIterator[None]:
    for side in sides:
        await side.start()
    try:
        yield
    finally:
        for side in sides:
            await side.stop()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    init_tls(directory, ["a", "b", "c"], hosts=[HOST])
    init_tls(directory / "other", ["a", "b"], hosts=[HOST])
    return directory


@pytest.fixture(params=["tls", "plain"])
def material(request: pytest.FixtureRequest, certificates: Path) -> Callable[[str], TlsMaterial | None]:
    if request.param == "plain":
        return lambda name: None
    return lambda name: load_tls(node_paths(certificates, name), name)


async def test_frames_travel_both_ways_in_order(material: Callable[[str], TlsMaterial | None]) -> None:
    a, b = Side("a", {"b"}, material("a")), Side("b", {"a"}, material("b"))
    async with running(a, b):
        b.dial(a)
        await until(lambda: "b" in a.sink.up and "a" in b.sink.up)
        assert (a.sink.disks["b"], b.sink.disks["a"]) == ("disk-of-b", "disk-of-a")
        sent = [bytes([number % 251]) * (number * 997 % 70_000) for number in range(1, 200)]
        for frame in sent:
            a.sink.up["b"](frame)
            b.sink.up["a"](frame)
        await until(lambda: len(a.sink.frames) == len(b.sink.frames) == len(sent))
        assert a.sink.frames == [("b", frame) for frame in sent]
        assert b.sink.frames == [("a", frame) for frame in sent]


async def test_the_end_of_one_side_is_seen_by_the_other(
    material: Callable[[str], TlsMaterial | None],
) -> None:
    a, b = Side("a", {"b"}, material("a")), Side("b", {"a"}, material("b"))
    async with running(a, b):
        served = b.dial(a)
        await until(lambda: "b" in a.sink.up)
        await a.direct.stop()
        assert await served is True
        assert not a.sink.up and not b.sink.up


@pytest.mark.parametrize(
    ("name", "cluster"), [("stranger", "c"), ("b", "another cluster")], ids=["stranger", "cluster"]
)
async def test_who_does_not_belong_is_refused(name: str, cluster: str) -> None:
    a, b = Side("a", {"b"}, None), Side(name, {"a"}, None, cluster)
    async with running(a, b):
        assert await b.dial(a) is False
        assert not a.sink.up and not b.sink.up


async def test_a_certificate_of_another_node_is_refused(certificates: Path) -> None:
    a = Side("a", {"b", "c"}, load_tls(node_paths(certificates, "a"), "a"))
    liar = Side("b", {"a"}, load_tls(node_paths(certificates, "c"), "c"))
    async with running(a, liar):
        assert await liar.dial(a) is False
        assert not a.sink.up


async def test_a_certificate_of_another_authority_is_refused(certificates: Path) -> None:
    a = Side("a", {"b"}, load_tls(node_paths(certificates, "a"), "a"))
    foreign = Side("b", {"a"}, load_tls(node_paths(certificates / "other", "b"), "b"))
    plain = Side("b", {"a"}, None)
    async with running(a, foreign, plain):
        assert await foreign.dial(a) is False
        assert await plain.dial(a) is False
        assert not a.sink.up


async def test_the_dialled_node_must_be_the_one_that_was_meant(certificates: Path) -> None:
    c = Side("c", {"b"}, load_tls(node_paths(certificates, "c"), "c"))
    b = Side("b", {"a"}, load_tls(node_paths(certificates, "b"), "b"))
    async with running(b, c):
        assert await b.direct.serve("a", (HOST, c.direct.port)) is False
        assert not b.sink.up and not c.sink.up


HELLO = RaftHello(format=FORMAT, cluster_id="c", node_id="b").SerializeToString()


def framed(body: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I", len(body) if size is None else size) + body


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x80\x04\x95" + b"x" * 100,
        framed(b"\xff" * 40),
        framed(b"", size=2**32 - 1),
        framed(HELLO, size=direct.HELLO_BYTES_MAX + 1),
        framed(RaftHello(format=FORMAT + 1, cluster_id="c", node_id="b").SerializeToString()),
        framed(HELLO) + framed(b"x", size=FRAME_MAX + 1),
        framed(HELLO) + framed(b"bad frame"),
        b"",
    ],
    ids=["http", "pickle", "garbage", "huge", "long-hello", "newer", "oversized", "bad-frame", "nothing"],
)
async def test_bytes_of_strangers_end_their_connection_only(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "HELLO_S", 2.0)
    a, b = Side("a", {"b"}, None), Side("b", {"a"}, None)
    async with running(a, b):
        reader, writer = await asyncio.open_connection(HOST, a.direct.port)
        writer.write(said)
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionError):
                await reader.read()  # until it is closed
        writer.close()
        assert not a.sink.up and not a.sink.frames
        b.dial(a)
        await until(lambda: "b" in a.sink.up)


async def heard_after(side: Side, said: bytes) -> bytes:
    """What is answered until the connection is closed."""
    reader, writer = await asyncio.open_connection(HOST, side.direct.port)
    heard = b""
    async with asyncio.timeout(PATIENCE_S):
        writer.write(said)
        with suppress(ConnectionError):
            while part := await reader.read(65_536):
                heard += part
    writer.close()
    return heard


async def test_whom_the_engine_does_not_let_in_is_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    wrong = RaftHello(format=FORMAT, cluster_id="c", node_id="b", disk_id="bad disk").SerializeToString()
    a = Side("a", {"b"}, None)
    async with running(a):
        assert await heard_after(a, framed(wrong)) == b""
        await until(lambda: bool(caplog.records))
        assert [vars(record)["reason"] for record in caplog.records] == ["no disk of ours"]
        assert not a.sink.up and a.direct._strangers == 0
        assert await heard_after(a, framed(HELLO) + framed(b"bad frame"))


async def test_a_peer_with_bad_frames_is_named_in_the_log_once_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers who fill their own share of it do not keep that out."""
    monkeypatch.setattr(direct, "LOG_EVERY_S", 60.0)
    a = Side("a", {"b"}, None)
    async with running(a):
        for _ in range(10):
            await heard_after(a, framed(b"no hello"))
            await heard_after(a, framed(HELLO) + framed(b"bad frame"))
        await until(lambda: len(caplog.records) >= 2)
        told = [(vars(record).get("peer", ""), vars(record)["reason"]) for record in caplog.records]
        assert told == [("", "its hello is none"), ("b", "no frame of ours")]


async def test_a_link_that_breaks_while_it_is_replaced_says_why_it_broke(
    caplog: pytest.LogCaptureFixture,
) -> None:
    a = Side("a", {"b"}, None)
    async with running(a):
        link = a.direct._taken()
        link.connection_made(Aborted())
        link.data_received(framed(HELLO) + framed(b"bad frame"))
        link.close()  # as a newer link does with an older one, before the loop has told that it is gone
        link.connection_lost(None)
        await until(lambda: bool(caplog.records))
        assert [vars(record)["reason"] for record in caplog.records] == ["no frame of ours"]


class Aborted(asyncio.Transport):
    """A transport whose end the loop has yet to tell."""

    aborted = False

    def write(self, data: object) -> None:
        """To nobody."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


async def test_many_strangers_do_not_keep_a_peer_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "HELLO_S", 2.0)
    a, b = Side("a", {"b"}, None), Side("b", {"a"}, None)
    async with running(a, b):
        silent = [await asyncio.open_connection(HOST, a.direct.port) for _ in range(2 * direct.STRANGERS_MAX)]
        assert len(a.direct._links) <= 2 * direct.STRANGERS_MAX
        await until(lambda: not a.direct._links)
        b.dial(a)
        await until(lambda: "b" in a.sink.up)
        for _, writer in silent:
            writer.close()


async def test_strangers_without_a_handshake_are_let_go(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end by themselves, and count for nothing: who proves himself comes in beside them."""
    monkeypatch.setattr(direct, "HELLO_S", 1.0)
    a, b = (Side(me, {peer}, load_tls(node_paths(certificates, me), me)) for me, peer in ("ab", "ba"))
    async with running(a, b):
        count = direct.STRANGERS_MAX + 1
        silent = [await asyncio.open_connection(HOST, a.direct.port) for _ in range(count)]
        b.dial(a)
        await until(lambda: "b" in a.sink.up)
        async with asyncio.timeout(PATIENCE_S):
            assert {await reader.read() for reader, _ in silent} == {b""}
        for _, writer in silent:
            writer.close()
        assert "b" in a.sink.up


async def test_who_ends_the_session_ends_the_link(certificates: Path) -> None:
    a = Side("a", {"b"}, load_tls(node_paths(certificates, "a"), "a"))
    context = direct.tls_context(load_tls(node_paths(certificates, "b"), "b"), ssl.PROTOCOL_TLS_CLIENT)
    async with running(a):
        _, writer = await asyncio.open_connection(HOST, a.direct.port, ssl=context, server_hostname="a")
        writer.write(framed(HELLO) + framed(b"first"))
        await until(lambda: a.sink.frames == [("b", b"first")])
        assert "b" in a.sink.up
        writer.close()  # says so in TLS before the socket is closed
        await until(lambda: not a.sink.up)


async def test_a_silent_peer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "LIFE_SIGN_S", 0.02)
    monkeypatch.setattr(direct, "SILENCE_S", 0.2)
    a = Side("a", {"b"}, None)
    async with running(a):
        reader, writer = await asyncio.open_connection(HOST, a.direct.port)
        writer.write(framed(HELLO))
        await until(lambda: "b" in a.sink.up)
        await until(lambda: not a.sink.up)  # it never gave a sign of life
        writer.close()
        del reader


async def test_idle_links_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "LIFE_SIGN_S", 0.1)
    monkeypatch.setattr(direct, "SILENCE_S", 3.0)
    a, b = Side("a", {"b"}, None), Side("b", {"a"}, None)
    async with running(a, b):
        served = b.dial(a)
        await until(lambda: "b" in a.sink.up)
        await asyncio.sleep(4.0)
        assert not served.done() and "b" in a.sink.up


async def test_a_peer_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "UNSENT_BYTES_MAX", 1 << 20)
    a = Side("a", {"b"}, None)
    async with running(a):
        reader, writer = await asyncio.open_connection(HOST, a.direct.port, limit=1)
        writer.write(framed(HELLO))
        await until(lambda: "b" in a.sink.up)
        write = a.sink.up["b"]
        for _ in range(64):
            write(b"x" * (1 << 20))
        await until(lambda: not a.sink.up)
        writer.close()
        del reader


async def test_a_taken_port_is_said() -> None:
    a, b = Side("a", set(), None), Side("b", set(), None)
    async with running(a):
        with pytest.raises(PortInUse, match=str(a.direct.port)):
            await b.direct.start(HOST, a.direct.port, "")


async def test_port_zero_listens_nowhere() -> None:
    a = Side("a", set(), None)
    await a.direct.start(HOST, 0, "")
    assert a.direct.port == 0
    await a.direct.stop()
