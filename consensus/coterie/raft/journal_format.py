"""The journal file: a header that says whose it is, then blocks, each synced before the next began.

    file    = header block*
    header  = magic (8) format (4) size (4) crc (4) payload: salt, disk id, cluster id, node id
    block   = marker (4) crc (4) size (4) record*
    record  = kind (1) size (4) body

A block holds all records of one fsync and its CRC-32 covers them all, so a torn write, in whatever order the
sectors reached the disk, damages the last block only. The CRC is seeded by the file's salt and the block's
offset: bytes of another journal inside an entry can never pass for a block of this one."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from coterie.raft.errors import DamagedFile, UnknownFormat, WrongDataDir

MAGIC = b"COTERIEJ"
FORMAT = 2
MARKER = b"\xc7\x1eBK"
MARK_MAGIC = b"CTMK"
ENTRY, TRUNCATE, VOTE, BASE = 1, 2, 3, 4

_HEADER = struct.Struct("<8sIII")
_IDENTITY = struct.Struct("<IQHH")
_BLOCK = struct.Struct("<4sII")
_RECORD = struct.Struct("<BI")
_ENTRY = struct.Struct("<QQ")
_INDEX = struct.Struct("<Q")
_BASE = struct.Struct("<QQQ")
_VOTE = struct.Struct("<QB")
_MARK = struct.Struct("<4sIQI")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose data it is. `disk_id` is made up once, when the directory is set up: 16 hex digits."""

    cluster_id: str
    node_id: str
    disk_id: str = ""


@dataclass(frozen=True, slots=True)
class EntryRecord:
    command: bytes
    index: int
    term: int


@dataclass(frozen=True, slots=True)
class TruncateRecord:
    """Entries from `index` on are no longer part of the log."""

    index: int


@dataclass(frozen=True, slots=True)
class VoteRecord:
    term: int
    voted_for: str | None


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """The log begins behind this entry; `at_ms` is the highest entry time up to it."""

    index: int
    term: int
    at_ms: int


Record = EntryRecord | TruncateRecord | VoteRecord | BaseRecord


def header(identity: Identity, salt: int) -> bytes:
    cluster, node = identity.cluster_id.encode(), identity.node_id.encode()
    payload = _IDENTITY.pack(salt, int(identity.disk_id, 16), len(cluster), len(node)) + cluster + node
    return _HEADER.pack(MAGIC, FORMAT, len(payload), zlib.crc32(payload)) + payload


def read_header(raw: bytes, path: str, identity: Identity) -> tuple[Identity, int, int]:
    """Whose file it is (cluster and node as in `identity`, and its disk id), the salt, and where the blocks
    begin. Raises WrongDataDir or DamagedFile."""
    if len(raw) < _HEADER.size or raw[:8] != MAGIC:
        raise DamagedFile(path, 0, "it does not begin like a journal")
    _, version, size, crc = _HEADER.unpack_from(raw)
    if version != FORMAT:
        raise UnknownFormat(path, len(MAGIC), version, FORMAT)
    payload = raw[_HEADER.size : _HEADER.size + size]
    # (The checksum of nothing is 0: a header of zeros must not pass.)
    if len(payload) != size or size < _IDENTITY.size or zlib.crc32(payload) != crc:
        raise DamagedFile(path, 0, "the header's checksum is wrong")
    salt, disk_id, cluster_size, node_size = _IDENTITY.unpack_from(payload)
    names = payload[_IDENTITY.size :]
    cluster, node = names[:cluster_size], names[cluster_size : cluster_size + node_size]
    found = Identity(cluster.decode(), node.decode(), f"{disk_id:016x}")
    _require_identity(path, found, identity)
    return found, salt, _HEADER.size + size


def _require_identity(path: str, found: Identity, wanted: Identity) -> None:
    if found.cluster_id != wanted.cluster_id:
        raise WrongDataDir(
            f"{path} belongs to cluster {found.cluster_id!r}, this node is of cluster {wanted.cluster_id!r}. "
            "Remedy: point the node at its own data directory"
        )
    if found.node_id != wanted.node_id:
        raise WrongDataDir(
            f"{path} belongs to node {found.node_id!r}, this is node {wanted.node_id!r}. "
            "Remedy: point the node at its own data directory; two nodes must never share a log"
        )


def block(records: Iterable[bytes], salt: int, offset: int) -> bytes:
    payload = b"".join(records)
    return _BLOCK.pack(MARKER, _crc(payload, salt, offset), len(payload)) + payload


def _crc(payload: bytes | memoryview, salt: int, offset: int) -> int:
    return zlib.crc32(payload, zlib.crc32(_INDEX.pack(offset), salt))


def mark(salt: int, synced: int) -> bytes:
    """The content of the mark file: so much of the journal with this salt has been synced."""
    raw = struct.pack("<4sIQ", MARK_MAGIC, salt, synced)
    return raw + struct.pack("<I", zlib.crc32(raw))


def read_mark(raw: bytes, salt: int) -> int:
    """How much of the journal with this salt is known to have been synced; 0: nothing is known."""
    if len(raw) != _MARK.size:
        return 0
    _, of_salt, synced, _ = _MARK.unpack(raw)
    return int(synced) if raw == mark(salt, synced) and of_salt == salt else 0


def read_blocks(raw: bytes, path: str, salt: int, start: int, synced: int = 0) -> tuple[list[Record], int]:
    """All records, and where the good part ends; what follows is a torn write that was never promised.

    Raises DamagedFile when a good block follows a bad one, or when the bad one lies below `synced`: then it
    had been durable once."""
    records: list[Record] = []
    position = start
    while position < len(raw):
        size = _block_size(raw, salt, position)
        if size is None:
            after = _next_good_block(raw, salt, position + 1)
            if after is not None:
                raise DamagedFile(path, position, f"the block is broken and a good one follows at {after}")
            break
        records.extend(_records(raw, position + _BLOCK.size, position + size, path))
        position += size
    if position < synced:
        raise DamagedFile(path, position, f"a whole block should be here: {synced} bytes had been synced")
    return records, position


def block_of(raw: bytes, salt: int, start: int, number: int) -> int:
    """Where the block begins that holds a record, counted from 0 over all that `read_blocks` has read."""
    position, left = start, number
    while (size := _block_size(raw, salt, position)) is not None:
        left -= sum(1 for _ in _records(raw, position + _BLOCK.size, position + size, ""))
        if left < 0:
            break
        position += size
    return position


def _block_size(raw: bytes, salt: int, position: int) -> int | None:
    if len(raw) - position < _BLOCK.size:
        return None
    marker, crc, size = _BLOCK.unpack_from(raw, position)
    begin = position + _BLOCK.size
    if marker != MARKER or size > len(raw) - begin:
        return None
    if _crc(memoryview(raw)[begin : begin + size], salt, position) != crc:
        return None
    return int(_BLOCK.size + size)


def _next_good_block(raw: bytes, salt: int, position: int) -> int | None:
    position = raw.find(MARKER, position)
    while position >= 0:
        if _block_size(raw, salt, position) is not None:
            return position
        position = raw.find(MARKER, position + 1)
    return None


def _records(raw: bytes, position: int, end: int, path: str) -> Iterator[Record]:
    while position < end:
        kind, size = _RECORD.unpack_from(raw, position)
        body = position + _RECORD.size
        if body + size > end:
            raise DamagedFile(path, position, "a record is longer than its block")
        yield _record(kind, raw, body, body + size, path)
        position = body + size


def _record(kind: int, raw: bytes, begin: int, end: int, path: str) -> Record:
    if kind == ENTRY:
        index, term = _ENTRY.unpack_from(raw, begin)
        return EntryRecord(raw[begin + _ENTRY.size : end], index, term)
    if kind == TRUNCATE:
        return TruncateRecord(*_INDEX.unpack_from(raw, begin))
    if kind == VOTE:
        term, has_vote = _VOTE.unpack_from(raw, begin)
        return VoteRecord(term, raw[begin + _VOTE.size : end].decode() if has_vote else None)
    if kind == BASE:
        return BaseRecord(*_BASE.unpack_from(raw, begin))
    raise DamagedFile(path, begin, f"unknown record kind {kind}")


def entry_record(command: bytes, index: int, term: int) -> bytes:
    return _RECORD.pack(ENTRY, _ENTRY.size + len(command)) + _ENTRY.pack(index, term) + command


def truncate_record(index: int) -> bytes:
    return _RECORD.pack(TRUNCATE, _INDEX.size) + _INDEX.pack(index)


def vote_record(term: int, voted_for: str | None) -> bytes:
    name = (voted_for or "").encode()
    return _RECORD.pack(VOTE, _VOTE.size + len(name)) + _VOTE.pack(term, 0 if voted_for is None else 1) + name


def base_record(index: int, term: int, at_ms: int) -> bytes:
    return _RECORD.pack(BASE, _BASE.size) + _BASE.pack(index, term, at_ms)
