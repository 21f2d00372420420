"""Landlock: which files a process and its descendants may ever touch, decided by itself, for good.

The rights and their versions are those of linux/landlock.h. What the kernel does not know yet is left out:
`abi()` says how much it knows.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from coterie.skills.sandbox import kernel

READ_FILE, READ_DIR, WRITE_FILE, TRUNCATE, IOCTL_DEV = 1 << 2, 1 << 3, 1 << 1, 1 << 14, 1 << 15
EXECUTE, REFER = 1 << 0, 1 << 13
# Handled from this version of the interface on: 1 began with 13 rights, 2 REFER, 3 TRUNCATE, 5 IOCTL_DEV.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # the others are about directories
_CONNECT_TCP, _BIND_TCP = 1 << 1, 1 << 0
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1 << 0, 1 << 1
_RULE_PATH, _RULE_PORT = 1, 2
_VERSION_FLAG = 1


def abi() -> int:
    """The version of the interface this kernel has; 0: none."""
    try:
        return kernel.call("landlock_create_ruleset", None, 0, _VERSION_FLAG)
    except OSError:
        return 0


class Ruleset:
    """What a process may still do once it has restricted itself: nothing yet but TCP to these ports, as far
    as the kernel knows how. Raises OSError, as its methods do."""

    def __init__(self, tcp_ports: Iterable[int] = ()) -> None:
        version = abi()
        self._rights = _FILE_RIGHTS[max(known for known in _FILE_RIGHTS if known <= max(version, 1))]
        self._fd = _create(version, self._rights)
        if version >= 4:
            for port in tcp_ports:
                rule = struct.pack("=QQ", _CONNECT_TCP, port)
                kernel.call("landlock_add_rule", self._fd, _RULE_PORT, rule, 0)

    def allow(self, readable: Iterable[Path] = (), writable: Iterable[Path] = ()) -> None:
        """Reading beneath the first, writing too beneath the others."""
        for path in readable:
            _allow(self._fd, path, (READ_FILE | READ_DIR) & self._rights)
        for path in writable:
            _allow(self._fd, path, self._rights & ~(EXECUTE | IOCTL_DEV))

    def restrict(self) -> None:
        """From here on nothing else, no signals to others and no abstract sockets of others either; for good,
        and once. Needs no_new_privs."""
        try:
            kernel.call("landlock_restrict_self", self._fd, 0)
        finally:
            os.close(self._fd)


def _create(version: int, files: int) -> int:
    handled = [files]
    if version >= 4:
        handled.append(_CONNECT_TCP | _BIND_TCP)
    if version >= 6:
        handled.append(_SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL)
    attributes = struct.pack(f"={len(handled)}Q", *handled)
    return kernel.call("landlock_create_ruleset", attributes, len(attributes), 0)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """A path that is not there needs no right."""
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _OF_FILES
        kernel.call("landlock_add_rule", ruleset, _RULE_PATH, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)
