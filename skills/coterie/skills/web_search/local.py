"""A full-text index in one file, by SQLite's FTS5. Works without any network.

FTS5 cuts text where spaces are. Characters of languages that are written without spaces become words of their
own; a query of several of them asks for them side by side.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from coterie.skills.errors import NonRetryable, SkillError
from coterie.skills.web_search.request import Document

BUSY_S = 20.0
SNIPPET_TOKENS = 40
TITLE_WEIGHT = 5.0
_DENSE = (  # kana, Han, Hangul, and their punctuation
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\u3000-\u303f\uff00-\uffef"
)
_ONE_DENSE = re.compile(f"([{_DENSE}])")
_BETWEEN_DENSE = re.compile(f"(?<=[{_DENSE}]) (?=[{_DENSE}])")
_PARTS = re.compile(r'"([^"]+)"|(\S+)')
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (id TEXT PRIMARY KEY, url TEXT NOT NULL, title TEXT NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    id UNINDEXED, title, text, tokenize = 'unicode61 remove_diacritics 2');
"""


class NoIndex(NonRetryable):
    """There is no index yet, or its file is something else."""

    code = "NO_INDEX"


class IndexBusy(SkillError):
    """The index cannot be written for now."""

    code = "INDEX_BUSY"


def add(path: Path, documents: Sequence[Document]) -> int:
    """Put documents in, in place of those with the same ids, of which the last counts. How many the index has
    then."""
    latest = {document.id: document for document in documents}
    with _opened(path, write=True) as index:
        index.executescript(_SCHEMA)
        with index:
            _drop(index, list(latest))
            for document in latest.values():
                index.execute(
                    "INSERT INTO documents VALUES (?, ?, ?)", (document.id, document.url, document.title)
                )
                words = (document.id, _spaced(document.title), _spaced(document.text))
                index.execute("INSERT INTO words VALUES (?, ?, ?)", words)
        return _count(index)


def remove(path: Path, ids: Sequence[str]) -> int:
    """Take documents out. How many the index has then."""
    with _opened(path, write=True) as index, index:
        _drop(index, ids)
        return _count(index)


def search(path: Path, query: str, limit: int) -> list[dict[str, Any]]:
    """Documents with all words of the query, else those with any, the best first (BM25)."""
    asked = _terms(query)
    if not asked:
        return []
    with _opened(path, write=False) as index:
        for joint in (" AND ", " OR "):
            rows = index.execute(
                "SELECT d.id, d.title, d.url, snippet(words, 2, '', '', ' … ', ?) FROM words"
                " JOIN documents d ON d.id = words.id WHERE words MATCH ?"
                " ORDER BY bm25(words, 0, ?, 1), d.id LIMIT ?",
                (SNIPPET_TOKENS, joint.join(asked), TITLE_WEIGHT, limit),
            ).fetchall()
            if rows:
                break
    return [
        {"id": key, "title": title, "url": url, "snippet": _joined(snippet)}
        for key, title, url, snippet in rows
    ]


@contextmanager
def _opened(path: Path, *, write: bool) -> Iterator[sqlite3.Connection]:
    mode = "rwc" if write else "ro"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_S)) as index:
            if write:
                index.execute("PRAGMA journal_mode = WAL")
            yield index
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise IndexBusy(f"{path}: {error}") from error
        raise NoIndex(f"{path}: {error}; add documents first, in a folder that is there") from error
    except sqlite3.DatabaseError as error:
        raise NoIndex(f"{path}: is no index: {error}") from error


def _drop(index: sqlite3.Connection, ids: Sequence[str]) -> None:
    """The words have no index of ids: all are looked at, once for all ids, and only where some are there."""
    given = (json.dumps(list(ids)),)
    gone = index.execute("DELETE FROM documents WHERE id IN (SELECT value FROM json_each(?))", given)
    if gone.rowcount:
        index.execute("DELETE FROM words WHERE id IN (SELECT value FROM json_each(?))", given)


def _count(index: sqlite3.Connection) -> int:
    return int(index.execute("SELECT count(*) FROM documents").fetchone()[0])


def _terms(query: str) -> list[str]:
    """Each as a quoted string of FTS5's language, so that nothing in it is an operator."""
    found = (phrase or word for phrase, word in _PARTS.findall(query))
    spaced = (_spaced(one).replace('"', " ").replace("\0", " ").strip() for one in found)
    return [f'"{one}"' for one in spaced if any(char.isalnum() for char in one)]


def _spaced(text: str) -> str:
    return " ".join(_ONE_DENSE.sub(r" \1 ", text).split())


def _joined(text: str) -> str:
    return _BETWEEN_DENSE.sub("", text)
