"""Real nodes and a member's certificate in the wrong hands: after a good hello, over a socket and over a gRPC
stream, frames that are none, that mean nonsense, or that were sent before. No node dies, no code runs, the
logs do not fill however often the sender comes back, and nothing is done twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from coterie.core.coordination.commands import PutKey
from coterie.node.links import CLAIM_KEY, CLUSTER_KEY, DISK_KEY, cluster_mark
from coterie.node.localcluster import LocalCluster
from coterie.raft import codec
from coterie.raft import messages as m
from coterie.v1.peer_pb2 import RaftFrame
from tests.cluster import badframes
from tests.cluster.conftest import READY_S, client_of, new_cluster, until
from tests.cluster.siege import LARGE, LARGE_COUNT, Heard, Log, Site, besieged, framed, unframed

pytestmark = pytest.mark.cluster

MANY = 150
TIMES = 80
TERM_MAX = 1_000
RAFT = "/coterie.v1.Peer/Raft"


@pytest.fixture(scope="module")
def nodes() -> Iterator[LocalCluster]:
    with new_cluster() as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


@pytest.fixture
async def site(nodes: LocalCluster, tmp_path: Path) -> AsyncIterator[Site]:
    async with besieged(nodes, tmp_path / "bombed") as site:
        yield site


async def members_of(site: Site) -> list[tuple[str, str]]:
    async with client_of(site.cluster, site.victim) as client:
        return [(node.id, node.address) for node in await client.list_nodes()]


# --- over a socket


async def test_a_member_that_comes_back_with_bad_frames_does_not_fill_the_log(site: Site) -> None:
    """(The first one here, because the log itself lets through few lines of a kind in its intervals.)"""
    log = Log(site.cluster.log_path(site.victim))
    await site.tell_often(site.victim, [framed(b"\xff" * 40)] * TIMES)
    for _ in range(TIMES // 4):
        await site.tell(site.victim, b"\xff" * 40)
    assert 1 <= len(log.loud(site.liar, "not a frame")) <= log.seconds + 1
    assert len(log.loud()) <= log.seconds + 2


async def test_a_frame_that_is_none_ends_the_link_for_that_reason(site: Site) -> None:
    bad = [(framed(frame), reason) for frame, reason in badframes.refused(site.wire, site.bombs)]
    reasons: dict[str, list[bytes]] = {}
    for said, reason in [*bad, *badframes.oversized()]:
        reasons.setdefault(reason, []).append(site.hello(site.liar) + said)

    async def refuse_all(at: str, part: int) -> None:
        for reason, said in list(reasons.items())[part::2]:
            for heard in await site.refuses(at, said, reason):
                assert heard.hello is not None and heard.ended, reason

    await asyncio.gather(refuse_all(site.victim, 0), refuse_all(site.leader, 1))
    assert await site.term() < TERM_MAX


async def test_good_frames_made_bad(site: Site) -> None:
    frames = list(map(framed, badframes.changed(site.wire, random.Random(4), 2 * MANY)))
    await site.tell_often(site.victim, frames[:MANY])
    await site.tell_often(site.leader, frames[MANY:])


async def test_frames_that_never_end(site: Site) -> None:
    """Lengths that are not true, and large frames of which the last byte is missing, one after another."""
    whole = framed(site.wire.encode([m.ReadRequest(1, 4)]))
    said = [whole[:cut] for cut in range(1, len(whole))]
    said += [framed(site.bombs[2], size=5_000_000) for _ in range(20)]
    await site.tell_often(site.victim, said)
    for _ in range(10):
        await site.tell_often(site.victim, [framed(bytes(5_000_000), size=5_000_001)])


# --- what means nonsense


ANSWERS = {m.PreVoteReply, m.AppendReply, m.ForwardReply, m.SnapshotReply, m.ChangeReply}


async def test_messages_that_nobody_has_a_use_for(site: Site) -> None:
    """They reach the engine, which answers what has an answer, and nothing comes of them."""
    answers, members = set[type[m.Message]](), await members_of(site)

    async def hear(node_id: str, wrong: list[m.Message]) -> None:
        heard = await site.tell(node_id, site.wire.encode(wrong))
        assert heard.hello is not None
        answers.update(map(type, heard.messages(site.wire)))

    async def answered() -> bool:
        term = await site.term()
        wrong = badframes.nonsense(term, site.bombs)
        await hear(site.leader, wrong)
        await hear(site.victim, [*wrong, *badframes.as_if_led(term, site.bombs)])
        return answers >= ANSWERS

    term = await site.term()
    for message in badframes.nonsense(term, site.bombs):
        await asyncio.gather(hear(site.leader, [message]), hear(site.victim, [message]))
    for message in badframes.as_if_led(term, site.bombs):
        await hear(site.victim, [message])
    await until(answered, f"{ANSWERS} among {answers}")
    assert await site.term() < TERM_MAX and await members_of(site) == members


async def test_a_member_that_sends_damaged_snapshots_does_not_fill_the_log(site: Site) -> None:
    log = Log(site.cluster.log_path(site.victim))
    for _ in range(TIMES // 4):
        damaged = badframes.as_if_led(await site.term(), site.bombs)[-1]
        await site.tell(site.victim, site.wire.encode([damaged]))
    assert 1 <= len(log.loud("snapshot arrived damaged", site.liar)) <= log.bound


# --- what was sent before


async def test_a_proposal_that_is_sent_again_is_not_done_again(site: Site) -> None:
    """A follower's genuine frame, three times over one link and again over the next ones."""
    body = codec.encode_batch([PutKey(tenant="default", key="replayed", value=b'"by the frame"')])
    async with client_of(site.cluster, site.victim) as client:
        before = await client.kv.put("replayed", "by the client")
        frame = site.wire.encode([m.Forward(await site.term(), False, [bytes(range(16))], [body])])

        async def done() -> bool:
            await site.tell(site.leader, frame, frame, frame)
            return str(await client.kv.get("replayed")) == "by the frame"

        await until(done, "the frame's command")
        await site.tell(site.leader, frame)
        entry = await client.kv.entry("replayed")
        assert entry is not None and entry.version == before + 1


async def genuine(site: Site) -> list[bytes]:
    """Frames with entries of the leader for the victim, who was said to have nothing but the first one."""

    def behind(heard: Heard) -> bytes:
        last = [said for said in heard.messages(site.wire) if isinstance(said, m.Append)][-1:]
        replies = [m.AppendReply(a.term, a.sequence, a.sent_at_us, False, 2) for a in last]
        return framed(site.wire.encode(replies)) if replies else b""

    async def found() -> list[bytes]:
        heard = await site.say(site.leader, site.hello(site.victim), site.victim, behind)
        return [frame for frame in unframed(heard.data)[1:] if _entries(site, frame)]

    frames: list[bytes] = await until(found, "entries from the leader")
    return frames


def _entries(site: Site, frame: bytes) -> int:
    messages = site.wire.decode(frame)
    return sum(len(message.entries) for message in messages if isinstance(message, m.Append))


async def test_the_leaders_frames_sent_again_change_nothing(site: Site) -> None:
    """Heard from the leader, and said to the follower they were meant for under the leader's certificate:
    twice, after more was committed, over one link and the next."""
    frames = await genuine(site)
    await site.works()

    async def answered() -> list[m.AppendReply]:
        heard = await site.tell(site.victim, *frames, *frames, holder=site.leader)
        assert heard.hello is not None
        return [said for said in heard.messages(site.wire) if isinstance(said, m.AppendReply)]

    for _ in range(2):
        replies: list[m.AppendReply] = await until(answered, "answers to the leader's frames")
        assert all(reply.matched for reply in replies)
    await site.works()


# --- over a gRPC stream


async def stream(site: Site, *messages: bytes, claims: dict[str, str] | None = None) -> tuple[Any, str, int]:
    """How a call of Peer.Raft ends: code, details, and how many frames were heard. The node ends it well when
    the true peer has come back meanwhile."""
    metadata = tuple({CLAIM_KEY: site.liar, **(claims or {})}.items())
    heard = 0

    async def say() -> AsyncIterator[bytes]:
        for message in messages:
            yield message
        await asyncio.sleep(2)

    async with site.channel(site.liar, site.victim) as channel:
        method: Any = channel.stream_stream(RAFT)
        call = method(say(), metadata=metadata, timeout=10)
        try:
            async for message in call:
                heard += len(RaftFrame.FromString(message).frames)
        except grpc.aio.AioRpcError as error:
            return error.code(), str(error.details()), heard
    return grpc.StatusCode.OK, "", heard


async def refusal(site: Site, message: bytes) -> tuple[Any, str]:
    async def ended() -> tuple[Any, str] | None:
        code, details, _ = await stream(site, message)
        return None if code is grpc.StatusCode.OK else (code, details)

    found: tuple[Any, str] = await until(ended, "an end of the stream for what was said", pause_s=0.0)
    return found


async def test_a_stream_is_opened_to_who_is_who_he_says(site: Site) -> None:
    async def answered() -> int:
        return (await stream(site))[2]

    assert await until(answered, "frames from the node")
    claims = [
        ({CLAIM_KEY: site.leader}, "the call claims"),
        ({CLUSTER_KEY: cluster_mark("another")}, "a node of another cluster"),
        ({DISK_KEY: "f" * 16}, "comes with disk ffffffffffffffff"),
    ]
    for claim, reason in claims:
        code, details, heard = await stream(site, claims=claim)
        assert (code, heard) == (grpc.StatusCode.PERMISSION_DENIED, 0)
        assert reason in details


async def test_a_stream_with_a_frame_that_is_none_is_ended_for_that_reason(site: Site) -> None:
    """However often: the log stays short."""
    log = Log(site.cluster.log_path(site.victim))
    bad = badframes.refused(site.wire, site.bombs)
    bad += [(bytes(LARGE), f"frame of {LARGE} bytes")] * LARGE_COUNT  # none of them may be kept
    for frame, reason in bad:
        code, details = await refusal(site, RaftFrame(frames=[frame]).SerializeToString())
        assert code is grpc.StatusCode.INVALID_ARGUMENT and reason in details, (code, details, reason)
    garbage = RaftFrame(frames=[b"\xff" * 40]).SerializeToString()
    await asyncio.gather(*(stream(site, garbage) for _ in range(TIMES)))
    assert 1 <= len(log.loud("a stream of raft frames broke", site.liar, "not a frame")) <= log.bound


async def test_a_stream_of_what_is_no_message_is_ended(site: Site) -> None:
    for body in (*site.bombs, b"\xff" * 9, b"\x0b" * 100_000):
        code, _ = await refusal(site, body)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
