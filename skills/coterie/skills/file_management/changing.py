"""The operations that change something. Called again with the same effect, each finds what was done."""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from coterie.skills.decisions import Effect
from coterie.skills.errors import SkillError, TooLarge
from coterie.skills.file_management.reading import OURS, sha256_of
from coterie.skills.file_management.request import MIB, FileRequest, FileSettings
from coterie.skills.file_management.scope import (
    Place,
    Refused,
    as_skill_error,
    folder,
    kind_of,
    look,
    opened,
    parent,
)

Change = Callable[[Effect], dict[str, Any]]
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})


def settled(change: Change, path: str) -> Callable[[Effect], dict[str, Any]]:
    """The change with refusals as answers, so that they are recorded; what may end otherwise is raised."""

    def run(effect: Effect) -> dict[str, Any]:
        try:
            return change(effect)
        except OSError as error:
            said: SkillError = as_skill_error(error, path)
            if not isinstance(said, Refused):
                raise said from error
        except (Refused, TooLarge) as error:
            said = error
        return {"refused": str(said), "code": said.code}

    return run


def content_of(request: FileRequest, settings: FileSettings) -> bytes:
    """The bytes to be written. Raises Refused, TooLarge."""
    given = request.content or ""
    try:
        data = given.encode() if request.encoding == "utf-8" else base64.b64decode(given, validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Refused(f"content: not {request.encoding}: {error}", code="BAD_INPUT") from error
    if len(data) > settings.write_bytes_max:
        raise TooLarge(f"content: {len(data)} bytes, the limit is {settings.write_bytes_max}")
    return data


def write(place: Place, data: bytes, overwrite: bool, effect: Effect) -> dict[str, Any]:
    """The whole file or nothing."""
    return _put(place, [data], overwrite, effect)


def copy(place: Place, to: Place, overwrite: bool, bytes_max: int, effect: Effect) -> dict[str, Any]:
    """A file of the same content."""
    with opened(place) as fd:
        size = os.fstat(fd).st_size
        if size > bytes_max:
            raise TooLarge(f"{place.path}: {size} bytes, the limit is {bytes_max}")
        return _put(to, _parts(fd, place, bytes_max), overwrite, effect)


def _parts(fd: int, place: Place, bytes_max: int) -> Iterator[bytes]:
    """The content, of a file that may grow meanwhile."""
    while part := os.read(fd, MIB):
        bytes_max -= len(part)
        if bytes_max < 0:
            raise TooLarge(f"{place.path}: grew beyond the limit while it was copied")
        yield part


def make_folder(place: Place, effect: Effect) -> dict[str, Any]:
    """The folder and those above it."""
    for depth in range(1, len(place.parts) + 1):
        at = Place(place.root, place.parts[:depth])
        with parent(at) as (fd, name), contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=fd)
    with folder(place):
        return {"path": place.path, "kind": "folder"}


def identity(place: Place) -> list[int]:
    """What tells a file or folder from every other, under whatever name."""
    found = look(place)
    return [found.st_dev, found.st_ino]


def move(place: Place, to: Place, was: list[int], overwrite: bool, effect: Effect) -> dict[str, Any]:
    """The same file or folder under another name. `was`: its identity before the first try."""
    answer = {"path": to.path, "from": place.path}
    if effect.tries > 1 and _identity(to) == was:
        _drop_old_name(place, was)
        return answer
    if to.parts[: len(place.parts)] == place.parts and to.root == place.root:
        raise Refused(f"{to.path}: is {place.path} or in it", code="BAD_INPUT")
    with parent(place) as (source, name), parent(to) as (target, new):
        kind = kind_of(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode)
        if kind == "link":
            raise Refused(f"{place.path}: is a symbolic link; delete it, or move what it points to")
        if kind != "file" or overwrite:
            _check_free(target, new, to, overwrite and kind == "file")
            os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
        else:
            _link_new(source, name, target, new, to)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=source)
        os.fsync(target)
        os.fsync(source)
    return answer


def delete(place: Place, recursive: bool, effect: Effect) -> dict[str, Any]:
    """A file, a link itself, or a folder."""
    with parent(place) as (fd, name):
        try:
            kind = kind_of(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            if effect.tries > 1:
                return {"path": place.path, "deleted": True}
            raise
        if kind != "folder":
            os.unlink(name, dir_fd=fd)
        elif recursive:
            shutil.rmtree(name, dir_fd=fd)
        else:
            os.rmdir(name, dir_fd=fd)
        os.fsync(fd)
    return {"path": place.path, "deleted": True, "kind": kind}


def _put(place: Place, parts: Iterable[bytes], overwrite: bool, effect: Effect) -> dict[str, Any]:
    """Write beside the place, bring it to the disk, then give it its name: others see all or nothing."""
    with parent(place) as (fd, name):
        mark = f"{OURS}{hashlib.sha256(effect.key.encode()).hexdigest()[:20]}-"
        for left in os.listdir(fd):
            if left.startswith(mark):  # of an attempt that did not come to its end
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(left, dir_fd=fd)
        temporary = f"{mark}{effect.attempt}"
        try:
            size, digest = _fill(fd, temporary, parts, _mode(fd, name))
            if overwrite:
                _check_free(fd, name, place, True)
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            elif not (effect.tries > 1 and _holds(place, digest)):
                _link_new(fd, temporary, fd, name, place)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=fd)
        os.fsync(fd)
    return {"path": place.path, "bytes": size, "sha256": digest}


def _fill(fd: int, name: str, parts: Iterable[bytes], mode: int | None) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    file = os.open(
        name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=fd
    )
    try:
        if mode is not None:
            os.fchmod(file, mode)
        for part in parts:
            digest.update(part)
            size += len(part)
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)
    return size, digest.hexdigest()


def _mode(fd: int, name: str) -> int | None:
    """That of the file which is replaced."""
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    return stat.S_IMODE(found) & 0o777 if stat.S_ISREG(found) else None


def _link_new(source: int, old: str, target: int, new: str, place: Place) -> None:
    """A second name, which must be free; where the disk has no second names it is looked at first."""
    try:
        os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError as error:
        raise _exists(place) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _check_free(target, new, place, False)
        os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)


def _check_free(fd: int, name: str, place: Place, overwrite: bool) -> None:
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not overwrite:
        raise _exists(place)
    if not stat.S_ISREG(found):
        raise Refused(f"{place.path}: is a {kind_of(found)}; only files are replaced", code="EXISTS")


def _exists(place: Place) -> Refused:
    return Refused(f"{place.path}: is there already; set overwrite: true to replace a file", code="EXISTS")


def _holds(place: Place, digest: str) -> bool:
    try:
        with opened(place) as fd:
            return sha256_of(fd) == digest
    except (FileNotFoundError, Refused):
        return False


def _identity(place: Place) -> list[int] | None:
    try:
        return identity(place)
    except (FileNotFoundError, Refused):
        return None


def _drop_old_name(place: Place, was: list[int]) -> None:
    """An attempt that died may have given the file its new name and not taken the old one away."""
    if _identity(place) == was:
        with parent(place) as (fd, name), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)
