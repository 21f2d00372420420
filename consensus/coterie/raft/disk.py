"""The few file operations the engine needs, as a Protocol, and the real one. A simulator brings another."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from coterie.raft.errors import DiskFailed, DiskFull, WrongDataDir

LOCK_NAME = "raft.lock"
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
PAGE_BYTES_MAX = 1 << 16  # what any system caches, or writes, as one piece


class DiskFile(Protocol):
    """An open file. Appends go to its end, whole or, with DiskFull, not at all; `sync` makes everything
    appended so far durable. `reserve` asks for room behind the end that nobody else can take, and returns how
    much there is: less than was asked for when the disk is full, None when the file system cannot do it.
    `give_back` takes so many bytes off the end of a file that nobody reads any more; false: nothing is left.
    `overwrite` puts `data` in the place of the whole content, which has the same size. `rewrite` writes once
    more what is at that place already: after a sync that failed, only that lets the next one bring it to the
    disk."""

    def append(self, data: bytes) -> None: ...
    def sync(self) -> None: ...
    def reserve(self, size: int) -> int | None: ...
    def give_back(self, size: int) -> bool: ...
    def overwrite(self, data: bytes) -> None: ...
    def rewrite(self, offset: int, data: bytes) -> None: ...
    def read_at(self, offset: int, size: int) -> bytes: ...
    def size_bytes(self) -> int: ...
    def close(self) -> None: ...


class Disk(Protocol):
    """One flat directory. Renames and new names are durable after `sync_dir` only."""

    def open(self, name: str) -> DiskFile: ...
    def create(self, name: str) -> DiskFile: ...
    def read(self, name: str) -> bytes: ...
    def size(self, name: str) -> int: ...
    def exists(self, name: str) -> bool: ...
    def truncate(self, name: str, size: int) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def remove(self, name: str) -> None: ...
    def sync_dir(self) -> None: ...
    def path_of(self, name: str) -> str: ...
    def room(self) -> tuple[int, int]: ...  # free bytes, and the size of it all
    def lock(self) -> None: ...
    def close(self) -> None: ...


class RealFile:
    """A file of the operating system. Any error on the way to the disk is final: see DiskFailed."""

    def __init__(self, path: str, flags: int) -> None:
        self._path = path
        try:
            self._fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failure(error, f"opening {path}") from error
        self._size = self._reserved_end = os.fstat(self._fd).st_size

    def append(self, data: bytes) -> None:
        try:
            self._write(self._size, data)
        except OSError as error:
            self._cut_torn()
            raise _failure(error, f"writing {self._path}") from error
        self._size += len(data)

    def _write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def _cut_torn(self) -> None:
        # Unlike a failed fsync, a failed write has left nothing behind that could be mistaken for durable.
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise DiskFailed(f"cutting a failed write off {self._path} failed: {error}") from error
        self._reserved_end = self._size  # what was allocated behind the end is gone too

    def reserve(self, size: int) -> int | None:
        ahead = self._reserved_end - self._size
        if ahead >= size // 2:
            return ahead
        # In two steps, for where there is no room tmpfs takes back all that a failed call covers, also what
        # the process before had got. Of that half is left at least, and the first step asks for no more.
        for wanted_end in (self._size + size // 2, self._size + size):
            begin = max(self._reserved_end, self._size)
            failed = _allocate(self._fd, begin, wanted_end - begin)
            if failed in NO_ROOM:
                return max(self._reserved_end - self._size, 0)
            if failed:
                return None
            self._reserved_end = wanted_end
        return size

    def give_back(self, size: int) -> bool:
        self._size = self._reserved_end = max(0, self._size - size)
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise DiskFailed(f"cutting {self._path} failed: {error}") from error
        return self._size > 0

    def overwrite(self, data: bytes) -> None:
        try:
            os.pwrite(self._fd, data, 0)
        except OSError as error:
            raise _failure(error, f"writing {self._path}") from error
        self._size = max(self._size, len(data))

    def rewrite(self, offset: int, data: bytes) -> None:
        # What a sync could not write stays in the cache and counts as written. ext4 also takes its blocks for
        # allocated, which on the disk they are not: written again over the cached pages, it would read as
        # zeros after a loss of power. So these are dropped first, which only works for pages that are clean.
        self.sync()
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self._write(offset, data)
        except OSError as error:
            raise _failure(error, f"writing {self._path}") from error

    def sync(self) -> None:
        # After a failed fsync the kernel may drop the dirty pages and report success next time.
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise DiskFailed(f"fsync of {self._path} failed: {error}") from error

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise _unreadable(self._path, error) from error

    def size_bytes(self) -> int:
        return self._size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RealDisk:
    """A directory of the operating system, held by an exclusive lock while the engine runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock_fd = self._directory_fd = -1
        self._holds = 0
        self._open: weakref.WeakSet[RealFile] = weakref.WeakSet()

    def path_of(self, name: str) -> str:
        return str(self._directory / name)

    def lock(self) -> None:
        """Make the directory if need be and hold it alone, until `close` was called as often as this. Raises
        WrongDataDir when another process holds it."""
        if not self._holds:
            self._take()
        self._holds += 1

    def _take(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._directory_fd = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            self._lock_fd = os.open(self.path_of(LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._let_go()
            raise WrongDataDir(
                f"the data directory {self._directory} cannot be used: {error}. Remedy: make it writable for "
                "this user, or name another"
            ) from error
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._let_go()
            raise WrongDataDir(
                f"the data directory {self._directory} is in use by another process. Remedy: stop that "
                "process, or give this node a directory of its own"
            ) from error

    def close(self) -> None:
        """Let the directory go, and close what was left open in it: whoever fails to start leaves that."""
        for file in list(self._open):
            file.close()
        self._holds = max(self._holds - 1, 0)
        if not self._holds:
            self._let_go()

    def _let_go(self) -> None:
        for fd in (self._directory_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._directory_fd = self._lock_fd = -1

    def open(self, name: str) -> RealFile:
        return self._opened(name, os.O_RDWR)

    def create(self, name: str) -> RealFile:
        return self._opened(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def _opened(self, name: str, flags: int) -> RealFile:
        file = RealFile(self.path_of(name), flags)
        self._open.add(file)
        return file

    def read(self, name: str) -> bytes:
        try:
            return Path(self.path_of(name)).read_bytes()
        except OSError as error:
            raise _unreadable(self.path_of(name), error) from error

    def size(self, name: str) -> int:
        try:
            return os.stat(self.path_of(name)).st_size
        except OSError as error:
            raise DiskFailed(f"looking at {self.path_of(name)} failed: {error}") from error

    def exists(self, name: str) -> bool:
        return os.path.exists(self.path_of(name))

    def truncate(self, name: str, size: int) -> None:
        """Cut a file and make the cut durable, or what was cut could come back after the next write."""
        fd = os.open(self.path_of(name), os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        except OSError as error:
            raise DiskFailed(f"truncating {self.path_of(name)} failed: {error}") from error
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        try:
            os.rename(self.path_of(old), self.path_of(new))
        except OSError as error:
            raise _failure(error, f"renaming {self.path_of(old)}") from error

    def remove(self, name: str) -> None:
        try:
            os.remove(self.path_of(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise DiskFailed(f"removing {self.path_of(name)} failed: {error}") from error

    def room(self) -> tuple[int, int]:
        try:
            status = os.statvfs(self._directory)
        except OSError as error:
            raise DiskFailed(f"looking at the disk of {self._directory} failed: {error}") from error
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def sync_dir(self) -> None:
        try:
            if self._directory_fd >= 0:  # a node that may open no more files can still sync
                os.fsync(self._directory_fd)
                return
            fd = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise DiskFailed(f"fsync of the directory {self._directory} failed: {error}") from error


def _unreadable(path: str, error: OSError) -> DiskFailed:
    return DiskFailed(
        f"reading {path} failed: {error}. Remedy: if the disk is broken, replace it and get the data again "
        "from the other nodes with `coterie node resync`"
    )


def _failure(error: OSError, doing: str) -> DiskFull | DiskFailed:
    if error.errno in NO_ROOM:
        return DiskFull(f"{doing} failed: {error}")
    if error.errno in NO_DESCRIPTOR:
        return DiskFull(f"{doing} failed: {error}. Remedy: allow more open files (ulimit -n, LimitNOFILE)")
    return DiskFailed(f"{doing} failed: {error}")


_KEEP_SIZE = 1  # fallocate(2): blocks behind the end of the file, its size stays


def _allocate(fd: int, offset: int, size: int) -> int:
    """fallocate(2), which os.posix_fallocate cannot replace: that one grows the file. Returns the errno."""
    if _fallocate is None:
        return errno.EOPNOTSUPP
    if _fallocate(fd, _KEEP_SIZE, offset, size) == 0:
        return 0
    return ctypes.get_errno()


def _find_fallocate() -> Callable[[int, int, int, int], int] | None:
    found = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return found


_fallocate = _find_fallocate()
