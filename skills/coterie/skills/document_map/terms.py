"""What a document is about, and what its authors left to be done: key terms and markers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from coterie.skills.document_map.wordlists import STOP_WORDS

TERMS_MAX = 100
TERM_CHARS_MAX = 32
MARKERS_MAX = 20
MARKER_TEXT_CHARS_MAX = 100

# Names in code are split where their authors joined them: read_file, readFile, HTTPServer.
_NAME_PART = re.compile(r"[A-Z]+(?![a-z])|[^\W\d_]?[^\W\d_A-Z]+")
_MARKER = re.compile(r"\b(TODO|FIXME|XXX|HACK|BUG)\b(?!-)")


def count_terms(text: str) -> Counter[str]:
    """How often each term occurs: lower case, at least three letters, no stop words."""
    parts = Counter(_NAME_PART.findall(text))
    terms: Counter[str] = Counter()
    for part, count in parts.items():
        term = part.lower()
        if 3 <= len(term) <= TERM_CHARS_MAX and term not in STOP_WORDS:
            terms[term] += count
    return terms


def key_terms(text: str) -> dict[str, Any]:
    """The TERMS_MAX most frequent terms with their counts (ties by name), and how many there are in all."""
    terms = count_terms(text)
    ranked = sorted(terms.items(), key=lambda item: (-item[1], item[0]))
    return {"total": sum(terms.values()), "distinct": len(terms), "top": dict(ranked[:TERMS_MAX])}


def find_markers(lines: Iterable[tuple[int, str]]) -> dict[str, Any]:
    """Markers in numbered lines: how many of each, and the first MARKERS_MAX with their text."""
    counts: Counter[str] = Counter()
    first: list[dict[str, Any]] = []
    for number, line in lines:
        match = _MARKER.search(line)
        if match is None:
            continue
        counts[match[1]] += 1
        if len(first) < MARKERS_MAX:
            text = line[match.start() :].strip()
            first.append({"line": number, "marker": match[1], "text": text[:MARKER_TEXT_CHARS_MAX]})
    return {"counts": dict(sorted(counts.items())), "first": first}
