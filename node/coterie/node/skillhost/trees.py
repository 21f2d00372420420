"""Folders that somebody else fills: measured meanwhile, removed afterwards. They may be nested deeper than a
path is long, so both go from one open folder to the next."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

ENTRIES_SEEN_MAX = 100_000
DEPTH_MAX = 200
ENDLESS = 1 << 62
_BLOCK_BYTES = 512
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESRCH})

log = logging.getLogger(__name__)


class _Level:
    """A folder on the way down, and what of it is still to be seen."""

    def __init__(self, name: str | Path, above: _Level | None = None) -> None:
        self.fd: int = os.open(name, _FOLDER, dir_fd=above.fd if above is not None else None)
        try:
            self.entries = os.scandir(self.fd)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        self.entries.close()
        os.close(self.fd)


def bytes_used(folder: Path) -> int:
    """What lies beneath takes on the disk. What is very crowded or deep, or cannot be read, is ENDLESS."""
    try:
        levels = [_Level(folder)]
    except FileNotFoundError:
        return 0
    total = seen = 0
    try:
        while levels:
            entry = next(levels[-1].entries, None)
            if entry is None:
                levels.pop().close()
                continue
            seen += 1
            total += _taken(entry)
            if seen > ENTRIES_SEEN_MAX or total >= ENDLESS:
                return ENDLESS
            if entry.is_dir(follow_symlinks=False) and not _go_down(levels, entry.name):
                return ENDLESS
    finally:
        for level in levels:
            level.close()
    return total


def _taken(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
    except PermissionError:
        return ENDLESS
    except OSError as error:
        return _if_gone(error)


def _go_down(levels: list[_Level], name: str) -> bool:
    """Whether that folder could be looked into, if it is still there."""
    if len(levels) >= DEPTH_MAX:
        return False
    try:
        levels.append(_Level(name, levels[-1]))
    except PermissionError:
        return False
    except OSError as error:
        _if_gone(error)
    return True


def _if_gone(error: OSError) -> int:
    if error.errno not in _GONE:
        raise error
    return 0


def unlinked_bytes(pid: int, owner: int) -> int:
    """What the files of `owner` take that have no name any more and that this process holds, open or mapped.
    ENDLESS when it has sent some to itself: nobody can see which. 0 where the kernel does not show all that:
    to a node that is not root."""
    found: dict[tuple[int, int], int] = {}
    for path in _held(pid):
        with contextlib.suppress(OSError):
            file = os.stat(path)
            if stat.S_ISSOCK(file.st_mode) and _has_files_under_way(path):
                return ENDLESS
            if not file.st_nlink and file.st_uid == owner and stat.S_ISREG(file.st_mode):
                found[file.st_dev, file.st_ino] = file.st_blocks * _BLOCK_BYTES
    return sum(found.values())


def _held(pid: int) -> Iterator[str]:
    """Each thread may have open files of its own. The mappings of all are the same, but one that has ended
    has none, and that may be the first."""
    threads = _names(f"/proc/{pid}/task")
    for thread in threads:
        table = f"/proc/{pid}/task/{thread}/fd"
        yield from (f"{table}/{name}" for name in _names(table))
    for table in (f"/proc/{thread}/map_files" for thread in threads):
        if mapped := _names(table):
            yield from (f"{table}/{name}" for name in mapped)
            break


def _names(place: str) -> list[str]:
    try:
        return os.listdir(place)
    except OSError:
        return []


def _has_files_under_way(socket: str) -> bool:
    """Descriptors that were sent through it and not yet taken."""
    with open(socket.replace("/fd/", "/fdinfo/"), encoding="ascii") as facts:
        told = [line.split() for line in facts if line.startswith("scm_fds:")]
    return any(words[1:] != ["0"] for words in told)


def remove_tree(folder: Path) -> None:
    """Also what was made unreadable for its owner, which we may be. Nobody else is at it any more. Raises
    nothing: what cannot be removed stays, and the log says so."""
    try:
        if not folder.is_symlink():
            folder.chmod(0o700)
        top = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("a folder could not be removed", extra={"folder": str(folder), "error": str(error)})
        return
    try:
        moves = iter(range(1 << 62))
        while _sweep(top, top, moves):
            pass  # each round takes one level off
    finally:
        os.close(top)
    try:
        folder.rmdir()
    except OSError as error:
        log.warning("a folder could not be removed", extra={"folder": str(folder), "error": str(error)})


def _sweep(top: int, fd: int, moves: Iterator[int]) -> bool:
    """Remove what is in `fd`; folders in folders are moved to the top, for the next round. Whether anything
    was done."""
    done = False
    with os.scandir(fd) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=fd)
                elif fd == top:
                    done = _empty(top, entry.name, moves) or done
                    os.rmdir(entry.name, dir_fd=fd)
                else:
                    os.chmod(entry.name, 0o700, dir_fd=fd)  # a folder that is moved must be writable itself
                    os.rename(entry.name, _free_name(top, moves), src_dir_fd=fd, dst_dir_fd=top)
                done = True
    return done


def _empty(top: int, name: str, moves: Iterator[int]) -> bool:
    os.chmod(name, 0o700, dir_fd=top)
    fd = os.open(name, _FOLDER, dir_fd=top)
    try:
        return _sweep(top, fd, moves)
    finally:
        os.close(fd)


def _free_name(top: int, moves: Iterator[int]) -> str:
    """A folder that is there already would be replaced by the one that is moved, if it were empty; one that
    is not would stop it."""
    while True:
        name = f"moved-{next(moves)}"
        try:
            os.stat(name, dir_fd=top, follow_symlinks=False)
        except FileNotFoundError:
            return name
