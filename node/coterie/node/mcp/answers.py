"""Answers of tools, as they are recorded."""

from __future__ import annotations

import json
from typing import Any

from coterie.skills.limits import KIB

ANSWER_BYTES_MAX = 4 * 1024 * KIB


def answer_of(result: Any) -> dict[str, Any]:
    """From the library's words."""
    if size_at_least(result.content, ANSWER_BYTES_MAX) or size_at_least(
        result.structured_content, ANSWER_BYTES_MAX
    ):
        return too_long(f"more than {ANSWER_BYTES_MAX}")
    blocks = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in result.content]
    said = {
        "is_error": bool(result.is_error),
        "text": "\n".join(one["text"] for one in blocks if one.get("type") == "text"),
        "content": blocks,
        "structured": result.structured_content,
    }
    return _bounded(said)


def error_of(text: str) -> dict[str, Any]:
    """The tool, or the server, refused in so many words."""
    return _bounded({"is_error": True, "text": text, "content": [], "structured": None})


def too_long(size: str) -> dict[str, Any]:
    problem = f"the answer has {size} bytes; at most {ANSWER_BYTES_MAX} are kept"
    return {"is_error": True, "text": problem, "content": [], "structured": None}


def _bounded(said: dict[str, Any]) -> dict[str, Any]:
    """An answer that can be recorded: whole characters, and not too long."""
    text = json.dumps(said).encode("utf-8", "replace")
    if len(text) > ANSWER_BYTES_MAX:
        return too_long(str(len(text)))
    clean: dict[str, Any] = json.loads(json.dumps(said, ensure_ascii=False).encode("utf-8", "replace"))
    return clean


def size_at_least(value: Any, size: int) -> bool:
    """Whether it has at least so many characters or parts, looked at no further than that."""
    left, seen = [value], 0
    while left and seen < size:
        one = left.pop()
        seen += len(one) if isinstance(one, str | list | dict) else 1
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
        elif hasattr(one, "__dict__"):
            left.append(vars(one))
    return seen >= size
