"""Frames that no node sends: those that are refused, each with the reason, and those that mean nonsense."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from coterie.node.links import FRAME_BYTES_MAX
from coterie.raft import codec
from coterie.raft import messages as m
from coterie.raft.entry import NO_OP_ENTRY, REGULAR, seal
from coterie.raft.errors import BadFrame
from coterie.raft.options import RaftOptions
from coterie.raft.wire import MESSAGES_MAX, Wire
from coterie.v1 import log_pb2
from coterie.v1.raft_pb2 import RaftEnvelope, RaftMessage
from tests.cluster.siege import framed
from tests.fuzz.mutate import mutated
from tests.raft.test_wire import MESSAGES

ID = bytes(16)
LAST = 2**64 - 1
FAR = 2**40  # far behind the end of any log here
NEWER = log_pb2.Batch(needs=[codec.VERSION + 1]).SerializeToString()  # in the log it would stop every node


def refused(wire: Wire, bombs: Sequence[bytes]) -> list[tuple[bytes, str]]:
    """Frames, and what a node says of each."""
    return [
        (b"\xff" * 40, "not a frame"),
        (wire.encode([m.ReadRequest(1, 4)])[:-3], "not a frame"),
        (b"\x0b" * 100_000, "not a frame"),  # groups in groups
        (bytes([0x1A, 0x80, 0x80, 0x04]) * 10_000, "not a frame"),  # messages in messages
        (bombs[0], "frame"),
        (bombs[1], "frame"),
        (bombs[2], "frame"),
        (_enveloped(wire, bombs[2]), "not a frame"),
        (Wire("blue", FRAME_BYTES_MAX).encode([m.VoteReply(1)]), "frame of another cluster"),
        (_said(wire, format=2), "frame format 2"),
        (wire.encode([]) + b"\x1a\x00" * (MESSAGES_MAX + 1), f"frame of {MESSAGES_MAX + 1} messages"),
        (_with(wire, RaftMessage(term=1)), "a kind this node does not know"),
        (_with(wire, b"\x9a\x06\x02\x08\x01"), "a kind this node does not know"),  # field 99
        (_with(wire, _status(-1)), "unknown snapshot status -1"),
        (_with(wire, _change(-7)), "unknown change of the members -7"),
        *[(wire.encode([m.VoteReply(1), message]), reason) for message, reason in _impossible(bombs)],
    ]


def _impossible(bombs: Sequence[bytes]) -> list[tuple[m.Message, str]]:
    """They are well formed, and say what cannot be. The engine takes nothing of a frame with one of them."""
    pickled = [bytes([kind]) + bombs[2] for kind in (2, 3)]  # the library's own commands
    entry = seal(5, ID, b"body")
    return [
        (m.Append(1, 1, 1, FAR, 1, 0, [1], [pickled[0]]), "an entry of a type that is in no log"),
        (m.Append(1, 1, 1, FAR, 1, 0, [1], [pickled[1]]), "an entry of a type that is in no log"),
        (m.Append(1, 1, 1, FAR, 1, 0, [1], [bytes([REGULAR])]), "an entry of a type that is in no log"),
        (m.Append(1, 1, 1, FAR, 1, 0, [1], [NO_OP_ENTRY, entry]), "2 entries with 1 terms"),
        (m.Append(1, 1, 1, FAR, 1, 0, [9], [entry]), "go back"),
        (m.Forward(1, False, [b"short"], [b"body"]), "not 16 bytes"),
        (m.SnapshotChunk(1, 1, 1, FAR, 1, 10, 8, b"data"), "chunk of 4 bytes at 8 of 10"),
        (m.SnapshotChunk(1, 1, 1, FAR, 9, 10, 0, b"data"), "of term 9"),
        (m.AppendReply(LAST, 1, 1, False, 0), "no election was in between"),
        (m.VoteRequest(LAST, LAST, LAST, True), "no election was in between"),
        (m.PreVoteReply(1, True, LAST), "no election was in between"),
    ]


def oversized() -> list[tuple[bytes, str]]:
    """What a socket says of a frame's length, and what a node says of that."""
    limit = RaftOptions(node_id="n", peers=("n",), data_dir=Path()).frame_bytes_max
    return [
        (framed(b"x", size=size), f"a frame of {size} bytes is above the limit")
        for size in (2**32 - 1, 2**31, limit + 1)
    ]


def nonsense(term: int, bombs: Sequence[bytes]) -> list[m.Message]:
    """Well-formed messages of the present term that nobody has a use for.

    Left out is what only a member that lies can do, and what the engine does not promise to bear: entries and
    commit indexes in a leader's name, chunks of a whole snapshot, copies confirmed that do not exist, terms
    that are higher but possible, and changes of the members that are there. A node stops itself when it sees
    by them that what was committed is not so, or when it is told that it was removed."""
    return [
        m.Greeting(LAST >> 40, True),
        m.PreVote(term, LAST, LAST),
        m.PreVoteReply(term, True, 0),
        m.PreVoteReply(term + 1, True, term),  # nobody has asked
        m.VoteRequest(0, LAST, LAST, True, "x" * 5_000),
        m.VoteReply(term),
        m.AppendReply(term, LAST, LAST, False, LAST, 2**32 - 1, LAST),
        m.AppendReply(0, LAST, LAST, True, LAST, 2**32 - 1, LAST),
        m.SnapshotReply(term, LAST, LAST, LAST, LAST, m.SnapshotStatus.DONE),
        m.SnapshotReply(term, LAST, LAST, LAST, LAST, m.SnapshotStatus.DAMAGED),
        m.Forward(term, True, [b"0" * 16], [bombs[2]]),
        m.Forward(term, False, [b"1" * 16, b"1" * 16], [b"\xff" * 9, bombs[0]]),
        m.Forward(term, False, [b"2" * 16], [NEWER]),
        m.Forward(LAST >> 40, False, [ID], [b""]),
        m.ForwardReply(term, LAST, [ID], m.Refusal.NOT_LEADER),
        m.ReadRequest(term, LAST),
        m.ReadReply(term, LAST, True, LAST),
        m.TimeoutNow(term),
        m.TransferRequest(term, "nobody" * 1_000),
        m.ChangeRequest(term, LAST, m.ChangeKind.REMOVE, "nobody" * 1_000, "", False, "x"),
        m.ChangeRequest(term, LAST, m.ChangeKind.MOVE, "nobody", "\x00:-1"),
        m.ChangeReply(term, LAST, m.ChangeStatus.REFUSED, "x" * 5_000),
    ]


def as_if_led(term: int, bombs: Sequence[bytes]) -> list[m.Message]:
    """The same in a leader's name, for a follower: it hears the true one again a moment later."""
    return [
        m.Append(term, 1, LAST, FAR, term, LAST, [term], [seal(LAST, ID, bombs[2])]),
        m.SnapshotChunk(term, 1, 1, FAR, term, LAST, 8, bombs[2]),  # never asked for, and not from its start
        m.SnapshotChunk(term, 1, 1, FAR, term, LAST, 0, bombs[2]),
        m.SnapshotChunk(term, 1, 1, FAR, term, len(bombs[2]), 0, bombs[2]),
    ]


def changed(wire: Wire, rng: random.Random, count: int) -> list[bytes]:
    """Good frames that were made bad. (What still is a frame is left out: see `nonsense`.)"""
    corpus = [wire.encode([message]) for message in MESSAGES] + [wire.encode(MESSAGES)]
    made: list[bytes] = []
    while len(made) < count:
        frame = mutated(corpus, rng)
        if frame and not _is_frame(wire, frame):
            made.append(frame)
    return made


def _is_frame(wire: Wire, frame: bytes) -> bool:
    try:
        wire.decode(frame)
    except BadFrame:
        return False
    return True


# --- by hand


def _said(wire: Wire, **fields: int) -> bytes:
    made = RaftEnvelope.FromString(wire.encode([m.VoteReply(1)]))
    for name, value in fields.items():
        setattr(made, name, value)
    return made.SerializeToString()


def _enveloped(wire: Wire, message: bytes) -> bytes:
    """A frame whose second message is made of these bytes."""
    size = bytes([len(message) & 0x7F | 0x80, len(message) >> 7])
    return wire.encode([m.VoteReply(1)]) + b"\x1a" + size + message


def _with(wire: Wire, message: RaftMessage | bytes) -> bytes:
    return _enveloped(wire, message if isinstance(message, bytes) else message.SerializeToString())


def _status(number: int) -> RaftMessage:
    return RaftMessage(term=1, snapshot_reply=RaftMessage.SnapshotReply(status=number))  # type: ignore[arg-type]


def _change(number: int) -> RaftMessage:
    return RaftMessage(term=1, change_request=RaftMessage.ChangeRequest(kind=number))  # type: ignore[arg-type]
