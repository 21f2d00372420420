"""What the members of the group say to each other, as plain records."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A frozen dataclass to the type checker, which sees to it that nobody changes one. To Python a plain
    one: a frozen object sets its fields in a way that takes three times as long, and every step makes some.
    """
    return dataclass(slots=True)(cls)


@record
class Greeting:
    """The first word over a link. `term` is 0: it belongs to none."""

    term: int
    holds: bool  # something was appended to the log here


@record
class PreVote:
    """Would you vote for me in `term`? Nobody's term changes by asking (Raft thesis, section 9.6)."""

    term: int
    last_index: int
    last_term: int
    disk_id: str = ""  # that the candidate's configuration binds the asked node to


@record
class PreVoteReply:
    term: int  # of the question
    granted: bool
    voter_term: int


@record
class VoteRequest:
    term: int
    last_index: int
    last_term: int
    transfer: bool = False
    disk_id: str = ""  # as in PreVote


@record
class VoteReply:
    """A granted vote."""

    term: int


@record
class Append:
    term: int
    sequence: int  # 0: no reply is wanted
    sent_at_us: int
    prev_index: int
    prev_term: int
    commit_index: int
    terms: list[int] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)


@record
class AppendReply:
    term: int
    sequence: int
    sent_at_us: int
    matched: bool
    next_index: int
    room: int = 0  # see room.Room
    sync_us: int = 0
    early: bool = False  # says that the message has arrived, and nothing else: the answer comes later


@record
class SnapshotChunk:
    term: int
    sequence: int
    sent_at_us: int
    index: int
    index_term: int
    size_bytes: int
    offset: int
    data: bytes


class SnapshotStatus(IntEnum):
    RESTART = 0
    MORE = 1
    DONE = 2
    DAMAGED = 3


@record
class SnapshotReply:
    term: int
    sequence: int
    sent_at_us: int
    index: int
    offset: int
    status: SnapshotStatus


@record
class Forward:
    """Entries for the leader of this very term to append."""

    term: int
    again: bool
    ids: list[bytes]
    bodies: list[bytes]
    vital: bool = False


class Refusal(IntEnum):
    NOT_LEADER = 0
    BUSY = 1
    UNKNOWN = 2
    NO_SPACE = 3


@record
class ForwardReply:
    term: int
    of_term: int  # of the Forward that this answers; a later try is not meant
    ids: list[bytes]
    reason: Refusal


@record
class ReadRequest:
    term: int
    id: int


@record
class ReadReply:
    term: int
    id: int
    confirmed: bool
    index: int


@record
class TimeoutNow:
    term: int


@record
class TransferRequest:
    term: int
    target: str


class ChangeKind(IntEnum):
    ADD = 1
    PROMOTE = 2
    DEMOTE = 3
    REMOVE = 4
    MOVE = 5


@record
class ChangeRequest:
    """For the leader: change the members."""

    term: int
    id: int
    kind: ChangeKind
    node_id: str
    address: str = ""
    voter: bool = False
    disk_id: str = ""  # of a removal


class ChangeStatus(IntEnum):
    LATER = 0
    REFUSED = 1
    DONE = 2


@record
class ChangeReply:
    term: int
    id: int
    status: ChangeStatus
    reason: str = ""
    configuration: bytes = b""


Message = (
    Greeting
    | PreVote
    | PreVoteReply
    | VoteRequest
    | VoteReply
    | Append
    | AppendReply
    | SnapshotChunk
    | SnapshotReply
    | Forward
    | ForwardReply
    | ReadRequest
    | ReadReply
    | TimeoutNow
    | TransferRequest
    | ChangeRequest
    | ChangeReply
)
