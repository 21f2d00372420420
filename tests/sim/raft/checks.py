"""What must hold in every run, checked as it happens and at the end."""

from __future__ import annotations

import hashlib
import struct
import traceback
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from coterie.core.ports import Committed, NoQuorum
from coterie.raft.errors import NoSpace

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
class Asked:
    """A proposal, and what was said about it."""

    body: bytes
    node: str
    answers: list[Committed | Exception] = field(default_factory=list)
    lost: bool = False  # its node died first: nobody was left to be answered


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
    acked_index: int = 0  # highest index anybody was told about
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

    def answered(self, asked: Asked, answer: Committed | Exception) -> None:
        asked.answers.append(answer)
        self.note("answer", asked.node, zlib.crc32(asked.body), type(answer).__name__)
        if len(asked.answers) > 1:
            raise Violation(f"proposal {asked.body[:12]!r} was answered twice: {asked.answers}")
        if isinstance(answer, Committed):
            if self.log.get(answer.index) != (asked.body, answer.at_ms):
                raise Violation(f"told {answer} about {asked.body[:12]!r}, which is not there")
            if answer.result != self.chain[answer.index]:
                raise Violation(f"proposal {asked.body[:12]!r} got the result of another")
            self.acked_index = max(self.acked_index, answer.index)

    def read(self, node: str, not_below: int, index: int) -> None:
        self.reads += 1
        self.note("read", node, index)
        if index < not_below:
            raise Violation(f"a read on {node} saw {index}, after {not_below} was acknowledged")
        self.acked_index = max(self.acked_index, index)

    def close(self) -> None:
        """At the end, with every node up and equal."""
        times = [self.log[index][1] for index in sorted(self.log)]
        if times != sorted(times):
            raise Violation("entry times go back along the log")
        for asked in self.asked:
            if not asked.answers and not asked.lost:
                raise Violation(f"proposal {asked.body[:12]!r} on {asked.node} was never answered")
            certain = asked.answers and type(asked.answers[0]) in (NoQuorum, NoSpace)
            if certain and asked.body in self.where:
                raise Violation(f"told that {asked.body[:12]!r} was not appended, but it was applied")

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
