"""Frames: every message comes back as it was; anything else is a BadFrame and nothing worse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.raft import messages as m
from coterie.raft.configuration import encode, first
from coterie.raft.entry import NO_OP_ENTRY, seal
from coterie.raft.errors import BadFrame
from coterie.raft.wire import Wire
from coterie.v1.raft_pb2 import RaftEnvelope, RaftMessage

ENTRY = seal(5, bytes(range(16)), b"body")
ID = bytes(16)
WIRE = Wire("blue", 100_000)

MESSAGES: list[m.Message] = [
    m.Greeting(0, True),
    m.PreVote(7, 3, 2),
    m.PreVoteReply(7, True, 6),
    m.VoteRequest(7, 3, 2, True),
    m.VoteReply(7),
    m.Append(7, 9, 123_456_789, 3, 2, 3, [4, 7], [ENTRY, NO_OP_ENTRY]),
    m.Append(7, 0, 1, 0, 0, 0),
    m.AppendReply(7, 9, 123_456_789, True, 6),
    m.SnapshotChunk(7, 9, 1, 30, 6, 1_000, 10, b"data"),
    m.SnapshotReply(7, 9, 1, 30, 14, m.SnapshotStatus.MORE),
    m.Forward(7, True, [ID], [b"body"]),
    m.ForwardReply(7, 6, [ID], m.Refusal.BUSY),
    m.ReadRequest(7, 4),
    m.ReadReply(7, 4, True, 99),
    m.TimeoutNow(7),
    m.TransferRequest(7, "n2"),
    m.ChangeRequest(7, 3, m.ChangeKind.ADD, "n4", "host:1", True),
    m.ChangeReply(7, 3, m.ChangeStatus.DONE, "", encode(first(("n1", "n2"), {}))),
]


def test_every_kind_of_message_is_tried() -> None:
    assert {type(message) for message in MESSAGES} == set(m.Message.__args__)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back(message: m.Message) -> None:
    assert WIRE.decode(WIRE.encode([message])) == [message]


def test_many_messages_keep_their_order() -> None:
    assert WIRE.decode(WIRE.encode(MESSAGES)) == MESSAGES


def envelope(**fields: object) -> bytes:
    made = RaftEnvelope.FromString(WIRE.encode([m.VoteReply(1)]))
    for name, value in fields.items():
        setattr(made, name, value)
    return made.SerializeToString()


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "format 0"),
        (b"\x80\x04\x95garbage", "not a frame"),
        (b"x" * 100_001, "limit"),
        (envelope(format=2), "format 2"),
        (Wire("red", 1_000).encode([m.VoteReply(1)]), "another cluster"),
        (WIRE.encode([]), "0 messages"),
    ],
)
def test_a_bad_envelope(frame: bytes, why: str) -> None:
    with pytest.raises(BadFrame, match=why):
        WIRE.decode(frame)


BAD: list[tuple[m.Message, str]] = [
    (m.Append(7, 1, 1, 3, 2, 3, [4], [ENTRY, ENTRY]), "2 entries with 1 terms"),
    (m.Append(7, 1, 1, 3, 2, 3, [4], [b"\x02" + ENTRY[1:]]), "in no log"),  # membership: a pickle
    (m.Append(7, 1, 1, 3, 2, 3, [4], [b"\x03" + ENTRY[1:]]), "in no log"),  # version: a pickle
    (m.Append(7, 1, 1, 3, 2, 3, [4], [b""]), "in no log"),
    (m.Append(7, 1, 1, 3, 2, 3, [4], [b"\x00short"]), "in no log"),
    (m.Append(7, 1, 1, 3, 2, 3, [4], [NO_OP_ENTRY + b"x"]), "in no log"),
    (m.Append(7, 1, 1, 3, 2, 3, [1], [ENTRY]), "go back"),
    (m.Append(7, 1, 1, 3, 2, 3, [8], [ENTRY]), "go back"),
    (m.Forward(7, False, [], []), "0 forwarded"),
    (m.Forward(7, False, [ID], []), "0 forwarded"),
    (m.Forward(7, False, [b"short"], [b"x"]), "16 bytes"),
    (m.SnapshotChunk(7, 1, 1, 5, 6, 10, 8, b"data"), "chunk of 4"),
    (m.SnapshotChunk(7, 1, 1, 5, 6, 10, 8, b""), "chunk of 0"),
    (m.SnapshotChunk(7, 1, 1, 5, 8, 10, 0, b"data"), "term 8"),
    (m.SnapshotChunk(7, 1, 1, 0, 6, 10, 0, b"data"), "snapshot at 0"),
]


@pytest.mark.parametrize(("message", "why"), BAD)
def test_a_message_we_would_not_send(message: m.Message, why: str) -> None:
    with pytest.raises(BadFrame, match=why):
        WIRE.decode(WIRE.encode([m.VoteReply(1), message]))


@pytest.mark.parametrize(
    "message",
    [
        RaftMessage(term=1),
        RaftMessage(term=1, forward_reply=RaftMessage.ForwardReply(ids=[ID], reason=77)),  # type: ignore[arg-type]
        RaftMessage(term=1, snapshot_reply=RaftMessage.SnapshotReply(status=77)),  # type: ignore[arg-type]
    ],
)
def test_a_message_from_another_version(message: RaftMessage) -> None:
    made = RaftEnvelope.FromString(WIRE.encode([m.VoteReply(1)]))
    made.messages.append(message)
    with pytest.raises(BadFrame):
        WIRE.decode(made.SerializeToString())


@given(st.binary(max_size=300))
def test_random_bytes(noise: bytes) -> None:
    try:
        WIRE.decode(noise)
    except BadFrame:
        return


@given(st.integers(0, len(MESSAGES) - 1), st.data())
def test_damaged_frames(which: int, data: st.DataObject) -> None:
    frame = bytearray(WIRE.encode([MESSAGES[which]]))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        WIRE.decode(bytes(frame))
    except BadFrame:
        return
