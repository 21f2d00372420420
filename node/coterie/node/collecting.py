"""What was kept long enough goes: the history of tasks that ended long ago, and blobs nothing refers to."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import grpc

from coterie.core.ports import NotCommitted
from coterie.node.blob_errors import BlobError
from coterie.node.blobs import BlobEntry, BlobStore
from coterie.node.config import KeepSettings
from coterie.node.errors import ApiError
from coterie.node.ledger import Ledger, LedgerError
from coterie.node.observability import get_logger

log = get_logger(__name__)

HASH_BYTES: Final = 64
PIECE_BYTES: Final = 32 << 10  # looked through without a turn for the event loop
KEPT_MAX: Final = 64  # hashes remembered of one blob; one that mentions more is read again each time
ELSEWHERE_MAX: Final = 10_000  # names that may be those of blobs elsewhere, looked for in one round
_RUN = re.compile(rb"[0-9a-f]{64,}")
# coterie.v1.Data on the wire: field 2, 64 bytes long. Only these are looked for on other nodes.
_REFERENCE = re.compile(rb"\x12\x40([0-9a-f]{64})")


def _wall_ahead_s() -> float:
    return time.time() - time.monotonic()


def mentions(text: bytes) -> Iterator[bytes]:
    """Everything in the text that may be the hash of a blob: every window of 64 hexadecimal digits, also
    those that overlap, as one too many keeps a blob, and one too few loses it."""
    for run in _RUN.finditer(text):
        for start in range(run.start(), run.end() - HASH_BYTES + 1):
            yield text[start : start + HASH_BYTES]


def references(text: bytes) -> set[bytes]:
    """The blobs that encoded records name as blobs."""
    return set(_REFERENCE.findall(text))


class Collector:
    """Runs on every node, for what that node keeps.

    Marks conservatively, as Boehm and Weiser ("Garbage Collection in an Uncooperative Environment", 1988) do:
    whatever looks like the hash of a blob, in the state, in the ledger or in a blob that stays, keeps that
    blob. Nobody has to say what refers to what. A blob that came into use again after its mark was missed has
    been touched (BlobExchange.secure), and stays for that."""

    def __init__(
        self,
        store: BlobStore,
        ledger: Ledger,
        read: Callable[[str], AsyncIterator[bytes]],
        image: Callable[[], Iterator[bytes]],
        barrier: Callable[[], Awaitable[object]],
        log_time_ms: Callable[[], int],
        incomplete: Callable[[], bool],
        settings: KeepSettings,
    ) -> None:
        """`read`: a blob of this node or of another, see BlobExchange.read. `image`: the state, of one
        moment, in slices; after `barrier` it holds all that was committed. `incomplete`: the ledger is."""
        self._store, self._ledger, self._read, self._image = store, ledger, read, image
        self._barrier, self._log_time_ms = barrier, log_time_ms
        self._incomplete, self._settings = incomplete, settings
        self._ahead_s = _wall_ahead_s()  # of the monotonic clock
        self._inside: dict[bytes, frozenset[bytes]] = {}  # what blobs mention; their content never changes

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.look_s)
            await self._forgiven(self.prune)
            await self._forgiven(self.collect)

    async def _forgiven(self, work: Callable[[], Awaitable[int]]) -> None:
        """Neither a disk that refuses nor a missing majority ends the node; the next round tries again."""
        try:
            await work()
        except (ApiError, BlobError, LedgerError, NotCommitted, grpc.aio.AioRpcError) as error:
            log.warning("old data could not be removed", extra={"error": str(error)[:200]})

    async def prune(self) -> int:
        """Remove the history of what ended long ago; how many tasks. By the time of the log, or by the clock
        of this node where that is earlier: one clock that is wrong must not take history away."""
        now_ms = min(self._log_time_ms(), time.time_ns() // 1_000_000)
        pruned = await self._ledger.prune(now_ms - self._settings.history_ms)
        if pruned:
            log.info("old history removed", extra={"tasks": pruned})
        return pruned

    async def collect(self) -> int:
        """Remove the blobs that nothing refers to; how many bytes."""
        # A clock that is set forward must not make what was put just now old: time goes on with the monotonic
        # one. Set back, it goes on from there.
        self._ahead_s = min(self._ahead_s, _wall_ahead_s())
        since_s = time.monotonic() + self._ahead_s - self._settings.unused_blob_ms / 1000
        entries = {entry.sha256.encode(): entry for entry in await self._store.entries()}
        old = {name for name, entry in entries.items() if entry.stored_at_s < since_s}
        damaged = len(self._ledger.damaged_files)
        if not old or self._incomplete():
            return 0
        await self._barrier()  # a node that is cut off does not know what is in use
        unused = old - await self._used(set(entries))
        if self._incomplete() or len(self._ledger.damaged_files) != damaged:
            return 0  # the ledger that was read has lost rows
        return await self._remove([entries[name] for name in unused], since_s)

    async def _remove(self, unused: list[BlobEntry], since_s: float) -> int:
        removed = [one for one in unused if await self._store.delete_untouched(one.sha256, since_s)]
        for one in removed:
            self._inside.pop(one.sha256.encode(), None)
        size = sum(one.size_bytes for one in removed)
        if removed:
            log.info("unused blobs removed", extra={"blobs": len(removed), "bytes": size})
        return size

    async def _used(self, stored: set[bytes]) -> set[bytes]:
        """What something refers to. The state is read before the ledger: what leaves the one meanwhile is in
        the other. Raises when a blob in use cannot be read: what it mentions would be missed."""
        used: set[bytes] = set()
        for part in self._image():
            used |= await _found(part, stored)
        async for page in self._ledger.records():
            used |= await _found(b"\n".join(page), stored)
        ahead, elsewhere = list(used), 0
        while ahead:
            inner = await self._mentioned_in(ahead.pop(), stored) - used
            foreign = inner - stored
            elsewhere += len(foreign)
            if elsewhere > ELSEWHERE_MAX:
                inner -= foreign
            used |= inner
            ahead += inner
        # Names of blobs elsewhere are never removed here: they would become ever more.
        self._inside = {name: held for name, held in self._inside.items() if name in used or name in stored}
        return used

    async def _mentioned_in(self, name: bytes, stored: set[bytes]) -> set[bytes]:
        """Which of the stored blobs the content of one mentions; none where no node has it. Of a blob that
        mentions few, all: what is stored elsewhere may mention what is stored here."""
        if name in self._inside:
            return set(self._inside[name])
        found, every, end = set[bytes](), set[bytes](), b""
        try:
            async for chunk in self._read(name.decode()):
                for text in pieces(end + chunk):
                    for one in mentions(text):
                        if one in stored:
                            found.add(one)
                        if len(every) <= KEPT_MAX:
                            every.add(one)
                    await asyncio.sleep(0)
                end = (end + chunk)[1 - HASH_BYTES :]
        except ApiError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return set()
        if len(every) <= KEPT_MAX:
            self._inside[name] = frozenset(every)
            return every
        return found


async def _found(text: bytes, stored: set[bytes]) -> set[bytes]:
    """What encoded records refer to, and what they mention of the stored blobs."""
    found: set[bytes] = set()
    for piece in pieces(text):
        found |= references(piece)
        found.update(one for one in mentions(piece) if one in stored)
        await asyncio.sleep(0)
    return found


def pieces(text: bytes) -> Iterator[bytes]:
    """The text in pieces that overlap, so that no reference is cut in two."""
    for start in range(0, len(text), PIECE_BYTES):
        yield text[start : start + PIECE_BYTES + HASH_BYTES + 1]
