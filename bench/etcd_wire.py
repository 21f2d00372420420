"""As much of etcd's gRPC interface as a put needs, written out by hand: key and value are fields 1 and 2."""

from __future__ import annotations

import struct

PUT = "/etcdserverpb.KV/Put"
_KEY, _VALUE = 0x0A, 0x12  # field number << 3 | 2 (length-delimited)


def put_request(key: bytes, value: bytes) -> bytes:
    """An encoded PutRequest."""
    return bytes([_KEY]) + _sized(key) + bytes([_VALUE]) + _sized(value)


def frame(message: bytes) -> bytes:
    """A message as gRPC puts it into an HTTP/2 body: not compressed, four bytes of length."""
    return b"\x00" + struct.pack(">I", len(message)) + message


def _sized(data: bytes) -> bytes:
    length, head = len(data), bytearray()
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + data
