"""What a run needs of the machine, asked before it starts, so that a run that cannot be done says why."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path


def root() -> str:
    return "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "root (run it with sudo)"


def linux() -> str:
    return "" if platform.system() == "Linux" else "Linux"


def tools(*names: str) -> Callable[[], str]:
    """Programs that must be on the PATH."""

    def missing() -> str:
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        return ", ".join(f"the program {name}" for name in names if shutil.which(name, path=path) is None)

    return missing


def namespaces() -> str:
    """Own mount and network namespaces."""
    return _tried(["unshare", "--mount", "--net", "true"], "the right to make namespaces (unshare)")


def loop_mounts() -> str:
    """A loop device and the ext4 file system."""
    if not Path("/dev/loop-control").exists():
        return "loop devices (/dev/loop-control)"
    kinds = Path("/proc/filesystems").read_text(encoding="ascii")
    return "" if "ext4" in kinds else "a kernel with ext4"


def missing(*needs: Callable[[], str]) -> str:
    """What is missing, for people; empty when nothing is. Later needs are not tried when one is missing."""
    if word := linux():
        return word
    found = []
    for need in needs:
        if word := need():
            found.append(word)
            if need is root:
                break
    return ", ".join(found)


def _tried(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except OSError:
        return what
    return "" if done.returncode == 0 else what


APART = (root, tools("unshare"), namespaces)
NETWORK = (root, tools("unshare", "nsenter", "ip", "nft", "mount"), namespaces)
DISKS = (root, tools("unshare", "mkfs.ext4", "mount", "umount", "truncate"), namespaces, loop_mounts)
THIN_DISKS = (*DISKS, tools("dumpe2fs", "fallocate"))
SHIM = (tools("cc"),)
