"""Content-addressed blobs in files: written whole and synced or not at all, verified at every read."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import re
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

from coterie.node.blob_errors import (
    BlobDamaged,
    BlobDiskFull,
    BlobMismatch,
    BlobNameInvalid,
    BlobNotFound,
    BlobQuotaExceeded,
    BlobStorageFailed,
    BlobTooLarge,
)
from coterie.node.blob_upload import Upload

T = TypeVar("T")

_logger = logging.getLogger("coterie.blobs")
_NAME = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 1 << 20
_DAMAGED_KEPT_MAX = 16


@dataclass(frozen=True, slots=True)
class BlobOptions:
    """Limits of a store, in bytes."""

    blob_bytes_max: int = 64 * 1024 * 1024
    total_bytes_max: int = 10 * 1024**3
    blobs_max: int = 200_000  # in number: each has an entry in memory
    threads: int = 2


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """A stored blob; `stored_at_s` is the file's time in seconds since the epoch."""

    sha256: str
    size_bytes: int
    stored_at_s: float


class BlobStore:
    """Open with `BlobStore.open`. Layout: `ab/cdef…` for a blob, `tmp/` while it is written, `damaged/`."""

    def __init__(self, directory: Path, options: BlobOptions) -> None:
        self._directory = directory
        self._options = options
        self._threads = ThreadPoolExecutor(options.threads, thread_name_prefix="coterie-blobs")
        self._lock = threading.Lock()
        self._files = threading.Lock()  # between a touch and a removal; never taken on the event loop
        self._sizes: dict[str, int] = {}
        self._total = 0
        self._reserved = 0  # by puts under way

    @classmethod
    async def open(cls, directory: Path, options: BlobOptions | None = None) -> BlobStore:
        """Open or make the store, without what interrupted puts left behind. Raises BlobStorageFailed."""
        store = cls(directory, options or BlobOptions())
        await store._run(store._start)
        return store

    @property
    def total_bytes(self) -> int:
        """Bytes of all stored blobs, without damaged and unfinished ones."""
        return self._total

    async def has(self, sha256: str) -> bool:
        return _checked(sha256) in self._sizes

    async def size(self, sha256: str) -> int:
        """Size of a blob in bytes. Raises BlobNotFound."""
        return self._size(sha256)

    async def entries(self) -> list[BlobEntry]:
        """All blobs, for collecting those that nothing refers to any more."""
        return await self._run(self._entries)

    async def put(self, chunks: AsyncIterator[bytes], ref_sha256: str, size: int) -> None:
        """Store `size` bytes with that hash, durably. When the blob is here already nothing is read.

        Raises BlobTooLarge, BlobQuotaExceeded, BlobMismatch, BlobNameInvalid, BlobStorageFailed; then nothing
        is stored."""
        self._check_size(size)
        if await self.touch(ref_sha256):
            return
        self._reserve(size)
        try:
            await self._receive(chunks, ref_sha256, size)
        finally:
            with self._lock:
                self._reserved -= size

    async def put_bytes(self, content: bytes) -> str:
        """Store `content`; returns its SHA-256."""
        self._check_size(len(content))
        sha256 = await self._run(lambda: hashlib.sha256(content).hexdigest())
        await self.put(_in_one(content), sha256, len(content))
        return sha256

    async def get(self, sha256: str) -> bytes:
        """The whole blob, verified. Raises BlobNotFound, BlobDamaged, BlobNameInvalid, BlobStorageFailed."""
        _checked(sha256)
        return await self._run(lambda: self._read_all(sha256))

    async def open_chunks(self, sha256: str, chunk_bytes: int = _READ_BYTES) -> AsyncIterator[bytes]:
        """The blob in chunks. The last one is given out only when the whole was verified, so a reader that
        got all chunks has the right bytes. Raises as `get` does."""
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes is {chunk_bytes}, must be at least 1")
        size = self._size(sha256)
        file = await self._run(lambda: self._open_blob(sha256))
        digest = hashlib.sha256()
        held, seen = b"", 0
        try:
            while chunk := await self._run(lambda: _read_into(file, chunk_bytes, digest)):
                seen += len(chunk)
                if held:
                    yield held
                held = chunk
        finally:
            file.close()
        if digest.hexdigest() != sha256 or seen != size:
            raise await self._run(lambda: self._damaged(sha256))
        if held:
            yield held

    async def touch(self, sha256: str) -> bool:
        """Count a blob as put just now; whether it is here. What is about to be referred to is touched first,
        so that `delete_untouched` leaves it."""
        _checked(sha256)
        return sha256 in self._sizes and await self._run(lambda: self._touch(sha256))

    async def delete_untouched(self, sha256: str, since_s: float) -> bool:
        """Remove a blob that was neither put nor touched since that moment (seconds since the epoch); whether
        it was removed. Readers that have it open read on."""
        _checked(sha256)
        return await self._run(lambda: self._delete_untouched(sha256, since_s))

    async def close(self) -> None:
        """End the threads, after the file work under way."""
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)

    # -- putting -----------------------------------------------------------------------------------------

    def _check_size(self, size: int) -> None:
        if size < 0:
            raise BlobMismatch(f"size_bytes is {size}, must be 0 or more")
        if size > self._options.blob_bytes_max:
            limit = self._options.blob_bytes_max
            raise BlobTooLarge(f"size_bytes is {size}, one blob may have {limit}; split the content")

    def _reserve(self, size: int) -> None:
        with self._lock:
            if len(self._sizes) >= self._options.blobs_max:
                raise BlobQuotaExceeded(f"{self._options.blobs_max} blobs are stored, the most allowed")
            used = self._total + self._reserved
            if used + size > self._options.total_bytes_max:
                raise BlobQuotaExceeded(
                    f"{size} bytes more on {used} used is above the blob quota of "
                    f"{self._options.total_bytes_max} bytes; shorten storage.historyRetention, or raise "
                    "limits.blobQuota"
                )
            self._reserved += size

    async def _receive(self, chunks: AsyncIterator[bytes], sha256: str, size: int) -> None:
        upload = Upload(self._directory / "tmp" / f"{sha256}.{uuid4().hex}", size)
        try:
            async for chunk in chunks:
                if upload.offer(chunk):
                    await self._run(upload.write)
            await self._run(lambda: upload.finish(sha256))
            await self._run(lambda: self._commit(upload.path, sha256, size))
        finally:
            # Not awaited: a cancelled put must not leave its file behind. `close` waits for it.
            self._threads.submit(upload.discard)

    def _commit(self, path: Path, sha256: str, size: int) -> None:
        target = self._path(sha256)
        path.replace(target)
        _sync_directory(target.parent)
        with self._lock:
            self._total += size - self._sizes.get(sha256, 0)
            self._sizes[sha256] = size

    # -- reading -----------------------------------------------------------------------------------------

    def _size(self, sha256: str) -> int:
        size = self._sizes.get(_checked(sha256))
        if size is None:
            raise BlobNotFound(f"no blob {sha256} on this node")
        return size

    def _open_blob(self, sha256: str) -> BinaryIO:
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            self._forget(sha256)
            raise BlobNotFound(f"no blob {sha256} on this node") from None

    def _read_all(self, sha256: str) -> bytes:
        self._size(sha256)
        with self._open_blob(sha256) as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise self._damaged(sha256)
        return content

    def _damaged(self, sha256: str) -> BlobDamaged:
        """Move the file aside, so that the blob counts as missing and a sound copy can be put."""
        folder = self._directory / "damaged"
        folder.mkdir(exist_ok=True)
        kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in kept[: max(0, len(kept) - _DAMAGED_KEPT_MAX + 1)]:
            old.unlink(missing_ok=True)
        target = folder / f"{sha256}.{uuid4().hex[:8]}"
        try:
            self._path(sha256).rename(target)
        except FileNotFoundError:
            pass  # another reader found the same
        else:
            _logger.error("blob is damaged, moved aside", extra={"sha256": sha256, "moved_to": str(target)})
        self._forget(sha256)
        return BlobDamaged(f"blob {sha256} is damaged on this node; its file was moved to {folder}")

    def _touch(self, sha256: str) -> bool:
        with self._files:  # either before a removal looks at the time, or after it
            try:
                os.utime(self._path(sha256))
            except FileNotFoundError:
                self._forget(sha256)
                return False
        return True

    def _delete_untouched(self, sha256: str, since_s: float) -> bool:
        path = self._path(sha256)
        with self._files:
            if sha256 not in self._sizes or path.stat().st_mtime >= since_s:
                return False
            path.unlink()
            self._forget(sha256)
        return True

    def _forget(self, sha256: str) -> None:
        with self._lock:
            self._total -= self._sizes.pop(sha256, 0)

    # -- the directory -----------------------------------------------------------------------------------

    def _path(self, sha256: str) -> Path:
        return self._directory / sha256[:2] / sha256[2:]

    def _start(self) -> None:
        leftovers = self._directory / "tmp"
        leftovers.mkdir(parents=True, exist_ok=True)
        for path in leftovers.iterdir():
            path.unlink()
        for number in range(256):
            (self._directory / f"{number:02x}").mkdir(exist_ok=True)
        _sync_directory(self._directory)
        _sync_directory(self._directory.parent)
        for entry in self._entries():
            self._sizes[entry.sha256] = entry.size_bytes
            self._total += entry.size_bytes

    def _entries(self) -> list[BlobEntry]:
        found: list[BlobEntry] = []
        for folder in self._directory.iterdir():
            if len(folder.name) != 2 or not folder.is_dir():
                continue
            for file in os.scandir(folder):
                if _NAME.fullmatch(folder.name + file.name):
                    with contextlib.suppress(FileNotFoundError):  # it has just been removed
                        status = file.stat()
                        found.append(BlobEntry(folder.name + file.name, status.st_size, status.st_mtime))
        return found

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BlobDiskFull(f"the disk of {self._directory} is full: {error}") from error
            raise BlobStorageFailed(f"the blobs in {self._directory} cannot be used: {error}") from error


async def _in_one(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _checked(sha256: str) -> str:
    if not _NAME.fullmatch(sha256):
        raise BlobNameInvalid(f"sha256 is {sha256[:80]!r}, must be 64 lower-case hexadecimal digits")
    return sha256


def _read_into(file: BinaryIO, size: int, digest: hashlib._Hash) -> bytes:
    chunk = file.read(size)
    digest.update(chunk)
    return chunk


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
