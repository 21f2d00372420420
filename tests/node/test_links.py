"""Raft streams between nodes: whatever a peer sends, only the stream may end, never the node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from coterie.node.links import Outgoing, RaftDialer, Write, run_stream
from coterie.raft.errors import BadFrame
from coterie.v1 import peer_pb2


class Sink:
    """An engine that takes no frame."""

    def __init__(self) -> None:
        self.writes: dict[str, Write] = {}

    def link_up(self, peer: str, write: Write, disk_id: str = "") -> None:
        self.writes[peer] = write

    def link_down(self, peer: str, write: Write) -> None:
        self.writes.pop(peer)

    def receive(self, peer: str, frame: bytes) -> None:
        raise BadFrame("no frame of ours")


class Call:
    """A stream on which one frame waits."""

    def __init__(self) -> None:
        self.cancelled = False

    async def wait_for_connection(self) -> None:
        await asyncio.sleep(0)

    async def write(self, message: peer_pb2.RaftFrame) -> None:
        await asyncio.sleep(0)

    async def __aiter__(self) -> AsyncIterator[peer_pb2.RaftFrame]:
        yield peer_pb2.RaftFrame(frames=[b"garbage"])

    def cancel(self) -> None:
        self.cancelled = True


class Channels:
    """Two peers that are dialled by this node."""

    me, peers, metadata = "n3", {"n1": "", "n2": ""}, ()

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.enough = asyncio.Event()

    def stub(self, peer: str, purpose: str) -> Any:
        return self

    def Raft(self, metadata: Any) -> Call:
        self.calls.append(Call())
        if len(self.calls) >= 4:
            self.enough.set()
        return self.calls[-1]


async def test_bytes_that_are_no_frame_end_the_stream_and_it_is_dialled_again() -> None:
    channels: Any = Channels()
    sink = Sink()
    running = asyncio.ensure_future(RaftDialer(channels, sink).run())
    dialled = asyncio.ensure_future(channels.enough.wait())
    await asyncio.wait([running, dialled], return_when=asyncio.FIRST_COMPLETED, timeout=30)
    assert not running.done(), "a bad frame ended the node's dialler, and with it the node"
    assert dialled.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert all(call.cancelled for call in channels.calls)
    assert sink.writes == {}


async def test_a_peer_that_does_not_read_is_cut_off() -> None:
    class Deaf(Sink):
        def receive(self, peer: str, frame: bytes) -> None:
            for _ in range(Outgoing.FRAMES_MAX + 2):
                self.writes[peer](b"x")

    async def never(message: peer_pb2.RaftFrame) -> None:
        await asyncio.Event().wait()

    async def talks() -> AsyncIterator[peer_pb2.RaftFrame]:
        while True:
            await asyncio.sleep(0)
            yield peer_pb2.RaftFrame(frames=[b"hello"])

    sink = Deaf()
    async with asyncio.timeout(30):
        await run_stream(sink, "n1", talks(), never)
    assert sink.writes == {}
