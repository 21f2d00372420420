"""A backup as a node gives it out: member by member, in pieces, while everything else goes on."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import grpc

from coterie.core.access_commands import NoteCall
from coterie.core.nouns import Data, evolve
from coterie.core.state import ClusterState
from coterie.node.backup.manifest import BLOBS, HEAD, HISTORY, MANIFEST, SEAL, STATE, Entry, Head, Manifest
from coterie.node.blob_exchange import BlobExchange
from coterie.node.clock import Clock
from coterie.node.collecting import mentions, pieces, references
from coterie.node.errors import ApiError
from coterie.node.ledger import Ledger
from coterie.node.ledger.feed import pages
from coterie.node.observability import get_logger
from coterie.node.proposer import Proposer
from coterie.node.security.principal import caller
from coterie.node.turns import Turns
from coterie.node.version import VERSION
from coterie.raft import codec
from coterie.v1 import cluster_pb2

log = get_logger(__name__)

PIECE_BYTES: Final = 1 << 20
MENTIONS_MAX: Final = 1_000  # in one blob: beyond them only what is stored here counts as the name of a blob
RETRY_MS: Final = 30_000


@dataclass(frozen=True, slots=True)
class Frozen:
    """The state right after the entry `index`. It stays as it is."""

    index: int
    term: int
    state: ClusterState


@dataclass(frozen=True, slots=True)
class BackupParts:
    """What backups are made of. `barrier`: after it this node shows all that was acknowledged before."""

    me: str
    frozen: Callable[[], Frozen]
    barrier: Callable[[float], Awaitable[int]]
    proposer: Proposer
    ledger: Ledger
    exchange: BlobExchange
    stored: Callable[[str], Awaitable[bool]]
    clock: Clock


class Backups:
    """One at a time: each holds an image of the state."""

    def __init__(self, parts: BackupParts) -> None:
        self._parts = parts
        self._busy = False

    async def make(self, with_history: bool, timeout_s: float) -> AsyncGenerator[cluster_pb2.BackupPart]:
        """All pieces in order. `timeout_s` bounds the wait for a majority. Raises ApiError, NotCommitted, and
        what the ledger and the blobs raise: then what was given out is no backup."""
        with self._alone():
            if caller().origin is not None:
                await self._parts.proposer.one(NoteCall("backup", "OK"), timeout_s)
            await self._parts.barrier(timeout_s)
            making = _Making(self._parts, self._parts.frozen(), with_history)
            async for piece in making.pieces():
                yield piece
            log.info("backup given out", extra={"index": making.head.index, "by": caller().name})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._busy:
            text = f"node {self._parts.me} is making a backup already; ask another node, or come back"
            raise ApiError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "BACKUP_RUNNING", text, retry_after_ms=RETRY_MS
            )
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


class _Making:
    """One backup."""

    def __init__(self, parts: BackupParts, frozen: Frozen, with_history: bool) -> None:
        self._parts, self._frozen, self._with_history = parts, frozen, with_history
        meta = frozen.state.meta
        self.head = Head(
            meta.cluster_id,
            meta.cluster_name,
            frozen.index,
            frozen.term,
            meta.clock_ms,
            parts.clock.now_ms(),
            parts.me,
            VERSION,
            with_history,
        )
        self._manifest = Manifest(self.head)
        self._named: dict[str, bool] = {}  # blobs as they were met, and whether a record refers to them
        self._turns = Turns()

    async def pieces(self) -> AsyncIterator[cluster_pb2.BackupPart]:
        async for name, content in self._members():
            self._note(name, content)
            for piece in _cut(name, content):
                yield piece
        text = self._manifest.encode()
        seal = hashlib.sha256(text).hexdigest().encode() + b"\n"
        for name, content in ((MANIFEST, text), (SEAL, seal)):
            for piece in _cut(name, content):
                yield piece

    def _note(self, name: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        self._manifest.members.append(Entry(name, len(content), digest))

    async def _members(self) -> AsyncIterator[tuple[str, bytes]]:
        yield HEAD, self.head.encode()
        async for name, content in self._records():
            await self._look_through(content, everything=False)
            yield name, content
        async for name, content in self._blobs():
            await self._look_through(content, everything=True)
            yield name, content

    async def _records(self) -> AsyncIterator[tuple[str, bytes]]:
        number = 0
        async for content in self._state():
            yield f"{STATE}{number:08}", content
            number += 1
        if not self._with_history:
            return
        number, index, ledger = 0, self.head.index, self._parts.ledger
        await ledger.flush(index)
        # Before the rows are read: what is filled meanwhile may be half in them.
        gaps = [
            (gap.after_index, min(gap.up_to_index, index)) for gap in ledger.gaps if gap.after_index < index
        ]
        self._manifest.history_gaps = gaps
        self._manifest.history_through = gaps[0][0] if gaps else index
        async for rows in pages(ledger, 0, index, across_gaps=True):
            yield f"{HISTORY}{number:08}", rows.SerializeToString()
            number += 1

    async def _state(self) -> AsyncIterator[bytes]:
        """Slices put behind each other: that is how protobuf joins lists. The secret under which links to
        blobs are made does not leave the cluster."""
        state = self._frozen.state
        state.meta = evolve(state.meta, seal=b"")
        parts, size = list[bytes](), 0
        for part in codec.encode_state(state):
            parts.append(part)
            size += len(part)
            if size >= PIECE_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
            await self._turns.take()
        yield b"".join(parts)

    async def _blobs(self) -> AsyncIterator[tuple[str, bytes]]:
        """Those that were named so far, and those that they name."""
        done: set[str] = set()
        while ahead := [name for name in self._named if name not in done]:
            for name in ahead:
                done.add(name)
                content = await self._load(name)
                if content is not None:
                    yield BLOBS + name, content

    async def _load(self, name: str) -> bytes | None:
        """None: no node has it, so it may have been the name of nothing. Raises ApiError when a node that may
        have it does not answer."""
        try:
            return await self._parts.exchange.load(Data(sha256=name))
        except ApiError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            if self._named[name]:
                self._manifest.absent.append(name)
            return None

    async def _look_through(self, content: bytes, *, everything: bool) -> None:
        """Note the blobs that are named there. A blob may hold anything, also text that names one."""
        seen = 0
        for piece in pieces(content):
            for one in references(piece):
                self._named[one.decode()] = True
            for one in mentions(piece):
                seen += everything
                if (everything and seen <= MENTIONS_MAX) or await self._parts.stored(one.decode()):
                    self._named.setdefault(one.decode(), False)
            await self._turns.take()


def _cut(name: str, content: bytes) -> Iterator[cluster_pb2.BackupPart]:
    view = memoryview(content)
    yield cluster_pb2.BackupPart(name=name, size_bytes=len(content), data=bytes(view[:PIECE_BYTES]))
    for start in range(PIECE_BYTES, len(content), PIECE_BYTES):
        yield cluster_pb2.BackupPart(data=bytes(view[start : start + PIECE_BYTES]))
