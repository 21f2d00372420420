"""File systems of a node's own that can lose power, freeze or be full. The calling process needs a mount
namespace of its own (`unshare --mount --propagation private`), or other processes would keep them alive."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NO_LOG_FLUSH = struct.pack("I", 2)  # the journal's unwritten part is lost too, as when the power goes
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
BALLAST = "ballast"


class Ext4:
    """An ext4 image, mounted. `power_off` loses everything that was not synced."""

    mkfs_options: tuple[str, ...] = ()

    def __init__(self, image: Path, mount_point: Path, size_mb: int = 192) -> None:
        self.image, self.mount_point = image, mount_point
        image.parent.mkdir(parents=True, exist_ok=True)
        mount_point.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(size_mb << 20)
        lazy = "lazy_itable_init=1,lazy_journal_init=1"
        _run("mkfs.ext4", "-q", "-F", *self.mkfs_options, "-E", lazy, str(image))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self.image), str(self.mount_point))

    def unmount(self, timeout_s: float = 10.0) -> None:
        """Waits until nobody uses it any more. Raises RuntimeError when somebody goes on to."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return _run("umount", str(self.mount_point))
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def power_off(self) -> None:
        """From now on every access fails, and nothing more reaches the image."""
        self._ioctl(EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)

    def freeze(self) -> None:
        """Writers and fsyncs wait until `thaw`."""
        self._ioctl(FIFREEZE, struct.pack("i", 0))

    def thaw(self) -> None:
        self._ioctl(FITHAW, struct.pack("i", 0))

    def _ioctl(self, request: int, argument: bytes) -> None:
        fd = os.open(self.mount_point, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, request, argument)
        finally:
            os.close(fd)


class Tmpfs:
    """A small file system in memory, which a ballast file can fill to the last byte."""

    def __init__(self, mount_point: Path, size_mb: int) -> None:
        self.mount_point = mount_point
        mount_point.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=700", "tmpfs", str(mount_point))

    def fill(self) -> int:
        """Take all space that is left. Returns how many bytes that was."""
        block, size = b"\0" * 65_536, 0
        with (self.mount_point / BALLAST).open("wb", buffering=0) as file:
            while len(block) >= 1:
                try:
                    size += file.write(block)
                except OSError:
                    block = block[: len(block) // 2]
        return size

    def free(self) -> None:
        """Give the space back."""
        (self.mount_point / BALLAST).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        stats = os.statvfs(self.mount_point)
        return stats.f_bavail * stats.f_frsize


class ThinExt4(Ext4):
    """An ext4 on a store that can run out of room, as a thin volume does: then what was never written before
    cannot be written, and the sync that finds it out fails."""

    mkfs_options = ("-b", "4096")  # a page, which is what the store gives and takes

    def __init__(self, base: Path, size_mb: int = 16) -> None:
        self._store = Tmpfs(base / "store", size_mb + 2)
        super().__init__(base / "store" / "image", base / "mount", size_mb)

    def starve(self) -> None:
        """The file system is mounted anew, so nobody may use it meanwhile."""
        self.unmount()
        with self.image.open("r+b") as file:  # what belongs to the file system itself keeps its room
            content = file.read()
            file.seek(0)
            file.write(content)
        for first, last in self._free_blocks():
            place = ("--offset", str(first << 12), "--length", str(last + 1 - first << 12))
            _run("fallocate", "--punch-hole", *place, str(self.image))
        self.mount()
        self._store.fill()

    def feed(self) -> None:
        """There is room again."""
        self._store.free()

    def _free_blocks(self) -> Iterator[tuple[int, int]]:
        said = subprocess.run(["dumpe2fs", self.image], capture_output=True, text=True, check=True).stdout
        for line in re.findall(r"^ +Free blocks: (.+)$", said, re.MULTILINE):
            for part in line.split(", "):
                first, _, last = part.partition("-")
                yield int(first), int(last or first)


def power_off(disks: Iterable[Ext4]) -> None:
    """All of them within a millisecond or two."""
    for disk in disks:
        disk.power_off()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
