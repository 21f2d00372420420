"""Who a confined process is: a user of its own when the node is root, without any capability either way."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from coterie.skills.sandbox import kernel

OWN_UIDS_FROM = 0x7000_0000
"""A run of a root node gets this plus its process id as user id: nobody else on the machine has it, so that
the kernel's limit on a user's processes is the run's own."""
NOBODY = 65_534
CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
_CAPABILITY_VERSION_3 = 0x2008_0522


_CAP_DAC_READ_SEARCH = 1 << 2


def own_uid() -> int:
    """The user id that is this process's alone."""
    return OWN_UIDS_FROM + os.getpid()


def become(uid: int) -> None:
    """Be that user, in no group but its own, for good. What it may do is up to `drop_capabilities`, which
    must follow. Raises OSError."""
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities(keep_reading: bool) -> None:
    """None is left, and none can be had again; or but one: to read files whatever their owner says, which
    Landlock confines to Python's own. It is for machines where Python lies in root's home. Raises OSError."""
    kept = _CAP_DAC_READ_SEARCH if keep_reading else 0
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    kernel.call("capset", header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))


def can_others_read(path: str) -> bool:
    """Whether a user without rights of any kind can come to this file and read it."""
    places = [Path(path), *Path(path).parents]
    modes = [place.stat().st_mode for place in places]
    return bool(modes[0] & stat.S_IROTH) and all(mode & stat.S_IXOTH for mode in modes[1:])


def own_namespace(network: bool) -> None:
    """Leave the node's network, and when not root its user namespace, whose processes are counted apart.
    Raises OSError where that is not allowed."""
    uid, gid = os.getuid(), os.getgid()
    if os.geteuid() == 0:
        kernel.call("unshare", CLONE_NEWNET)
        return
    kernel.call("unshare", CLONE_NEWUSER | (CLONE_NEWNET if network else 0))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
