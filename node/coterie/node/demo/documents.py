"""Which files the demo reads: text and source files, chosen the same way every time."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FILE_BYTES_MAX = 1024 * 1024
LIBRARY_SUFFIXES = frozenset({".py", ".txt", ".md", ".rst"})
_MORE_ENDINGS = """
    pyi markdown toml cfg ini yaml yml proto sh c h cc cpp hpp js ts
    jsx tsx go rs java rb html css sql tex adoc
"""
FOLDER_SUFFIXES = LIBRARY_SUFFIXES | frozenset(f".{ending}" for ending in _MORE_ENDINGS.split())
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "node_modules", "venv"})
FILES_SEEN_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Source:
    """A folder to read. `prefix` goes before its paths; documents of a `required` one survive the limit."""

    root: Path
    label: str
    suffixes: frozenset[str]
    prefix: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """One file: the path it is called by, and its text."""

    path: str
    text: str


@dataclass(slots=True)
class Choice:
    """What will be read, and how many files were left out for which reason."""

    documents: list[Document] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    labels: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(len(document.text.encode()) for document in self.documents)


def default_sources() -> list[Source]:
    """The standard library of this Python, and the documentation of this checkout when it is one."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = [Source(library, f"the standard library of Python in {library}", LIBRARY_SUFFIXES)]
    checkout = Path(__file__).resolve().parents[4]
    if (checkout / "pyproject.toml").is_file():
        prose = frozenset({".md"})
        sources.insert(0, Source(checkout, "Coterie's own documentation", prose, "coterie/", required=True))
    return sources


def folder_source(path: Path) -> Source:
    """A folder the user names."""
    return Source(path.resolve(), str(path), FOLDER_SUFFIXES)


def choose_documents(sources: list[Source], limit: int) -> Choice:
    """At most `limit` documents in order of their paths.

    When there are more, those with the smallest hash of their path are taken: an even sample over all
    folders, and the same one on every run. Files that are empty, above FILE_BYTES_MAX, binary or no UTF-8
    are left out and counted.
    """
    choice = Choice(labels=[source.label for source in sources])
    candidates = [
        (not source.required, hashlib.sha256(name.encode(errors="replace")).digest(), name, file)
        for source in sources
        for name, file in _files(source)
    ]
    for _, _, name, file in sorted(candidates):
        if len(choice.documents) == limit:
            choice.skipped["beyond the limit"] += 1
            continue
        text = _read(file, choice.skipped)
        if text is not None:
            choice.documents.append(Document(name, text))
    choice.documents.sort(key=lambda document: document.path)
    return choice


def _files(source: Source) -> Iterator[tuple[str, Path]]:
    seen = 0
    for folder, subfolders, names in os.walk(source.root):
        subfolders[:] = sorted(n for n in subfolders if n not in SKIPPED_FOLDERS and not n.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in source.suffixes and not name.startswith("."):
                file = Path(folder, name)
                yield source.prefix + file.relative_to(source.root).as_posix(), file
                seen += 1
        if seen > FILES_SEEN_MAX:
            return


def _read(file: Path, skipped: Counter[str]) -> str | None:
    """The text of a file; None, and the reason counted, when it is no text we can send."""
    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except OSError:
        skipped["not readable"] += 1
        return None
    if not data.strip():
        skipped["empty"] += 1
        return None
    if len(data) > FILE_BYTES_MAX:
        skipped["above 1 MiB"] += 1
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        skipped["not UTF-8"] += 1
        return None
    if "\0" in text:
        skipped["binary"] += 1
        return None
    return text
