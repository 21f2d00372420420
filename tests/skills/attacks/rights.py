"""More rights than it was given."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import time
from pathlib import Path
from typing import Any

from .kit import MIB, attack, syscall


@attack
def become_root(given: Any) -> Any:
    os.setresuid(0, 0, 0)
    return Path(given["secret_file"]).read_text()


@attack
def raise_limits(given: Any) -> Any:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return len(bytearray(3 * 1024 * MIB))


@attack
def new_namespace(given: Any) -> Any:
    return 1 + syscall(272, 0x10000000)


@attack
def mount(given: Any) -> Any:
    os.mkdir("m")
    return 1 + int(syscall(165, b"none", b"m", b"tmpfs", 0, b""))


@attack
def list_mounts(given: Any) -> Any:
    found = ctypes.create_string_buffer(8 * 64)
    request = struct.pack("=IIQQ", 24, 0, 0xFFFF_FFFF_FFFF_FFFF, 0)
    return syscall(458, request, found, 64, 0)


@attack
def chroot(given: Any) -> Any:
    os.chroot(".")
    return "done"


@attack
def io_uring(given: Any) -> Any:
    return 1 + syscall(425, 8, ctypes.create_string_buffer(256))


@attack
def bpf(given: Any) -> Any:
    return 1 + syscall(321, 0, ctypes.create_string_buffer(128), 128)


@attack
def keyring(given: Any) -> Any:
    return syscall(248, b"user", b"evil", b"x", 1, ctypes.c_long(-4))


@attack
def other_machine_calls(given: Any) -> Any:
    return 1 + syscall(0x40000000 + 39)  # getpid by the x32 interface


@attack
def set_the_clock(given: Any) -> Any:
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return "set"
