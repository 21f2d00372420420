"""Snapshot files: a header with (index, term), numbered chunks with a CRC each, and an end that counts them.

file   = header chunk* end
header = magic (8) format (4) size (4) crc (4) payload: index, term, at_ms, configuration, cluster id
chunk  = size (4) crc (4) data; the CRC is seeded by the chunk's number
end    = 0xffffffff (4) crc (4) chunks (8) bytes (8)"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from coterie.raft import configuration
from coterie.raft.disk import Disk, DiskFile
from coterie.raft.errors import DamagedFile, UnknownFormat, WrongDataDir

NAME = "raft.snapshot"
MAKING_NAME = "raft.snapshot.new"
RECEIVING_NAME = "raft.snapshot.in"
MAGIC = b"COTERIES"
FORMAT = 2
META_BYTES_MAX = 64 << 20

_HEADER = struct.Struct("<8sIII")
_META = struct.Struct("<QQQQI")
_CHUNK = struct.Struct("<II")
_END = struct.Struct("<IIQQ")
_COUNTS = struct.Struct("<QQ")
_END_MARK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Meta:
    """The last entry the image includes; `at_ms` bounds all entry times up to it. `configuration` is the
    one that holds there, as bytes, appended at `configuration_index` (0 and empty: the log had none)."""

    index: int
    term: int
    at_ms: int
    configuration_index: int = 0
    configuration: bytes = b""


def header(meta: Meta, cluster_id: str) -> bytes:
    fixed = _META.pack(meta.index, meta.term, meta.at_ms, meta.configuration_index, len(meta.configuration))
    payload = fixed + meta.configuration + cluster_id.encode()
    return _HEADER.pack(MAGIC, FORMAT, len(payload), zlib.crc32(payload)) + payload


def chunk(number: int, data: bytes) -> bytes:
    return _CHUNK.pack(len(data), zlib.crc32(data, number & 0xFFFFFFFF)) + data


def end(chunks: int, size: int) -> bytes:
    counts = _COUNTS.pack(chunks, size)
    return _CHUNK.pack(_END_MARK, zlib.crc32(counts)) + counts


def read_meta(file: DiskFile, path: str, cluster_id: str) -> tuple[Meta, int]:
    """What the file says about itself, and where the chunks begin. Raises WrongDataDir or DamagedFile."""
    raw = file.read_at(0, _HEADER.size)
    if len(raw) < _HEADER.size or raw[:8] != MAGIC:
        raise DamagedFile(path, 0, "it does not begin like a snapshot")
    _, version, size, crc = _HEADER.unpack(raw)
    if version != FORMAT:
        raise UnknownFormat(path, len(MAGIC), version, FORMAT)
    payload = file.read_at(_HEADER.size, min(size, META_BYTES_MAX))
    if len(payload) != size or size < _META.size or zlib.crc32(payload) != crc:
        raise DamagedFile(path, 0, "the header's checksum is wrong")
    index, term, at_ms, configuration_index, configuration_size = _META.unpack_from(payload)
    begin = _META.size + configuration_size
    owner = payload[begin:].decode()
    if owner != cluster_id:
        raise WrongDataDir(
            f"{path} belongs to cluster {owner!r}, this node is of cluster {cluster_id!r}. "
            "Remedy: point the node at its own data directory"
        )
    meta = Meta(index, term, at_ms, configuration_index, payload[_META.size : begin])
    if meta.configuration and not configuration.is_valid(meta.configuration):
        raise DamagedFile(
            path, _HEADER.size + _META.size, "its configuration is none that a group could have"
        )
    return meta, _HEADER.size + size


def read_chunks(file: DiskFile, path: str, start: int) -> Iterator[bytes]:
    """The chunks in order. Raises DamagedFile at the first wrong byte, or when the end is missing.

    A chunk may have any size that the file has room for: whoever makes a snapshot cannot know which sizes its
    readers like, and a log that was cut behind a snapshot nobody reads is lost."""
    position, number, total = start, 0, 0
    size_bytes = file.size_bytes()
    while True:
        head = file.read_at(position, _CHUNK.size)
        if len(head) < _CHUNK.size:
            raise DamagedFile(path, position, "the end is missing")
        size, crc = _CHUNK.unpack(head)
        if size == _END_MARK:
            break
        fits = position + _CHUNK.size + size <= size_bytes
        data = file.read_at(position + _CHUNK.size, size) if fits else b""
        if len(data) != size or zlib.crc32(data, number & 0xFFFFFFFF) != crc:
            raise DamagedFile(path, position, f"chunk {number} has a wrong checksum")
        yield data
        position += _CHUNK.size + size
        number, total = number + 1, total + size
    counts = file.read_at(position + _CHUNK.size, _COUNTS.size)
    if counts != _COUNTS.pack(number, total) or zlib.crc32(counts) != crc:
        raise DamagedFile(path, position, "the end does not count what is there")


@dataclass(frozen=True, slots=True)
class OpenSnapshot:
    """A snapshot that is being read."""

    meta: Meta
    file: DiskFile
    path: str
    start: int

    def chunks(self) -> Iterator[bytes]:
        return read_chunks(self.file, self.path, self.start)

    def close(self) -> None:
        self.file.close()


class SnapshotStore:
    """The node's current snapshot. It is replaced by renames only, and never by an older one."""

    def __init__(self, disk: Disk, cluster_id: str) -> None:
        self._disk, self._cluster_id = disk, cluster_id
        self.current: Meta | None = None
        self.size_bytes = 0
        disk.remove(MAKING_NAME)
        disk.remove(RECEIVING_NAME)
        if disk.exists(NAME):
            # Unlike the journal's end, it is not written once more: it was synced before it got this name,
            # and after a sync that failed nothing gets it.
            self.adopt(self.check(NAME))

    @property
    def index(self) -> int:
        return self.current.index if self.current else 0

    def adopt(self, meta: Meta) -> None:
        """The file under NAME is `meta`'s from now on."""
        self.current, self.size_bytes = meta, self._disk.size(NAME)

    def check(self, name: str) -> Meta:
        """Read a whole file. Raises DamagedFile or WrongDataDir."""
        file = self._disk.open(name)
        try:
            meta, start = read_meta(file, self._disk.path_of(name), self._cluster_id)
            for _ in read_chunks(file, self._disk.path_of(name), start):
                pass
            return meta
        finally:
            file.close()

    def open(self) -> DiskFile:
        return self._disk.open(NAME)

    def opened(self) -> OpenSnapshot | None:
        """The current file, opened at once: what takes its place later does not show. To be closed."""
        if not self._disk.exists(NAME):
            return None
        file, path = self.open(), self._disk.path_of(NAME)
        try:
            meta, start = read_meta(file, path, self._cluster_id)
        except BaseException:
            file.close()
            raise
        return OpenSnapshot(meta, file, path, start)

    def image(self, name: str = NAME) -> Generator[bytes]:
        """The chunks of a snapshot."""
        file = self._disk.open(name)
        try:
            path = self._disk.path_of(name)
            _, start = read_meta(file, path, self._cluster_id)
            yield from read_chunks(file, path, start)
        finally:
            file.close()

    def remove(self, name: str) -> None:
        """Give a file back that was not switched to. Runs off the event loop."""
        self._disk.remove(name)

    def switch(self, name: str) -> None:
        """Make a complete, synced file the current snapshot. Runs off the event loop."""
        self._disk.rename(name, NAME)
        self._disk.sync_dir()
