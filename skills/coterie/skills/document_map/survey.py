"""The first look at a document: what it is, how long, and the structure of prose."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Any

from coterie.skills.document_map import prose, python_code
from coterie.skills.document_map.terms import find_markers

KINDS = ("python", "markdown", "restructuredtext", "text")
HEADINGS_MAX = 15
HEADING_CHARS_MAX = 80
_BY_SUFFIX = {
    ".py": "python",
    ".pyi": "python",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "restructuredtext",
}
_PYTHON_SHEBANG = re.compile(r"#!.*\bpython")
_MARKDOWN_HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", re.MULTILINE)
_UNDERLINED_HEADING = re.compile(r"^(\S[^\n]*)\n([=\-~^\"'*+#])\2{2,}[ \t]*$", re.MULTILINE)
_LINK = re.compile(r"\bhttps?://[^\s<>\"')\]]+")
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")


def detect_kind(path: str, text: str) -> str:
    """One of KINDS, by the extension, else by a shebang line."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    return "python" if _PYTHON_SHEBANG.match(text) else "text"


def prose_of(kind: str, text: str) -> str:
    """What a person reads as sentences: the text itself, or docstrings and comments of a source."""
    if kind != "python":
        return text
    return "\n\n".join([*python_code.docstrings(text), *prose.comment_blocks(text)])


def survey(path: str, text: str, kind: str) -> dict[str, Any]:
    """Size, digest and markers."""
    lines = text.splitlines()
    comments = prose.python_comments(text) if kind == "python" else []
    numbered = [(comment.line, comment.text) for comment in comments]
    if kind != "python":
        numbered = list(enumerate(lines, start=1))
    return {
        "kind": kind,
        "bytes": len(text.encode()),
        "lines": len(lines),
        "blank_lines": sum(1 for line in lines if not line.strip()),
        "comment_lines": len(comments),
        "line_chars_max": max(map(len, lines), default=0),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "markers": find_markers(numbered),
    }


def prose_structure(kind: str, text: str) -> dict[str, Any]:
    """Headings, paragraphs and links of a text that is no code."""
    headings = [match[1] for match in _UNDERLINED_HEADING.finditer(text)]
    if kind == "markdown":
        headings = [match[1] for match in _MARKDOWN_HEADING.finditer(text)]
    paragraphs = [part for part in _PARAGRAPH_BREAK.split(text) if part.strip()]
    return {
        "headings": len(headings),
        "first_headings": [heading.strip()[:HEADING_CHARS_MAX] for heading in headings[:HEADINGS_MAX]],
        "paragraphs": len(paragraphs),
        "paragraph_words_max": max((len(part.split()) for part in paragraphs), default=0),
        "links": len(_LINK.findall(text)),
    }
