"""One log entry as bytes: 1 byte type, 8 bytes time (ms), 16 bytes id, then the body; a no-op: its type; a
configuration: its type and the members.

The first two types are PySyncObj's. Its membership and version entries (2 and 3) hold pickles and are
refused everywhere. Types above those known here are a newer version's: they are kept like any other, so that
the node can say what it needs when it would have to apply one, and nobody guesses what they mean."""

from __future__ import annotations

import struct

from coterie.raft import configuration
from coterie.raft.errors import NewerVersion

REGULAR, NO_OP, CONFIGURATION = 0, 1, 8
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
    """Whether the bytes may stand in the log: an entry this engine applies, or one of a newer version."""
    if not command:
        return False
    if command[0] == REGULAR:
        return len(command) >= HEADER_BYTES
    if command[0] == CONFIGURATION:
        return configuration.is_valid(command[1:])
    return command == NO_OP_ENTRY or command[0] > CONFIGURATION


def require_known(index: int, command: bytes) -> None:
    """Raises NewerVersion for a committed entry whose type this engine does not know."""
    if command[0] not in (REGULAR, NO_OP, CONFIGURATION):
        raise NewerVersion(f"entry {index}, of type {command[0]},")


def seal_configuration(raw: bytes) -> bytes:
    return bytes([CONFIGURATION]) + raw


def at_ms_of(command: bytes) -> int:
    """When the leader appended it; 0 when it has no time."""
    return int(_AT.unpack_from(command, 1)[0]) if command[0] == REGULAR else 0


def id_of(command: bytes) -> bytes:
    return command[9:HEADER_BYTES]


def body_of(command: bytes) -> bytes:
    return command[HEADER_BYTES:]
