"""What was kept long enough goes: the history of tasks that ended long ago, and blobs nothing refers to."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import grpc

from coterie.node.blob_errors import BlobError
from coterie.node.blobs import BlobStore
from coterie.node.config import KeepSettings
from coterie.node.errors import ApiError
from coterie.node.ledger import Ledger, LedgerError
from coterie.node.observability import get_logger

log = get_logger(__name__)

HASH_BYTES: Final = 64
PAUSE_S: Final = 0.002  # after each slice of the state: other work comes first
# Every window of 64 hexadecimal digits, also those that overlap: one too many keeps a blob, too few lose it.
_MENTION = re.compile(rb"(?=([0-9a-f]{64}))")
# coterie.v1.Data on the wire: field 2, 64 bytes long. Only these are looked for on other nodes.
_REFERENCE = re.compile(rb"\x12\x40([0-9a-f]{64})")


def mentions(text: bytes) -> set[str]:
    """Everything in the text that may be the hash of a blob."""
    return {found.decode() for found in _MENTION.findall(text)}


def references(text: bytes) -> set[str]:
    """The blobs that encoded records name as blobs."""
    return {found.decode() for found in _REFERENCE.findall(text)}


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
        log_time_ms: Callable[[], int],
        incomplete: Callable[[], bool],
        settings: KeepSettings,
    ) -> None:
        """`read`: a blob of this node or of another, see BlobExchange.read. `image`: the state, of one
        moment, in slices. `incomplete`: rows of the ledger are missing here."""
        self._store, self._ledger, self._read, self._image = store, ledger, read, image
        self._log_time_ms, self._incomplete, self._settings = log_time_ms, incomplete, settings
        self._inside: dict[str, frozenset[str]] = {}  # what stored blobs mention; their content never changes

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.look_s)
            await self._forgiven(self.prune)
            await self._forgiven(self.collect)

    async def _forgiven(self, work: Callable[[], Awaitable[int]]) -> None:
        """A disk that refuses for a while must not end the node; the next round tries again."""
        try:
            await work()
        except (ApiError, BlobError, LedgerError) as error:
            log.warning("old data could not be removed", extra={"error": str(error)[:200]})

    async def prune(self) -> int:
        """Remove the history of what ended long ago by the time of the log; how many tasks."""
        pruned = await self._ledger.prune(self._log_time_ms() - self._settings.history_ms)
        if pruned:
            log.info("old history removed", extra={"tasks": pruned})
        return pruned

    async def collect(self) -> int:
        """Remove the blobs that nothing refers to; how many bytes."""
        since_s = time.time() - self._settings.unused_blob_ms / 1000
        sizes = {entry.sha256: entry for entry in await self._store.entries()}
        old = {sha256 for sha256, entry in sizes.items() if entry.stored_at_s < since_s}
        if not old or self._incomplete():
            return 0
        unused = old - await self._used(set(sizes))
        removed = [sha256 for sha256 in unused if await self._store.delete_untouched(sha256, since_s)]
        for sha256 in removed:
            self._inside.pop(sha256, None)
        size = sum(sizes[sha256].size_bytes for sha256 in removed)
        if removed:
            log.info("unused blobs removed", extra={"blobs": len(removed), "bytes": size})
        return size

    async def _used(self, stored: set[str]) -> set[str]:
        """What something refers to. The state is read before the ledger: what leaves the one meanwhile is in
        the other. Raises when a blob in use cannot be read: what it mentions would be missed."""
        used: set[str] = set()
        for part in self._image():
            used |= _found(part, stored)
            await asyncio.sleep(PAUSE_S)
        async for page in self._ledger.records():
            used |= await asyncio.to_thread(_found, b"\n".join(page), stored)
        ahead = list(used)
        while ahead:
            inner = (await self._mentioned_in(ahead.pop()) & stored) - used
            used |= inner
            ahead += inner
        return used

    async def _mentioned_in(self, sha256: str) -> frozenset[str]:
        """What the content of a blob mentions; nothing where no node has it."""
        if sha256 not in self._inside:
            try:
                self._inside[sha256] = await _read_mentions(self._read(sha256))
            except ApiError as error:
                if error.code is not grpc.StatusCode.NOT_FOUND:
                    raise
                return frozenset()
        return self._inside[sha256]


def _found(text: bytes, stored: set[str]) -> set[str]:
    return mentions(text) & stored | references(text)


async def _read_mentions(chunks: AsyncIterator[bytes]) -> frozenset[str]:
    found: set[str] = set()
    end = b""
    async for chunk in chunks:
        text = end + chunk
        found |= await asyncio.to_thread(mentions, text)
        end = text[1 - HASH_BYTES :]
    return frozenset(found)
