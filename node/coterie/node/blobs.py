"""Content-addressed blobs in files: written whole and synced or not at all, verified at every read."""

from __future__ import annotations

import asyncio
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

T = TypeVar("T")

_logger = logging.getLogger("coterie.blobs")
_NAME = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 1 << 20
_DAMAGED_KEPT_MAX = 16
_QUEUE_BYTES = 1 << 20  # small chunks are gathered up to this before a thread writes them


class BlobError(Exception):
    """A blob could not be stored or read; the text says why."""


class BlobNameInvalid(BlobError):
    """Not a SHA-256 in 64 lower-case hexadecimal digits."""


class BlobNotFound(BlobError):
    """This node does not have the blob."""


class BlobTooLarge(BlobError):
    """The blob is above the limit for one blob."""


class BlobQuotaExceeded(BlobError):
    """The blobs of this node would take more than their quota."""


class BlobDiskFull(BlobQuotaExceeded):
    """The disk of this node has no room, whatever the quota says."""


class BlobMismatch(BlobError):
    """The bytes received are not those that were announced."""


class BlobDamaged(BlobError):
    """The bytes on the disk are not what was stored. The file was moved aside: the blob can be put again."""


class BlobStorageFailed(BlobError):
    """The disk refused, for another reason than being full."""


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
        _checked(ref_sha256)
        self._check_size(size)
        if ref_sha256 in self._sizes:
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

    async def delete(self, sha256: str) -> bool:
        """Remove a blob; whether it was here. Readers that have it open read on."""
        _checked(sha256)
        return await self._run(lambda: self._delete(sha256))

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
                    f"{self._options.total_bytes_max} bytes; let tasks finish or raise limits.blobQuota"
                )
            self._reserved += size

    async def _receive(self, chunks: AsyncIterator[bytes], sha256: str, size: int) -> None:
        upload = _Upload(self._directory / "tmp" / f"{sha256}.{uuid4().hex}", size)
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

    def _delete(self, sha256: str) -> bool:
        self._path(sha256).unlink(missing_ok=True)
        return self._forget(sha256)

    def _forget(self, sha256: str) -> bool:
        with self._lock:
            size = self._sizes.pop(sha256, None)
            self._total -= size or 0
        return size is not None

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


class _Upload:
    """A blob on its way into a temporary file."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        self._seen = 0
        self._digest = hashlib.sha256()
        self._chunks: list[bytes] = []
        self._queued = 0
        self._file: BinaryIO | None = None
        self._discarded = False
        self._lock = threading.Lock()  # a discard may come while a cancelled write still runs

    def offer(self, chunk: bytes) -> bool:
        """Take a chunk; whether enough is gathered for a write. Raises BlobMismatch when it is too much."""
        self._seen += len(chunk)
        if self._seen > self._size:
            raise too_much(self._size)
        self._chunks.append(chunk)
        self._queued += len(chunk)
        return self._queued >= _QUEUE_BYTES

    def write(self) -> None:
        """Write what was gathered. Blocks, as the methods below do."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self._discarded:
            return
        if self._file is None:
            self._file = self.path.open("xb")
        for chunk in self._chunks:
            self._digest.update(chunk)
            self._file.write(chunk)
        self._chunks.clear()
        self._queued = 0

    def finish(self, sha256: str) -> None:
        """Write the rest, compare, sync. Raises BlobMismatch."""
        with self._lock:
            self._write()
            check_content(self._seen, self._size, self._digest.hexdigest(), sha256)
            if self._file is not None:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def discard(self) -> None:
        """Close and remove what is left; nothing after a commit."""
        with self._lock:
            self._discarded = True
            if self._file is not None:
                self._file.close()
                self.path.unlink(missing_ok=True)


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


def too_much(size: int) -> BlobMismatch:
    return BlobMismatch(f"more bytes came than the {size} announced in size_bytes")


def check_content(seen: int, size: int, found: str, sha256: str) -> None:
    """Whether what came is what was announced. Raises BlobMismatch."""
    if seen != size:
        raise BlobMismatch(f"{seen} bytes came, {size} were announced in size_bytes")
    if found != sha256:
        raise BlobMismatch(f"the bytes have the hash {found}, announced was {sha256}")
