"""A skill's files as one string of bytes, the same wherever it is made: its hash names the revision.

COTERIE-BUNDLE 1 \\n | a line of JSON: [[path, bytes, executable], …], sorted by path | the contents in a row
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coterie.skills.registry import MANIFEST_FILE, SKIPPED_FOLDERS

MAGIC = b"COTERIE-BUNDLE 1\n"
FILES_MAX = 256
FILE_BYTES_MAX = 1024 * 1024
BUNDLE_BYTES_MAX = 8 * 1024 * 1024
PATH_CHARS_MAX = 200


class BundleError(Exception):
    """Files that make no bundle, or bytes that are none; the message names the file and the limit."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a bundle."""

    content: bytes
    executable: bool = False


def collect(folder: Path) -> dict[str, File]:
    """The files beneath a skill's folder, without what tools leave there. Raises BundleError."""
    found: dict[str, File] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS and name[0] != ".")
        for name in sorted(names):
            path = Path(place, name)
            inside = path.relative_to(folder).as_posix()
            if name[0] == "." or name.endswith(".pyc"):
                continue
            if path.is_symlink() or not path.is_file():
                raise BundleError(f"{inside}: is no plain file; bundles have no links")
            found[inside] = _read(path, inside)
            if len(found) > FILES_MAX:
                raise BundleError(f"more than {FILES_MAX} files; leave out what the skill does not need")
    return found


def _read(path: Path, inside: str) -> File:
    try:
        status = path.stat()
        if status.st_size > FILE_BYTES_MAX:
            raise BundleError(f"{inside}: {status.st_size} bytes, the limit is {FILE_BYTES_MAX}")
        return File(path.read_bytes(), bool(status.st_mode & 0o100))
    except OSError as error:
        raise BundleError(f"{inside}: {error.strerror}") from error


def pack(files: Mapping[str, File]) -> bytes:
    """The bundle of these files. Raises BundleError."""
    paths = sorted(files)
    _check(files)
    index = [[path, len(files[path].content), files[path].executable] for path in paths]
    line = json.dumps(index, ensure_ascii=True, separators=(",", ":")).encode()
    return b"".join((MAGIC, line, b"\n", *(files[path].content for path in paths)))


def read(bundle: bytes) -> dict[str, File]:
    """The files of a bundle, checked. Raises BundleError."""
    if len(bundle) > BUNDLE_BYTES_MAX + FILES_MAX * (PATH_CHARS_MAX + 64) or not bundle.startswith(MAGIC):
        raise BundleError("not a bundle of a skill")
    line, _, contents = bundle[len(MAGIC) :].partition(b"\n")
    files: dict[str, File] = {}
    at = 0
    try:
        for path, size, executable in json.loads(line):
            if path in files or not isinstance(size, int) or not 0 <= size <= len(contents) - at:
                raise BundleError(f"{path!r}: is there twice, or has no such size")
            files[path] = File(contents[at : at + size], bool(executable))
            at += size
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleError("not a bundle of a skill: its index cannot be read") from error
    _check(files)
    if at != len(contents) or pack(files) != bundle:
        raise BundleError("not a bundle of a skill: it is not in the one form that such files have")
    return files


def revision_of(bundle: bytes) -> str:
    """The name of these files: SHA-256, lower-case hex."""
    return hashlib.sha256(bundle).hexdigest()


def write(files: Mapping[str, File], folder: Path) -> None:
    """Lay the files out in a new folder, for reading only."""
    folder.mkdir(mode=0o755)
    for path, file in files.items():
        target = folder / path
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        target.write_bytes(file.content)
        target.chmod(0o555 if file.executable else 0o444)


def _check(files: Mapping[str, File]) -> None:
    if len(files) > FILES_MAX:
        raise BundleError(f"{len(files)} files, the limit is {FILES_MAX}")
    if MANIFEST_FILE not in files:
        raise BundleError(f"there is no {MANIFEST_FILE} at the top of the skill's folder")
    for path, file in files.items():
        if problem := _path_fault(path):
            raise BundleError(f"{path!r}: {problem}")
        if len(file.content) > FILE_BYTES_MAX:
            raise BundleError(f"{path}: {len(file.content)} bytes, the limit is {FILE_BYTES_MAX}")
    total = sum(len(file.content) for file in files.values())
    if total > BUNDLE_BYTES_MAX:
        raise BundleError(f"{total} bytes in all, the limit is {BUNDLE_BYTES_MAX}")
    parents = {str(parent) for path in files for parent in PurePosixPath(path).parents}
    if both := parents & set(files):
        raise BundleError(f"{min(both)!r}: is a file and a folder")


def _path_fault(path: object) -> str:
    if not isinstance(path, str) or not path or len(path) > PATH_CHARS_MAX:
        return f"a path has 1 to {PATH_CHARS_MAX} characters"
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or any(part in ("", ".", "..") for part in parts):
        return "is not a plain path inside the skill's folder"
    return ""
