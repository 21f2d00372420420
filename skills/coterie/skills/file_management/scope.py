"""Which paths may be touched, and how they are opened so that no link leads out of them.

A path is walked one name at a time, from a descriptor of the allowed folder, never following a link: nothing
that another process changes meanwhile can lead elsewhere."""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from coterie.skills.errors import NonRetryable, SkillError
from coterie.skills.file_management.request import AllowedPath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE})


class Refused(NonRetryable):
    """The operation cannot be done, and could not later; `code` says why."""

    code = "NOT_ALLOWED"


@dataclass(frozen=True, slots=True)
class Place:
    """A path inside an allowed folder. No parts: the folder itself."""

    root: str
    parts: tuple[str, ...]

    @property
    def path(self) -> str:
        """As it is shown: with a ? for each byte of a name that is no UTF-8."""
        return os.path.join(self.root, *self.parts).encode("utf-8", "replace").decode()


class Scope:
    """The allowed folders, in the operator's order, and what is left of them for an agent."""

    def __init__(self, allowed: Sequence[AllowedPath], agent: Mapping[str, Any] | None = None) -> None:
        self._roots = [(os.path.normpath(one.path), os.path.realpath(one.path), one.write) for one in allowed]
        self._agent: Sequence[str] | None = None
        if agent is not None:
            self._agent = (agent["paths"] or None) if agent["file_access"] else ()

    @property
    def roots(self) -> list[dict[str, Any]]:
        """What may be touched."""
        return [{"path": real, "kind": "folder", "write": write} for _, real, write in self._roots]

    def place(self, path: str, *, write: bool = False, whole: bool = False) -> Place:
        """Where `path` is. `whole`: it is to go with all that is in it. Raises Refused."""
        if "\0" in path:
            raise Refused(f"{path!r} has a null character in it")
        if ".." in path.split("/"):
            raise Refused(f"{path}: '..' is refused; write the path without it")
        found = self._find(os.path.normpath(path or "."))
        if found is None:
            folders = ", ".join(real for _, real, _ in self._roots)
            raise Refused(f"{path}: is outside of the allowed folders: {folders}")
        place, writable = found
        if write and not writable:
            raise Refused(f"{path}: may be read, not changed; the operator allows that with write: true")
        if write and not place.parts:
            raise Refused(f"{path}: is an allowed folder itself; only what is in it may be changed")
        inside = [real for _, real, _ in self._roots if _below(real, place.path)] if whole else []
        if inside:
            raise Refused(
                f"{path}: holds the allowed folder {inside[0]}; only what is beside it may be changed"
            )
        if self._agent is not None and not any(_within(place.path, one) for one in self._agent):
            raise Refused(f"{path}: the agent may not touch it (agent.permissions.file_access)")
        return place

    def _find(self, path: str) -> tuple[Place, bool] | None:
        """In the innermost of the folders that hold it."""
        if not path.startswith("/"):
            path = os.path.normpath(os.path.join(self._roots[0][1], path))
        best: tuple[Place, bool] | None = None
        for written, real, write in self._roots:
            for root in (written, real):
                rest = _below(path, root)
                if rest is not None and (best is None or len(rest) < len(best[0].parts)):
                    best = Place(real, rest), write
        return best


def _below(path: str, root: str) -> tuple[str, ...] | None:
    if path == root:
        return ()
    prefix = root.rstrip("/") + "/"
    return tuple(path[len(prefix) :].split("/")) if path.startswith(prefix) else None


def _within(path: str, allowed: str) -> bool:
    """An agent's path is a folder, also written as /folder/*, or a glob over whole paths."""
    start = allowed.rstrip("*").rstrip("/") or "/"
    if any(sign in start for sign in "*?["):
        return fnmatch.fnmatchcase(path, allowed)
    return _below(path, os.path.realpath(start)) is not None


@contextmanager
def folder(place: Place) -> Iterator[int]:
    """A descriptor of the folder. Raises Refused, OSError."""
    fd = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for depth, part in enumerate(place.parts, start=1):
            inner = _enter(fd, part, Place(place.root, place.parts[:depth]))
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


@contextmanager
def parent(place: Place) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder that holds it, and its name there. Raises Refused, OSError."""
    with folder(Place(place.root, place.parts[:-1])) as fd:
        yield fd, place.parts[-1]


@contextmanager
def opened(place: Place) -> Iterator[int]:
    """A descriptor of a regular file, for reading. Raises Refused, OSError."""
    if not place.parts:
        raise Refused(f"{place.path}: is a folder, no file", code="NOT_A_FILE")
    with parent(place) as (fd, name):
        file = open_file(fd, name, place)
    try:
        yield file
    finally:
        os.close(file)


def open_file(fd: int, name: str, place: Place) -> int:
    """The same for a name in an open folder. A pipe or device is refused without waiting for it."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(place) from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise Refused(f"{place.path}: is no file", code="NOT_A_FILE")
    return file


def look(place: Place) -> os.stat_result:
    """What is there, a link itself included. Raises Refused, OSError."""
    if not place.parts:
        with folder(place) as fd:
            return os.fstat(fd)
    with parent(place) as (fd, name):
        return os.stat(name, dir_fd=fd, follow_symlinks=False)


def kind_of(mode: int) -> str:
    """file, folder, link or other."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


def _enter(fd: int, name: str, place: Place) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise _link(place) from error
            raise Refused(f"{place.path}: is no folder", code="NOT_A_FOLDER") from error
        raise


def _link(place: Place) -> Refused:
    return Refused(f"{place.path}: is a symbolic link; they are not followed")


def as_skill_error(error: OSError, path: str) -> SkillError:
    """What the system says, as an error of the skill."""
    said = f"{path}: {error.strerror}"
    if error.errno in _FULL:
        return SkillError(said, code="DISK_FAILED")  # a later attempt may find room
    codes = {
        errno.ENOENT: "NOT_FOUND",
        errno.EEXIST: "EXISTS",
        errno.ENOTEMPTY: "NOT_EMPTY",
        errno.EACCES: "NOT_ALLOWED",
        errno.EPERM: "NOT_ALLOWED",
        errno.EROFS: "NOT_ALLOWED",
        errno.ENOTDIR: "NOT_A_FOLDER",
        errno.EISDIR: "NOT_A_FILE",
        errno.EXDEV: "OTHER_DISK",
        errno.ENAMETOOLONG: "BAD_INPUT",
    }
    return Refused(said, code=codes.get(error.errno or 0, "FILE_ERROR"))
