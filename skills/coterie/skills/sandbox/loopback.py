"""A network of its own for one process: nothing in it but a loopback, and on it the door to the node's proxy.

The listening socket belongs to the network it was made in, also after it was handed to the node: the skill
connects to it as to any proxy, the node accepts, and there is no other way out.
"""

from __future__ import annotations

import fcntl
import socket
import struct

PROXY_HOST, PROXY_PORT = "127.0.0.1", 3128
BACKLOG = 32
_SIOCSIFFLAGS = 0x8914
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_IFREQ_BYTES = 40


def open_door() -> socket.socket:
    """Raise the loopback of this network and listen on it. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", _IFF_UP | _IFF_RUNNING).ljust(_IFREQ_BYTES, b"\0")
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    door.bind((PROXY_HOST, PROXY_PORT))
    door.listen(BACKLOG)
    return door
