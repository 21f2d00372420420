"""Reading a backup file: every byte is checked, and what is wrong is told with its place. Blocks."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from coterie.node.backup.manifest import (
    HEAD,
    MANIFEST,
    SEAL,
    BadBackup,
    Entry,
    Head,
    Manifest,
    read_head,
    read_manifest,
)

_BLOCK: Final = tarfile.BLOCKSIZE
_READ_BYTES: Final = 1 << 20
_HEAD_BYTES_MAX: Final = 1 << 20
MEMBER_BYTES_MAX: Final = 1 << 31
REMEDY: Final = "Remedy: use another copy of this backup, or another backup"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member's content stands in the file."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Archive:
    """A backup whose every byte is as it was written."""

    path: Path
    manifest: Manifest
    places: tuple[Place, ...]

    @property
    def head(self) -> Head:
        return self.manifest.head

    def below(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """The members whose names begin so, without that beginning, with their content."""
        with self.path.open("rb") as file:
            for place in self.places:
                if place.name.startswith(prefix):
                    file.seek(place.offset)
                    yield place.name.removeprefix(prefix), file.read(place.size)

    def names(self, prefix: str) -> list[str]:
        return [place.name.removeprefix(prefix) for place in self.places if place.name.startswith(prefix)]


def open_archive(path: Path, heard: Callable[[int], None] = lambda done_bytes: None) -> Archive:
    """Read the whole file. Raises BadBackup, and OSError where it cannot be read."""
    with path.open("rb") as file:
        _require_head(file, path)
        found: list[tuple[Place, str]] = []
        for place in _places(file, path):
            found.append((place, _digest(file, path, place)))
            heard(file.tell())
        return _checked(file, path, found)


def _require_head(file: BinaryIO, path: Path) -> None:
    """A version that is not known here is told as such, whatever else there is."""
    first = next(_places(file, path), None)
    if first is None or first.name != HEAD:
        raise BadBackup(
            f"{path}: it does not begin with {HEAD}, so it is no backup. Remedy: name another file"
        )
    if first.size > _HEAD_BYTES_MAX:
        raise BadBackup(_damaged(path, 0, f"{HEAD} says that it has {first.size} bytes"))
    file.seek(first.offset)
    read_head(file.read(first.size), f"{path}: {HEAD}, at byte {first.offset}")


def _places(file: BinaryIO, path: Path) -> Iterator[Place]:
    """The members in order, up to the end mark. Raises BadBackup where no member begins."""
    position = 0
    size = path.stat().st_size
    while True:
        file.seek(position)
        raw = file.read(_BLOCK)
        if raw == bytes(_BLOCK):
            _require_end(file, path, position)
            return
        try:
            info = tarfile.TarInfo.frombuf(raw, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeError, ValueError) as error:
            raise BadBackup(_damaged(path, position, f"no member begins here ({error})")) from error
        if not 0 <= info.size <= MEMBER_BYTES_MAX or not info.isreg():
            raise BadBackup(_damaged(path, position, f"a member {info.name!r} of {info.size} bytes"))
        offset = position + _BLOCK
        if offset + info.size > size:
            text = f"the file ends at {size}, within {info.name}, which goes to {offset + info.size}"
            raise BadBackup(_damaged(path, position, text))
        yield Place(info.name, offset, info.size)
        position = offset + info.size + -info.size % _BLOCK


def _require_end(file: BinaryIO, path: Path, position: int) -> None:
    file.seek(position)
    if file.read(2 * _BLOCK + 1) != bytes(2 * _BLOCK):
        raise BadBackup(_damaged(path, position, "the end mark is not what it was"))


def _digest(file: BinaryIO, path: Path, place: Place) -> str:
    digest, left = hashlib.sha256(), place.size
    file.seek(place.offset)
    while left:
        data = file.read(min(left, _READ_BYTES))
        if not data:
            raise BadBackup(_damaged(path, place.offset, f"{place.name} cannot be read to its end"))
        digest.update(data)
        left -= len(data)
    padding = file.read(-place.size % _BLOCK)
    if padding.strip(b"\0"):
        raise BadBackup(_damaged(path, place.offset + place.size, f"there are bytes behind {place.name}"))
    return digest.hexdigest()


def _checked(file: BinaryIO, path: Path, found: list[tuple[Place, str]]) -> Archive:
    by_name = {place.name: (place, digest) for place, digest in found}
    manifest = _manifest(file, path, by_name)
    for entry in manifest.members:
        if entry.name not in by_name:
            raise BadBackup(f"{path}: {entry.name} is missing, which {MANIFEST} names. {REMEDY}")
        _compare(path, entry, *by_name[entry.name])
    listed = {entry.name for entry in manifest.members} | {MANIFEST, SEAL}
    for place, _ in found:
        if place.name not in listed:
            raise BadBackup(_damaged(path, place.offset, f"{place.name} is in no {MANIFEST}"))
    return Archive(path, manifest, tuple(place for place, _ in found))


def _manifest(file: BinaryIO, path: Path, by_name: dict[str, tuple[Place, str]]) -> Manifest:
    for name in (MANIFEST, SEAL):
        if name not in by_name:
            raise BadBackup(f"{path}: {name} is missing: the backup was cut off. {REMEDY}")
    place, digest = by_name[MANIFEST]
    seal, _ = by_name[SEAL]
    file.seek(seal.offset)
    if file.read(seal.size).strip() != digest.encode():
        span = f"bytes {place.offset} to {place.offset + place.size}, or {SEAL}, at byte {seal.offset}"
        raise BadBackup(f"{path} is damaged: {MANIFEST}, {span}, is not what was written. {REMEDY}")
    file.seek(place.offset)
    return read_manifest(file.read(place.size), f"{path}: {MANIFEST}, at byte {place.offset}")


def _compare(path: Path, entry: Entry, place: Place, digest: str) -> None:
    if (entry.size, entry.sha256) != (place.size, digest):
        text = f"{entry.name}, bytes {place.offset} to {place.offset + place.size}, is not what was written"
        raise BadBackup(_damaged(path, place.offset, text))


def _damaged(path: Path, offset: int, text: str) -> str:
    return f"{path} is damaged at byte {offset}: {text}. {REMEDY}"
