"""What must hold in every run, checked as it happens and at the end."""

from __future__ import annotations

import hashlib
import struct
import traceback
import zlib
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.core.ports import ChangeRefused, Committed, Member, MembershipChange, NoQuorum, NotCommitted
from coterie.raft.errors import NoSpace, TooManyProposals, TransferFailed

_IMAGE = struct.Struct(">QIQ")
PADDING = bytes(90)


class Violation(Exception):
    """The engine broke a promise."""


def reason(error: Exception) -> str:
    """Why a run ended early, in one line. No promise says that another exception may come."""
    if isinstance(error, Violation):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name} line {frame.lineno} raised {type(error).__name__}: {error}"


@dataclass(slots=True)
class Call:
    """Something that a node was asked, and what it said."""

    node: str
    answers: list[Any] = field(default_factory=list, kw_only=True)
    lost: bool = field(default=False, kw_only=True)  # its node died first: nobody was left to be answered

    @property
    def is_open(self) -> bool:
        """Somebody waits who can still be answered."""
        return not (self.answers or self.lost)


@dataclass(slots=True)
class Asked(Call):
    """A proposal."""

    body: bytes

    def __str__(self) -> str:
        return f"proposal {self.body[:12].hex()} on {self.node}, told {self.answers}"


@dataclass(slots=True)
class Read(Call):
    """A linearizable read; so much had been acknowledged when it was asked."""

    not_below: int


@dataclass(slots=True)
class HandOver(Call):
    """A wish for another leader, empty: any but the one before; until then by the clock of the node."""

    target: str
    before: str
    until_s: float


@dataclass(slots=True)
class Wish(Call):
    """A change of the members; `beside` another one, that is under way already."""

    change: MembershipChange
    beside: bool = False


@dataclass(slots=True)
class Book:
    """The run as an all-seeing observer has it."""

    lease_us: int
    leaders: dict[int, str] = field(default_factory=dict)
    elections: list[tuple[int, int, bool]] = field(default_factory=list)  # (term, when, by a hand-over)
    log: dict[int, tuple[bytes, int]] = field(default_factory=dict)  # index -> (body, at_ms)
    chain: dict[int, int] = field(default_factory=dict)  # index -> checksum of the state after it
    where: dict[bytes, int] = field(default_factory=dict)  # body -> index
    asked: list[Asked] = field(default_factory=list)
    others: list[Call] = field(default_factory=list)  # that are no proposals
    turned_away: dict[bytes, Exception] = field(default_factory=dict)  # proposals, at the door
    acked_index: int = 0  # highest index anybody was told about
    named: set[tuple[int, str]] = field(default_factory=set)  # (term, its leader as somebody was told)
    reads: int = 0
    refused_reads: int = 0
    notes: list[str] = field(default_factory=list)

    def note(self, *what: object) -> None:
        """The digest of two runs of one seed must be equal."""
        self.notes.append(repr(what))

    def leads(self, node: str, term: int, now_us: int, *, by_transfer: bool) -> None:
        if term not in self.leaders:
            self.note("leader", node, term, now_us)
            self.elections.append((term, now_us, by_transfer))
        other = self.leaders.setdefault(term, node)
        if other != node:
            raise Violation(f"two leaders in term {term}: {other} and {node}")

    def claims(self, node: str, term: int, contact_us: float) -> None:
        """A leader relies on its majority until `contact_us` plus the lease: nobody was elected by then, nor
        by `contact_us` where leadership was handed over."""
        for later, at_us, by_transfer in self.elections[-4:]:
            if later > term and contact_us + (0 if by_transfer else self.lease_us) > at_us:
                raise Violation(
                    f"{node} of term {term} claims a majority at {contact_us:.0f} us, "
                    f"term {later} began at {at_us} us"
                )

    def applied(self, node: str, index: int, at_ms: int, body: bytes, chain: int) -> None:
        known = self.log.get(index)
        if known is None:
            if body in self.where:
                raise Violation(f"entry {body[:12]!r} applied at {self.where[body]} and again at {index}")
            self.log[index], self.chain[index], self.where[body] = (body, at_ms), chain, index
            self.note("applied", node, index, zlib.crc32(body))
        elif known != (body, at_ms) or self.chain[index] != chain:
            raise Violation(f"{node} applied {body[:12]!r} at {index}, another node {known[0][:12]!r}")

    def heard(self, call: Call, answer: object) -> None:
        """Every call is answered once."""
        call.answers.append(answer)
        if len(call.answers) > 1:
            raise Violation(f"answered more than once: {call}")

    def answered(self, asked: Asked, answer: Committed | Exception) -> None:
        self.heard(asked, answer)
        self.note("answer", asked.node, zlib.crc32(asked.body), type(answer).__name__)
        if isinstance(answer, Committed):
            if self.log.get(answer.index) != (asked.body, answer.at_ms):
                raise Violation(f"told {answer} about {asked.body[:12]!r}, which is not there")
            if answer.result != self.chain[answer.index]:
                raise Violation(f"proposal {asked.body[:12]!r} got the result of another")
            self.acked_index = max(self.acked_index, answer.index)

    def refused(self, asked: Asked, refusal: Exception) -> None:
        """A proposal that is not even taken in is certainly in no log."""
        self.note("refused", asked.node, zlib.crc32(asked.body), type(refusal).__name__)
        if type(refusal) not in (NoSpace, TooManyProposals):
            raise Violation(f"{asked} is turned away with {refusal!r}, which does not say what became of it")
        self.turned_away[asked.body] = refusal

    def has_read(self, read: Read, answer: int | Exception) -> None:
        self.heard(read, answer)
        self.note("read", read.node, answer if isinstance(answer, int) else type(answer).__name__)
        if isinstance(answer, NotCommitted):
            self.refused_reads += 1
            return
        if not isinstance(answer, int):
            raise Violation(f"a read on {read.node} was answered with {answer!r}")
        self.reads += 1
        if answer < read.not_below:
            raise Violation(f"a read on {read.node} saw {answer}, after {read.not_below} was acknowledged")
        self.acked_index = max(self.acked_index, answer)

    def handed_over(self, call: HandOver, answer: str | Exception, term: int) -> None:
        self.heard(call, answer)
        self.note("handed over", call.node, answer if isinstance(answer, str) else type(answer).__name__)
        if isinstance(answer, str):
            if answer != call.target if call.target else answer in ("", call.before):
                raise Violation(f"not what was wished for: {call}")
            self.named.add((term, answer))
        elif not isinstance(answer, TransferFailed | NotCommitted):
            raise Violation(f"a hand-over was answered with {answer!r}")

    def changed(self, wish: Wish, answer: tuple[Member, ...] | Exception) -> None:
        self.heard(wish, answer)
        self.note("changed", wish.node, wish.change, type(answer).__name__)
        if not isinstance(answer, tuple | ChangeRefused | NotCommitted):
            raise Violation(f"{wish.change} was answered with {answer!r}")

    def is_waited_for(self) -> bool:
        """Somebody has not been answered yet."""
        return any(call.is_open for call in self.asked) or any(call.is_open for call in self.others)

    def close(self, appended: Set[bytes]) -> None:
        """At the end, with every node up and equal. `appended`: the bodies of all entries in any log."""
        times = [self.log[index][1] for index in sorted(self.log)]
        if times != sorted(times):
            raise Violation("entry times go back along the log")
        for call in (*self.asked, *self.others):
            if call.is_open:
                raise Violation(f"never answered: {call}")
        for asked in self.asked:
            certain = asked.answers and type(asked.answers[0]) in (NoQuorum, NoSpace)
            if certain and asked.body in self.where:
                raise Violation(f"told that {asked.body[:12]!r} was not appended, but it was applied")
        for term, leader in sorted(self.named):
            if self.leaders.get(term) != leader:
                raise Violation(f"told that {leader} leads term {term}, as {self.leaders.get(term)} does")
        for body in self.turned_away.keys() & appended:
            raise Violation(f"turned {body[:12].hex()} away ({self.turned_away[body]!r}), and appended it")

    def digest(self) -> str:
        """Of all that was noted."""
        return hashlib.sha256("".join(self.notes).encode()).hexdigest()

    @property
    def committed(self) -> int:
        return sum(1 for asked in self.asked if asked.answers and isinstance(asked.answers[0], Committed))


class SimMachine:
    """A state that is a checksum of everything applied, in order: two equal states had equal histories."""

    def __init__(self, node: str, book: Book) -> None:
        self._node, self._book = node, book
        self.chain, self.index, self.count = 0, 0, 0
        self._salt = 0  # what else the next checksum is to cover

    def apply(self, index: int, at_ms: int, entry: bytes) -> object:
        if index <= self.index:
            raise Violation(f"{self._node} applied {index} after {self.index}")
        self.chain = zlib.crc32(entry, self.chain ^ index ^ self._salt)
        self.index, self.count = index, self.count + 1
        self._book.applied(self._node, index, at_ms, entry, self.chain)
        return self.chain

    def freeze(self) -> Iterator[bytes]:
        image = _IMAGE.pack(self.index, self.chain, self.count)
        return iter([image, *[PADDING for _ in range(self.count % 7 + 2)]])

    def restore(self, chunks: Iterable[bytes], index: int) -> None:
        parts = list(chunks)
        self._restore_chain(parts[0], index)
        if len(parts) != self.count % 7 + 3 or any(part != PADDING for part in parts[1:]):
            raise Violation(f"{self._node} restored a mixed image")

    def _restore_chain(self, image: bytes, index: int) -> None:
        before = self.index
        self.index, self.chain, self.count = _IMAGE.unpack(image)
        if self.index > index or before > self.index:
            raise Violation(f"{self._node} restored {self.index} for {index}, had {before}")
        if self.count and self._book.chain.get(self.index) != self.chain:
            raise Violation(f"{self._node} restored a state nobody had at {self.index}")

    def digest(self) -> object:
        """Equal on all nodes that have applied the same entries."""
        return self.chain
