"""The operations that change nothing."""

from __future__ import annotations

import base64
import contextlib
import datetime
import fnmatch
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from coterie.skills.file_management.request import ENTRIES_MAX, MIB, FileRequest, FileSettings
from coterie.skills.file_management.scope import (
    Place,
    Refused,
    folder,
    kind_of,
    look,
    opened,
)
from coterie.skills.jsonio import clip

DEPTH_MAX = 64
LIST_DEFAULT, SEARCH_DEFAULT = 500, 100
LINE_CHARS_MAX = 400
OURS = ".coterie-"  # what a write that is under way is called


def list_folder(place: Place, request: FileRequest, settings: FileSettings) -> dict[str, Any]:
    """What is in a folder, by name."""
    limit = min(request.limit or LIST_DEFAULT, ENTRIES_MAX)
    entries: list[dict[str, Any]] = []
    for at, found in _walk(place, deep=request.recursive):
        if request.pattern and not fnmatch.fnmatchcase(at.parts[-1], request.pattern):
            continue
        if len(entries) >= limit:
            return {"entries": entries, "truncated": True}
        entries.append(_described(at, found))
    return {"entries": entries, "truncated": False}


def info(place: Place, request: FileRequest, settings: FileSettings) -> dict[str, Any]:
    """What is known of a file or folder."""
    found = look(place)
    described = _described(place, found)
    if described["kind"] == "file":
        with opened(place) as fd:
            described["sha256"] = sha256_of(fd)
    return described


def read(place: Place, request: FileRequest, settings: FileSettings) -> dict[str, Any]:
    """A part of a file, at most `readBytesMax`."""
    length = min(request.limit or settings.read_bytes_max, settings.read_bytes_max)
    with opened(place) as fd:
        size = os.fstat(fd).st_size
        data = _read_at(fd, request.offset, length)
    if request.encoding == "utf-8":
        text, used = _text_of(data, place, at_end=request.offset + len(data) >= size)
        if data and not used:
            text = f"limit: {length} bytes hold no whole character of {place.path} here; ask for 4 or more"
            raise Refused(text, code="BAD_INPUT")
    else:
        text, used = base64.b64encode(data).decode(), len(data)
    answer = {"path": place.path, "size": size, "offset": request.offset, "content": text}
    end = request.offset + used
    return {**answer, "next_offset": end} if end < size and used else answer


def search(place: Place, request: FileRequest, settings: FileSettings) -> dict[str, Any]:
    """Lines of text files that hold the query."""
    try:
        wanted = re.compile(request.query if request.regex else re.escape(request.query))
    except re.error as error:
        raise Refused(
            f"query: {request.query!r} is no regular expression: {error}", code="BAD_INPUT"
        ) from error
    limit = min(request.limit or SEARCH_DEFAULT, ENTRIES_MAX)
    matches: list[dict[str, Any]] = []
    searched = skipped = 0
    for at, data in contents(place, request.pattern, settings.search_file_bytes_max):
        if data is None:
            skipped += 1
            continue
        searched += 1
        for number, line in enumerate(data.split("\n"), start=1):
            if wanted.search(line) is None:
                continue
            if len(matches) >= limit:
                return {"matches": matches, "searched": searched, "skipped": skipped, "truncated": True}
            matches.append({"path": at.path, "line": number, "text": clip(line, LINE_CHARS_MAX)})
    return {"matches": matches, "searched": searched, "skipped": skipped, "truncated": False}


def contents(
    place: Place, pattern: str, bytes_max: int, skip: Sequence[str] = ()
) -> Iterator[tuple[Place, str | None]]:
    """The text of each file that is called like `pattern`; None: it is too large, or no text. What is
    called like one of `skip` is left out, folders with all below them."""
    start = look(place)
    found = [(place, start)] if stat.S_ISREG(start.st_mode) else _walk(place, deep=True, skip=skip)
    for at, entry in found:
        if not stat.S_ISREG(entry.st_mode) or (pattern and not fnmatch.fnmatchcase(at.parts[-1], pattern)):
            continue
        yield at, _text_file(at, bytes_max) if entry.st_size <= bytes_max else None


def sha256_of(fd: int) -> str:
    """Of the whole file."""
    digest = hashlib.sha256()
    offset = 0
    while data := os.pread(fd, MIB, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


def _walk(place: Place, *, deep: bool, skip: Sequence[str] = ()) -> Iterator[tuple[Place, os.stat_result]]:
    """Everything in a folder, by name, folders before what is in them. Links are not entered."""
    with folder(place) as fd:
        names = sorted(os.listdir(fd))
        for name in names:
            if name.startswith(OURS) or any(fnmatch.fnmatchcase(name, one) for one in skip):
                continue
            at = Place(place.root, (*place.parts, name))
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone since the folder was read
            yield at, found
            if deep and stat.S_ISDIR(found.st_mode) and len(at.parts) < DEPTH_MAX:
                with contextlib.suppress(Refused, FileNotFoundError, PermissionError):
                    yield from _walk(at, deep=True, skip=skip)


def _text_file(place: Place, bytes_max: int) -> str | None:
    try:
        with opened(place) as fd:
            data = _read_at(fd, 0, bytes_max)
    except (OSError, Refused):
        return None  # gone or replaced since, or not for us to read
    return None if b"\0" in data else data.decode("utf-8", "replace")


def _read_at(fd: int, offset: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length > 0 and (data := os.pread(fd, min(length, MIB), offset)):
        parts.append(data)
        offset, length = offset + len(data), length - len(data)
    return b"".join(parts)


def _text_of(data: bytes, place: Place, *, at_end: bool) -> tuple[str, int]:
    """The text and how many bytes it took: a character that is cut at the end is left for the next part."""
    for cut in range(4):
        used = len(data) - cut
        try:
            return data[:used].decode("utf-8"), used
        except UnicodeDecodeError as error:
            if at_end or error.start < len(data) - 4:
                break
    raise Refused(f"{place.path}: is not UTF-8 text here; ask with encoding base64", code="NOT_TEXT")


def _described(place: Place, found: os.stat_result) -> dict[str, Any]:
    changed = datetime.datetime.fromtimestamp(found.st_mtime, datetime.UTC)
    described = {"path": place.path, "kind": kind_of(found.st_mode)}
    size = {"size": found.st_size} if stat.S_ISREG(found.st_mode) else {}
    return {**described, **size, "modified": changed.isoformat(timespec="seconds")}
