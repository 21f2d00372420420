"""Totals, folders and top lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

Document = Mapping[str, Any]
Documents = Sequence[Document]
Row = dict[str, Any]

TOP_MAX = 15
MARKERS_SHOWN_MAX = 25
FOLDERS_MAX = 25
# A module with fewer things to document says little about habits.
DOCUMENTABLE_MIN = 10
_PRESSING = {"FIXME": 0, "BUG": 1, "HACK": 2, "XXX": 3, "TODO": 4}


def totals(documents: Documents) -> Row:
    """Sums over everything."""
    code = [document["code"] for document in documents if is_code(document)]
    documentable = sum(metrics["documentable"] for metrics in code)
    functions = sum(metrics["functions"] for metrics in code)
    return {
        "documents": len(documents),
        "kinds": _sorted_counts(Counter(document["kind"] for document in documents)),
        "languages": _sorted_counts(Counter(document["words"]["language"] for document in documents)),
        **{key: sum(document[key] for document in documents) for key in ("bytes", "lines", "blank_lines")},
        "comment_lines": sum(document["comment_lines"] for document in documents),
        "words": sum(document["words"]["words"] for document in documents),
        "sentences": sum(document["words"]["sentences"] for document in documents),
        "functions": functions,
        "classes": sum(metrics["classes"] for metrics in code),
        "complexity_mean": _ratio(sum(metrics["complexity_total"] for metrics in code), functions),
        "function_lines_mean": _ratio(sum(metrics["function_lines"] for metrics in code), functions),
        "docstring_coverage": _ratio(sum(metrics["documented"] for metrics in code), documentable),
        "unparsed": sorted(document["path"] for document in documents if _is_unparsed(document)),
        "markers": _sorted_counts(_marker_counts(documents)),
    }


def rank(documents: Documents) -> Row:
    """The top lists and the folders."""
    return {
        "most_complex": _functions(documents, "most_complex", "complexity"),
        "longest": _functions(documents, "longest", "lines"),
        "hardest_to_read": _hardest(documents),
        "largest_vocabulary": _top(documents, lambda document: document["words"]["vocabulary"], "vocabulary"),
        "most_markers": _top(documents, marker_count, "markers"),
        "deepest": _top(documents, lambda document: _code(document, "nesting_max"), "nesting"),
        "least_documented": _least_documented(documents),
        "markers": _pressing_markers(documents),
        "folders": _folders(documents),
    }


def is_code(document: Document) -> bool:
    """True for source whose syntax tree was measured."""
    return bool(document.get("code", {}).get("parsed"))


def marker_count(document: Document) -> int:
    """TODO, FIXME and the like in one document."""
    return sum(document["markers"]["counts"].values())


def _is_unparsed(document: Document) -> bool:
    return "code" in document and not document["code"]["parsed"]


def _code(document: Document, key: str) -> int:
    return int(document["code"][key]) if is_code(document) else 0


def _marker_counts(documents: Documents) -> Counter[str]:
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(document["markers"]["counts"])
    return counts


def _sorted_counts(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 3) if whole else 0.0


def _functions(documents: Documents, listed: str, key: str) -> list[Row]:
    rows = [
        {"path": document["path"], **function}
        for document in documents
        if is_code(document)
        for function in document["code"][listed]
    ]
    return sorted(rows, key=lambda row: (-row[key], row["path"], row["line"]))[:TOP_MAX]


def _top(documents: Documents, measure: Callable[[Document], int], name: str) -> list[Row]:
    rows = [{"path": document["path"], name: measure(document)} for document in documents]
    ranked = sorted(rows, key=lambda row: (-row[name], row["path"]))
    return [row for row in ranked if row[name] > 0][:TOP_MAX]


def _hardest(documents: Documents) -> list[Row]:
    rows = []
    for document in documents:
        words = document["words"]
        # The formulas were made for English; elsewhere they would rank languages, not texts.
        if words["reading_ease"] is not None and words["language"] == "en":
            keys = ("reading_ease", "grade", "words_per_sentence")
            rows.append({"path": document["path"], **{key: words[key] for key in keys}})
    return sorted(rows, key=lambda row: (row["reading_ease"], row["path"]))[:TOP_MAX]


def _least_documented(documents: Documents) -> list[Row]:
    rows = [
        {
            "path": document["path"],
            "coverage": document["code"]["docstring_coverage"],
            "documentable": document["code"]["documentable"],
        }
        for document in documents
        if is_code(document) and document["code"]["documentable"] >= DOCUMENTABLE_MIN
    ]
    return sorted(rows, key=lambda row: (row["coverage"], -row["documentable"], row["path"]))[:TOP_MAX]


def _pressing_markers(documents: Documents) -> list[Row]:
    rows = [{"path": doc["path"], **marker} for doc in documents for marker in doc["markers"]["first"]]
    rows.sort(key=lambda row: (_PRESSING[row["marker"]], row["path"], row["line"]))
    return rows[:MARKERS_SHOWN_MAX]


def _folders(documents: Documents) -> list[Row]:
    members: dict[str, list[Document]] = {}
    for document in documents:
        parts = PurePosixPath(document["path"]).parts
        members.setdefault("/".join(parts[:2]) if len(parts) > 2 else parts[0], []).append(document)
    rows = [_folder(name, inside) for name, inside in members.items() if len(inside) > 1]
    return sorted(rows, key=lambda row: (-row["lines"], row["folder"]))[:FOLDERS_MAX]


def _folder(name: str, documents: Documents) -> Row:
    code = [document["code"] for document in documents if is_code(document)]
    functions = sum(metrics["functions"] for metrics in code)
    documentable = sum(metrics["documentable"] for metrics in code)
    return {
        "folder": name,
        "documents": len(documents),
        "lines": sum(document["lines"] for document in documents),
        "functions": functions,
        "complexity_mean": _ratio(sum(metrics["complexity_total"] for metrics in code), functions),
        "docstring_coverage": _ratio(sum(metrics["documented"] for metrics in code), documentable),
        "markers": sum(marker_count(document) for document in documents),
    }
