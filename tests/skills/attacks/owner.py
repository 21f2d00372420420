"""What the owner of a file or a process may do without opening the one or signalling the other.

A run of a node that is not root has the node's user id, so that all files of the node are "its own". Whether
such an attack won is looked up by stat, which needs no right: a call may say that it did what it did not.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .kit import attack, syscall

FCHMODAT2, AT_EMPTY_PATH = 452, 0x1000
FIOSETOWN, SIOCSPGRP = 0x8901, 0x8902
F_SETSIG, F_SETOWN_EX, F_SETLEASE = 10, 15, 1024
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, NODUMP = 0x8008_6601, 0x4008_6602, 0x40
NEITHER_READ_NOR_WRITE = 3  # an access mode for which Landlock asks no right
SIGUSR1 = 10
ALL_EVENTS = 0xFFF


def _other_mode(path: str) -> int:
    """One that it does not have, also when another attack was here before."""
    return (os.stat(path).st_mode & 0o777) ^ 0o022


def _changed(path: str, act: Callable[[], Any]) -> Any:
    """What is another now, or nothing."""
    before = os.stat(path)
    act()
    after = os.stat(path)
    facts = ("st_mode", "st_mtime_ns", "st_size")
    return [fact for fact in facts if getattr(before, fact) != getattr(after, fact)]


@attack
def mode_of_a_file(given: Any) -> Any:
    return _changed(given["mode_file"], lambda: os.chmod(given["mode_file"], _other_mode(given["mode_file"])))


@attack
def mode_of_a_folder(given: Any) -> Any:
    return _changed(given["mode_dir"], lambda: os.chmod(given["mode_dir"], _other_mode(given["mode_dir"])))


@attack
def mode_by_descriptor(given: Any) -> Any:
    """Of a file that may be read: the skill's own code, like the libraries of a node that owns them."""
    path = given["code_file"]
    code = os.open(path, os.O_RDONLY)
    return _changed(path, lambda: os.fchmod(code, _other_mode(path)))


@attack
def mode_by_place(given: Any) -> Any:
    """By a descriptor that opens nothing, which is given to everybody."""
    path = given["mode_file"]
    place = os.open(path, os.O_PATH)
    return _changed(path, lambda: syscall(FCHMODAT2, place, b"", _other_mode(path), AT_EMPTY_PATH))


@attack
def times_of_a_file(given: Any) -> Any:
    path = given["times_file"]
    earlier = os.stat(path).st_mtime - 1_000
    return _changed(path, lambda: os.utime(path, (earlier, earlier)))


@attack
def times_are_now(given: Any) -> Any:
    return _changed(given["times_file"], lambda: os.utime(given["times_file"]))


@attack
def mark_a_file(given: Any) -> Any:
    os.setxattr(given["times_file"], "user.mark", b"1")
    return "marked"


@attack
def read_a_mark(given: Any) -> Any:
    return os.listxattr(given["times_file"])


@attack
def cut_by_name(given: Any) -> Any:
    return _changed(given["cut_file"], lambda: os.truncate(given["cut_file"], 1))


@attack
def cut_by_reading(given: Any) -> Any:
    """To open for reading alone is a right to read, also when it empties the file."""
    return _changed(given["code_file"], lambda: os.open(given["code_file"], os.O_RDONLY | os.O_TRUNC))


@attack
def cut_by_neither(given: Any) -> Any:
    mode = NEITHER_READ_NOR_WRITE | os.O_TRUNC
    return _changed(given["cut_file"], lambda: os.open(given["cut_file"], mode))


@attack
def open_for_neither(given: Any) -> Any:
    return 1 + os.open(given["cut_file"], NEITHER_READ_NOR_WRITE)


@attack
def lease_of_a_file(given: Any) -> Any:
    """Who opens it for writing then waits for us."""
    code = os.open(given["code_file"], os.O_RDONLY)
    fcntl.fcntl(code, F_SETLEASE, fcntl.F_RDLCK)
    return "leased"


@attack
def flags_of_a_file(given: Any) -> Any:
    code = os.open(given["code_file"], os.O_RDONLY)
    fcntl.ioctl(code, FS_IOC_SETFLAGS, struct.pack("=Q", NODUMP))
    flags = fcntl.ioctl(code, FS_IOC_GETFLAGS, struct.pack("=Q", 0))
    return struct.unpack("=Q", flags)[0] & NODUMP


@attack
def watch_a_folder(given: Any) -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    return 1 + libc.inotify_add_watch(libc.inotify_init(), given["other_dir"].encode(), ALL_EVENTS)


def _signalled(given: Any, own: Callable[[socket.socket], Any]) -> Any:
    """Let the kernel send the signal, when something can be read here."""
    diary = Path(given["signal_diary"])
    before = diary.stat().st_size
    here, there = socket.socketpair()
    own(here)
    fcntl.fcntl(here, F_SETSIG, SIGUSR1)
    fcntl.fcntl(here, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    there.send(b"x")
    for _ in range(100):
        if diary.stat().st_size != before:
            return "signalled"
        time.sleep(0.01)
    return None


@attack
def signal_by_owner(given: Any) -> Any:
    return _signalled(given, lambda end: fcntl.fcntl(end, fcntl.F_SETOWN, given["signal_pid"]))


@attack
def signal_by_owner_ex(given: Any) -> Any:
    owner = struct.pack("=ii", 1, given["signal_pid"])
    return _signalled(given, lambda end: fcntl.fcntl(end, F_SETOWN_EX, owner))


@attack
def signal_by_ioctl(given: Any) -> Any:
    owner = struct.pack("=i", given["signal_pid"])
    return _signalled(given, lambda end: fcntl.ioctl(end, FIOSETOWN, owner))


@attack
def signal_by_group_ioctl(given: Any) -> Any:
    owner = struct.pack("=i", given["signal_pid"])
    return _signalled(given, lambda end: fcntl.ioctl(end, SIOCSPGRP, owner))
