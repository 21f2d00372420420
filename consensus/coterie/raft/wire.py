"""Messages as frames and back. A frame comes from a stranger until every field of it was looked at."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from google.protobuf.message import DecodeError

from coterie.raft import configuration
from coterie.raft import messages as m
from coterie.raft.entry import is_valid
from coterie.raft.errors import BadFrame
from coterie.v1.raft_pb2 import RaftEnvelope, RaftMessage

FORMAT = 1
MESSAGES_MAX = 100_000
ID_BYTES = 16

# Records whose fields are exactly those of their protobuf message.
_PLAIN: dict[type, str] = {
    m.Greeting: "greeting",
    m.PreVote: "pre_vote",
    m.PreVoteReply: "pre_vote_reply",
    m.VoteRequest: "vote_request",
    m.VoteReply: "vote_reply",
    m.Append: "append",
    m.AppendReply: "append_reply",
    m.SnapshotChunk: "snapshot_chunk",
    m.SnapshotReply: "snapshot_reply",
    m.Forward: "forward",
    m.ForwardReply: "forward_reply",
    m.ReadRequest: "read_request",
    m.ReadReply: "read_reply",
    m.TimeoutNow: "timeout_now",
    m.TransferRequest: "transfer_request",
    m.ChangeRequest: "change_request",
    m.ChangeReply: "change_reply",
}


class Wire:
    """Encodes and decodes the frames of one cluster."""

    def __init__(self, cluster_id: str, frame_bytes_max: int) -> None:
        self._cluster = zlib.crc32(cluster_id.encode())
        self._bytes_max = frame_bytes_max

    def encode(self, messages: Sequence[m.Message]) -> bytes:
        """One frame with all the messages, in order."""
        envelope = RaftEnvelope(format=FORMAT, cluster=self._cluster)
        for message in messages:
            _fill(envelope.messages.add(term=message.term), message)
        return envelope.SerializeToString()

    def decode(self, frame: bytes) -> list[m.Message]:
        """Raises BadFrame for anything that this engine would not have sent."""
        if len(frame) > self._bytes_max:
            raise BadFrame(f"frame of {len(frame)} bytes, the limit is {self._bytes_max}")
        try:
            envelope = RaftEnvelope.FromString(frame)
        except DecodeError as error:
            raise BadFrame(f"not a frame: {error}") from error
        if envelope.format != FORMAT:
            raise BadFrame(f"frame format {envelope.format}, this node knows {FORMAT}")
        if envelope.cluster != self._cluster:
            raise BadFrame("frame of another cluster")
        if not 0 < len(envelope.messages) <= MESSAGES_MAX:
            raise BadFrame(f"frame of {len(envelope.messages)} messages")
        return [_from_pb(message) for message in envelope.messages]


def _fill(pb: RaftMessage, message: m.Message) -> None:
    kind = type(message)
    body: Any = getattr(pb, _PLAIN[kind])
    body.SetInParent()
    for name in _FIELDS[kind]:
        value = getattr(message, name)
        if not value:
            continue  # what is not set reads the same, and a call less is made
        if isinstance(value, list):
            getattr(body, name).extend(value)
        else:
            setattr(body, name, value)


def _from_pb(pb: RaftMessage) -> m.Message:
    kind = pb.WhichOneof("body")
    if kind is None:
        raise BadFrame("a message of a kind this node does not know")
    return _READERS[kind](pb.term, getattr(pb, kind))


def _reader(record: type) -> Callable[[int, Any], m.Message]:
    names = _FIELDS[record]
    fields = attrgetter(*names) if len(names) > 1 else lambda body: [getattr(body, name) for name in names]

    def read(term: int, body: Any) -> m.Message:
        made: m.Message = record(term, *fields(body))
        return made

    return read


def _append(term: int, body: Any) -> m.Append:
    terms, entries = list(body.terms), list(body.entries)
    if len(terms) != len(entries):
        raise BadFrame(f"{len(entries)} entries with {len(terms)} terms")
    if not all(map(is_valid, entries)):
        raise BadFrame("an entry of a type that is in no log")
    bounds = [body.prev_term, *terms, term]
    if bounds != sorted(bounds):
        raise BadFrame(f"entry terms {bounds} go back")
    return m.Append(
        term,
        body.sequence,
        body.sent_at_us,
        body.prev_index,
        body.prev_term,
        body.commit_index,
        terms,
        entries,
    )


def _forward(term: int, body: Any) -> m.Forward:
    ids, bodies = list(body.ids), list(body.bodies)
    if len(ids) != len(bodies) or not ids:
        raise BadFrame(f"{len(bodies)} forwarded entries with {len(ids)} ids")
    _require_ids(ids)
    return m.Forward(term, body.again, ids, bodies, body.vital)


def _forward_reply(term: int, body: Any) -> m.ForwardReply:
    ids = list(body.ids)
    _require_ids(ids)
    if body.reason not in m.Refusal.__members__.values():
        raise BadFrame(f"unknown refusal {body.reason}")
    return m.ForwardReply(term, body.of_term, ids, m.Refusal(body.reason))


def _snapshot_chunk(term: int, body: Any) -> m.SnapshotChunk:
    if not body.data or body.offset + len(body.data) > body.size_bytes:
        raise BadFrame(f"chunk of {len(body.data)} bytes at {body.offset} of {body.size_bytes}")
    if body.index < 1 or body.index_term > term:
        raise BadFrame(f"snapshot at {body.index} of term {body.index_term}, sent in term {term}")
    return m.SnapshotChunk(
        term,
        body.sequence,
        body.sent_at_us,
        body.index,
        body.index_term,
        body.size_bytes,
        body.offset,
        body.data,
    )


def _snapshot_reply(term: int, body: Any) -> m.SnapshotReply:
    if body.status not in m.SnapshotStatus.__members__.values():
        raise BadFrame(f"unknown snapshot status {body.status}")
    return m.SnapshotReply(
        term, body.sequence, body.sent_at_us, body.index, body.offset, m.SnapshotStatus(body.status)
    )


def _change_request(term: int, body: Any) -> m.ChangeRequest:
    if body.kind not in m.ChangeKind.__members__.values():
        raise BadFrame(f"unknown change of the members {body.kind}")
    kind = m.ChangeKind(body.kind)
    return m.ChangeRequest(term, body.id, kind, body.node_id, body.address, body.voter, body.disk_id)


def _change_reply(term: int, body: Any) -> m.ChangeReply:
    if body.status not in m.ChangeStatus.__members__.values():
        raise BadFrame(f"unknown answer to a change of the members {body.status}")
    if body.status == m.ChangeStatus.DONE and not configuration.is_valid(body.configuration):
        raise BadFrame("a change of the members whose result is none")
    return m.ChangeReply(term, body.id, m.ChangeStatus(body.status), body.reason, body.configuration)


def _require_ids(ids: list[bytes]) -> None:
    if any(len(entry_id) != ID_BYTES for entry_id in ids):
        raise BadFrame("an entry id is not 16 bytes")


_FIELDS: dict[type, list[str]] = {
    record: [field.name for field in RaftMessage.DESCRIPTOR.fields_by_name[kind].message_type.fields]  # type: ignore[union-attr]
    for record, kind in _PLAIN.items()
}

_READERS: dict[str, Callable[[int, Any], m.Message]] = {
    **{kind: _reader(record) for record, kind in _PLAIN.items()},
    "append": _append,
    "forward": _forward,
    "forward_reply": _forward_reply,
    "snapshot_chunk": _snapshot_chunk,
    "snapshot_reply": _snapshot_reply,
    "change_request": _change_request,
    "change_reply": _change_reply,
}
