"""References in texts: `{{ spec.title }}`, `{{ rows[0]["unit price"] }}`, `{{ a | b | "neither" }}`.

A reference is a path, or alternatives of which the first that is there counts; a JSON literal is always
there. A text that is nothing but one reference keeps the value's type; inside a longer text the value is
written out. What was put in is never looked at again: values cannot bring references."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from coterie.core.graph.evaluate import MISSING, WEIGHT_STEP_BITS, Meter, Scope, member
from coterie.core.graph.values import (
    FILLED_BYTES_MAX,
    VALUE_BYTES_MAX,
    ValueFault,
    read_json,
    weight,
    written,
)
from coterie.core.shown import shown

OPEN, CLOSE = "{{", "}}"
PARTS_MAX = 40
KNOWN_CHARS_MAX, KNOWN_REFS_MAX = 4_000, 40  # of a text whose references are remembered
_NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
_PATH = re.compile(rf"(?P<name>{_NAME})(?P<parts>(?:\.{_NAME}|\[(?:-?[0-9]{{1,9}}|\"(?:[^\"\\]|\\.)*\")\])*)")
_PART = re.compile(rf"\.({_NAME})|\[(-?[0-9]+|\"(?:[^\"\\]|\\.)*\")\]")
_HALF = re.compile("[\ud800-\udfff]")
_HOLE = re.compile(r"\{\{((?:[^{}\"]|\"(?:[^\"\\]|\\.)*\"|\{(?!\{)|\}(?!\}))*)\}\}")


@dataclass(frozen=True, slots=True)
class Path:
    """A name and the way into its value."""

    name: str
    parts: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    json: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Alternatives: the first that is there."""

    options: tuple[Path | Constant, ...]

    @property
    def needed(self) -> bool:
        """Whether one of its paths must be there."""
        return not any(isinstance(option, Constant) for option in self.options)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(option for option in self.options if isinstance(option, Path))


def parse_text(text: str) -> tuple[str | Ref, ...]:
    """The text as pieces and references. Raises ValueFault BAD_REFERENCE."""
    small = len(text) <= KNOWN_CHARS_MAX and text.count(OPEN) <= KNOWN_REFS_MAX
    return _known(text) if small else _parsed(text)


@lru_cache(maxsize=4_096)
def _known(text: str) -> tuple[str | Ref, ...]:
    return _parsed(text)


def _parsed(text: str) -> tuple[str | Ref, ...]:
    pieces: list[str | Ref] = []
    at = 0
    while (start := text.find(OPEN, at)) >= 0:
        hole = _HOLE.match(text, start)
        if hole is None:
            raise ValueFault(
                "BAD_REFERENCE", f"{shown(text[start : start + 60])}: a reference is {{{{ name.path }}}}"
            )
        if start > at:
            pieces.append(text[at:start])
        pieces.append(_ref(hole[1]))
        at = hole.end()
    if at < len(text):
        pieces.append(text[at:])
    return tuple(pieces)


def _ref(inside: str) -> Ref:
    options = tuple(_option(option.strip()) for option in _alternatives(inside))
    if any(isinstance(option, Constant) for option in options[:-1]):
        raise ValueFault(
            "BAD_REFERENCE", f"{shown(inside.strip())}: what follows a constant is never reached"
        )
    return Ref(options)


def _alternatives(inside: str) -> list[str]:
    """Split at bars outside of quotes."""
    return [match[0] for match in re.finditer(r'(?:[^|"]|"(?:[^"\\]|\\.)*")+', inside)] or [""]


def _option(text: str) -> Path | Constant:
    path = _PATH.fullmatch(text)
    if path is not None and text not in ("true", "false", "null"):
        parts = tuple(_part(match) for match in _PART.finditer(path["parts"]))
        if len(parts) > PARTS_MAX:
            raise ValueFault("BAD_REFERENCE", f"a path of more than {PARTS_MAX} parts")
        return Path(path["name"], parts)
    try:
        read_json(text)
    except ValueFault as fault:
        reason = f"{shown(text[:60])} is neither a path such as a.b[0] nor a JSON value"
        raise ValueFault("BAD_REFERENCE", reason) from fault
    return Constant(text)


def _part(match: re.Match[str]) -> str | int:
    if match[1] is not None:
        return match[1]
    key = read_json(match[2]) if match[2].startswith('"') else int(match[2])
    if isinstance(key, str) and _HALF.search(key):
        raise ValueFault("BAD_REFERENCE", f"{match[2][:60]} in a path: half of a surrogate pair, not Unicode")
    return key if isinstance(key, str) else int(key)


# --- in JSON


def references(template: str) -> list[Ref]:
    """All references in the texts of a JSON document. Raises ValueFault."""
    if OPEN not in template:
        return []
    return [
        piece for text in _texts(read_json(template)) for piece in parse_text(text) if isinstance(piece, Ref)
    ]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if OPEN in key:
                raise ValueFault("BAD_REFERENCE", f"{shown(key[:60])}: a key cannot hold a reference")
            yield from _texts(item)


def whole(template: str) -> Ref | None:
    """The reference, when the document is nothing else."""
    value = read_json(template) if template.startswith('"') else None
    pieces = parse_text(value) if isinstance(value, str) else ()
    return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], Ref) else None


def fill(template: str, scope: Scope, meter: Meter | None = None, limit: int = FILLED_BYTES_MAX) -> Any:
    """The document with its references replaced. `limit`: the bytes beyond which nobody can use it. Raises
    ValueFault."""
    filling = _Filling(scope, limit)
    try:
        return filling.of(read_json(template))
    finally:
        if meter is not None:
            meter.steps += filling.weighed >> WEIGHT_STEP_BITS
            meter.bytes += len(template) + filling.wrote


UNWEIGHED_MAX = 8  # references in one document


class _Filling:
    def __init__(self, scope: Scope, limit: int) -> None:
        self._scope, self._limit = scope, limit
        self._values = self.weighed = self.wrote = 0

    def of(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return [self.of(item) for item in value]
        if isinstance(value, dict):
            return {key: self.of(item) for key, item in value.items()}
        return value

    def _text(self, text: str) -> Any:
        pieces = parse_text(text)
        if len(pieces) == 1 and isinstance(pieces[0], Ref):
            return self._value(pieces[0])
        written_, size = [], 0
        for piece in pieces:
            written_.append(piece if isinstance(piece, str) else self._written(piece))
            size += len(written_[-1])
            if size > VALUE_BYTES_MAX:
                raise ValueFault("VALUE_TOO_LARGE", f"a text of more than {VALUE_BYTES_MAX} characters")
        return "".join(written_)

    def _written(self, ref: Ref) -> str:
        value = self._value(ref)
        text = value if isinstance(value, str) else written(value)
        self.wrote += len(text)
        return text

    def _value(self, ref: Ref) -> Any:
        """The first few are not weighed: each is a value of its own, within the limits of values."""
        value = value_of(ref, self._scope)
        self._values += 1
        if self._values > UNWEIGHED_MAX:
            self.weighed += weight(value, self._limit)
        if self.weighed > self._limit:
            raise ValueFault("VALUE_TOO_LARGE", f"references to more than {self._limit} bytes")
        return value


def value_of(ref: Ref, scope: Scope) -> Any:
    """What it stands for. Raises ValueFault MISSING_VALUE when none of its alternatives is there."""
    missing: ValueFault | None = None
    for option in ref.options:
        if isinstance(option, Constant):
            return read_json(option.json)
        try:
            value = scope.value(option.name)
            for part in option.parts:
                value = member(value, part)
            return value
        except ValueFault as fault:
            if fault.code != MISSING:
                raise
            missing = fault
    assert missing is not None
    raise ValueFault(MISSING, f"{{{{ {_shown(ref)} }}}}: {missing.text}")


def _shown(ref: Ref) -> str:
    paths = [option for option in ref.options if isinstance(option, Path)]
    return " | ".join(path.name + "".join(_shown_part(part) for part in path.parts) for path in paths)


def _shown_part(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"
