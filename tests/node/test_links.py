"""Raft streams between nodes: who dials, and that whatever a peer sends ends the stream alone."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from coterie.core.ports import Member, Role
from coterie.node import dialer
from coterie.node.dialer import DialerParts, RaftDialer
from coterie.node.errors import STATUS_DETAILS_KEY, ApiError, to_status
from coterie.node.hub import Bell
from coterie.node.links import CLAIM_KEY, Links, Outgoing, PeerChannels, Write, run_stream
from coterie.node.observability import RateLimit
from coterie.node.roster import Roster
from coterie.raft.errors import BadFrame, Why
from coterie.v1 import peer_pb2

DISK = "d1"


class Sink:
    """An engine that takes no frame."""

    def __init__(self) -> None:
        self.writes: dict[str, Write] = {}
        self.met: list[str] = []

    def link_up(self, peer: str, write: Write, disk_id: str = "") -> None:
        self.writes[peer] = write
        self.met.append(peer)

    def link_down(self, peer: str, write: Write) -> None:
        if self.writes.get(peer) == write:
            del self.writes[peer]

    def receive(self, peer: str, frame: bytes) -> None:
        raise BadFrame("no frame of ours")


class Call:
    """A stream on which one frame waits, or which is refused."""

    def __init__(self, name: str, refusal: Exception | None = None) -> None:
        self.name, self.refusal, self.cancelled = name, refusal, False

    async def wait_for_connection(self) -> None:
        await asyncio.sleep(0)

    async def initial_metadata(self) -> tuple[tuple[str, str], ...]:
        return ((CLAIM_KEY, self.name),)

    async def write(self, message: peer_pb2.RaftFrame) -> None:
        await asyncio.sleep(0)

    async def __aiter__(self) -> AsyncIterator[peer_pb2.RaftFrame]:
        if self.refusal is not None:
            raise self.refusal
        yield peer_pb2.RaftFrame(frames=[b"garbage"])

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """Node n2 between n1 and n3, whose calls are all our own."""

    def __init__(self) -> None:
        self.members: tuple[Member, ...] = tuple(
            Member(node_id, f"{node_id}:1", Role.VOTER, DISK) for node_id in ("n1", "n2", "n3")
        )
        self.sink, self.quorum = Sink(), True
        self.calls: list[Call] = []
        self.refusals: dict[str, Exception] = {}
        self.told: list[tuple[str, Why]] = []
        self.given_up: list[str] = []
        self.bell = Bell()
        named = {"n1": "n1:9", "n3": "n3:1"}
        self.channels = PeerChannels("n2", named, None)
        self.channels.stub = self._stub  # type: ignore[method-assign]
        self.links = Links(self.sink)
        self.roster = Roster("n2", "n2:1", named, lambda: self.members, lambda: DISK)
        parts = DialerParts(
            self.channels,
            self.links,
            self.roster,
            self.bell,
            lambda: self.quorum,
            lambda peer, why: self.told.append((peer, why)),
            self.given_up.append,
        )
        self.dialer = RaftDialer(parts)

    def _stub(self, peer: str, purpose: str = "bulk") -> Any:
        world = self

        class Stub:
            def Raft(self, metadata: Any) -> Call:
                world.calls.append(Call(peer, world.refusals.get(peer)))
                return world.calls[-1]

        return Stub()

    def dialled(self) -> set[str]:
        return {call.name for call in self.calls}

    async def until(self, condition: Callable[[], object]) -> None:
        running = asyncio.ensure_future(self.dialer.run())
        try:
            async with asyncio.timeout(20):
                while not condition():
                    assert not running.done(), "the dialler ended, and with it the node"
                    await asyncio.sleep(0.01)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(dialer, "LOOK_S", 0.01)
    return World()


def refusal(why: Why) -> Exception:
    error = ApiError(grpc.StatusCode.PERMISSION_DENIED, why.name, f"you are {why}")
    trailing = grpc.aio.Metadata((STATUS_DETAILS_KEY, to_status(error).SerializeToString()))
    return grpc.aio.AioRpcError(error.code, grpc.aio.Metadata(), trailing, error.message)


async def test_bytes_that_are_no_frame_end_the_stream_and_it_is_dialled_again(world: World) -> None:
    await world.until(lambda: len(world.calls) >= 4)
    assert all(call.cancelled for call in world.calls)
    assert world.sink.writes == {}


async def test_the_node_with_the_larger_id_dials(world: World) -> None:
    await world.until(lambda: len(world.calls) >= 3)
    assert world.dialled() == {"n1"}


@pytest.mark.parametrize(
    "change",
    [{"disk_id": ""}, {"disk_id": "another"}, {"address": "n2:7"}],
    ids=["not bound yet", "another disk", "moved"],
)
async def test_a_node_the_others_cannot_know_dials_them_all(world: World, change: dict[str, str]) -> None:
    me = {"node_id": "n2", "address": "n2:1", "role": Role.VOTER, "disk_id": DISK, **change}
    world.members = (world.members[0], Member(**me), world.members[2])  # type: ignore[arg-type]
    await world.until(lambda: world.dialled() == {"n1", "n3"})


async def test_a_node_that_waits_to_be_taken_in_dials_whom_its_file_names(world: World) -> None:
    world.members = ()
    await world.until(lambda: world.dialled() == {"n1", "n3"})
    assert world.roster.admits("n9"), "it cannot know yet who leads"


async def test_a_node_without_a_leader_does_not_wait_to_be_dialled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer, "LONELY_S", 0.02)
    world.quorum = False
    await world.until(lambda: world.dialled() == {"n1", "n3"})


async def test_a_peer_that_does_not_dial_for_long_is_dialled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been away while all whom it dials moved, and know of none where they are."""
    monkeypatch.setattr(dialer, "UNHEARD_S", 0.1)
    talking = asyncio.ensure_future(run_stream(world.links, "n3", silence(), never))

    async def leave() -> set[str]:
        await asyncio.sleep(0.5)
        talking.cancel()
        return world.dialled()

    leaving = asyncio.ensure_future(leave())
    await world.until(lambda: "n3" in world.dialled())
    assert leaving.done() and leaving.result() == {"n1"}, "dialled while it was there"


async def test_the_peers_follow_the_members(world: World) -> None:
    world.members = (*world.members, Member("n0", "n0:1", Role.LEARNER, ""))
    await world.until(lambda: world.dialled() == {"n0", "n1"})
    assert world.channels.peers["n0"] == "n0:1"


async def test_a_removed_member_is_let_go_after_a_farewell(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer, "FAREWELL_S", 0.05)
    talking = asyncio.ensure_future(run_stream(world.links, "n3", silence(), never))
    await world.until(lambda: "n3" in world.channels.peers and world.links.up("n3"))
    world.members = world.members[:2]
    await world.until(lambda: "n3" not in world.channels.peers and not world.links.up("n3"))
    await talking
    assert not world.roster.admits("n3")


async def test_a_peer_is_sought_where_the_log_and_where_the_file_say(world: World) -> None:
    sought: list[str] = []
    world.refusals["n1"] = OSError("nobody there")
    stub = world.channels.stub

    def noting(peer: str, purpose: str = "bulk") -> Any:
        sought.append(world.channels.peers[peer])
        return stub(peer, purpose)

    world.channels.stub = noting  # type: ignore[method-assign]
    await world.until(lambda: len(sought) >= 3)
    assert sought[:3] == ["n1:1", "n1:9", "n1:1"]


async def test_another_node_at_the_address_is_not_taken_for_the_peer(world: World) -> None:
    stub = world.channels.stub

    def stranger(peer: str, purpose: str = "bulk") -> Any:
        return stub("n7", purpose)

    world.channels.stub = stranger  # type: ignore[method-assign]
    await world.until(lambda: len(world.calls) >= 2)
    assert world.sink.met == []


async def test_the_engine_hears_why_a_peer_refuses(world: World) -> None:
    world.refusals["n1"] = refusal(Why.REMOVED)
    await world.until(lambda: world.told)
    assert world.told[0] == ("n1", Why.REMOVED)


async def test_a_disk_refused_by_most_is_given_up_and_by_one_only_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.members = (world.members[0], Member("n2", "n2:1", Role.VOTER, ""), world.members[2])
    world.refusals["n1"] = refusal(Why.WRONG_DISK)
    world.refusals["n3"] = OSError("not there")
    await world.until(lambda: len(world.told) >= 3)
    assert not world.given_up, "a single peer may lag behind"
    monkeypatch.setattr(dialer, "REFUSED_MAX_S", 0.0)
    await world.until(lambda: world.given_up)
    monkeypatch.undo()
    world.given_up.clear()
    world.refusals["n3"] = refusal(Why.WRONG_DISK)
    await world.until(lambda: world.given_up)
    assert world.given_up[0] == "you are wrong-disk"


# --- streams


async def never(message: peer_pb2.RaftFrame) -> None:
    await asyncio.Event().wait()


async def silence() -> AsyncIterator[peer_pb2.RaftFrame]:
    await asyncio.Event().wait()
    yield peer_pb2.RaftFrame()


async def test_a_peer_that_gives_another_reason_each_time_does_not_fill_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        world.dialer._say("n1", f"a raft link broke: frame of {number} messages")
    world.dialer._say("n3", "a raft link broke: not a frame")
    limit = RateLimit()
    passed = [vars(record)["peer"] for record in caplog.records if limit.filter(record)]
    assert passed == ["n1"] * 10 + ["n3"]


class Message:
    """What came in a stream."""

    frames = (b"garbage",)


async def test_what_was_no_frame_is_not_kept() -> None:
    """Neither its bytes, until the collector comes by, nor the stream, for want of an end."""
    seen: weakref.WeakSet[Message] = weakref.WeakSet()
    closed = []

    async def messages() -> AsyncIterator[Message]:
        try:
            while True:
                seen.add(message := Message())
                yield message
                del message
        finally:
            closed.append(True)

    gc.disable()
    try:
        with pytest.raises(BadFrame):
            await run_stream(Links(Sink()), "n1", messages(), never)
        await asyncio.sleep(0)
        assert closed and not seen
    finally:
        gc.enable()


async def test_a_newer_stream_ends_the_older(world: World) -> None:
    """Dialled from both sides at once: if both stayed, each side might write where the other has left."""
    older = asyncio.ensure_future(run_stream(world.links, "n1", silence(), never))
    await asyncio.sleep(0)
    newer = asyncio.ensure_future(run_stream(world.links, "n1", silence(), never))
    async with asyncio.timeout(20):
        await older
    assert world.links.up("n1") and "n1" in world.sink.writes
    newer.cancel()
    await asyncio.gather(newer, return_exceptions=True)
    assert not world.links.up("n1") and world.sink.writes == {}


async def test_a_peer_that_does_not_read_is_cut_off() -> None:
    class Deaf(Sink):
        def receive(self, peer: str, frame: bytes) -> None:
            for _ in range(Outgoing.FRAMES_MAX + 2):
                self.writes[peer](b"x")

    async def talks() -> AsyncIterator[peer_pb2.RaftFrame]:
        while True:
            await asyncio.sleep(0)
            yield peer_pb2.RaftFrame(frames=[b"hello"])

    sink = Deaf()
    async with asyncio.timeout(30):
        await run_stream(Links(sink), "n1", talks(), never)
    assert sink.writes == {}


def test_what_comes_over_a_link_that_was_replaced_is_lost_with_it() -> None:
    """An answer to it would leave over the newer link, and be taken for one to what was asked there."""

    class Hears(Sink):
        def receive(self, peer: str, frame: bytes) -> None:
            self.met.append(frame.decode())

    sink, former, present = Hears(), Outgoing(), Outgoing()
    links = Links(sink)
    links.link_up("n1", former)
    links.receive("n1", former, b"first")
    links.link_up("n1", present)
    links.receive("n1", former, b"too late")
    links.receive("n1", present, b"second")
    assert sink.met == ["n1", "first", "n1", "second"]


async def test_a_call_to_a_peer_that_has_left_fails_like_one_to_a_dead_peer() -> None:
    channels = PeerChannels("n2", {"n1": "127.0.0.1:1"}, None)
    channels.channel("n1", "bulk")
    channels.update({})
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        channels.stub("n1")
    assert gone.value.code() is grpc.StatusCode.UNAVAILABLE
    await channels.close()
