"""One log entry as bytes: 1 byte type, 8 bytes time (ms), 16 bytes id, then the body; a no-op: its type.

The type bytes are PySyncObj's. Its membership and version entries hold pickles and are refused everywhere."""

from __future__ import annotations

import struct

REGULAR, NO_OP = 0, 1
NO_OP_ENTRY = bytes([NO_OP])
_HEADER = struct.Struct(">BQ16s")
HEADER_BYTES = _HEADER.size
_AT = struct.Struct(">Q")
_ID = struct.Struct(">QQ")

Logged = tuple[bytes, int, int]  # command, index, term: PySyncObj's own shape


def make_id(incarnation: int, sequence: int) -> bytes:
    """An id no other proposal has: the proposer's random incarnation and its counter."""
    return _ID.pack(incarnation, sequence)


def seal(at_ms: int, entry_id: bytes, body: bytes) -> bytes:
    return _HEADER.pack(REGULAR, at_ms, entry_id) + body


def is_valid(command: bytes) -> bool:
    """Whether the bytes are an entry this engine applies."""
    if not command:
        return False
    if command[0] == REGULAR:
        return len(command) >= HEADER_BYTES
    return command == NO_OP_ENTRY


def at_ms_of(command: bytes) -> int:
    """When the leader appended it; 0 for a no-op."""
    return int(_AT.unpack_from(command, 1)[0]) if command[0] == REGULAR else 0


def id_of(command: bytes) -> bytes:
    return command[9:HEADER_BYTES]


def body_of(command: bytes) -> bytes:
    return command[HEADER_BYTES:]
