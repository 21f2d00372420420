"""JSON values within limits that are the same on every machine: no depth of a C stack decides anything."""

from __future__ import annotations

import json
import re
from json.encoder import encode_basestring
from typing import Any

VALUE_BYTES_MAX = 1 << 20  # of a value that is computed from others
FILLED_BYTES_MAX = 16 << 20  # of a document with its references replaced, before it is taken apart again
VALUE_DEPTH_MAX = 64
INT_DIGITS_MAX = 400  # Python itself refuses to read longer numbers from some length on


class ValueFault(Exception):
    """A value that cannot be used. `code` is stable, the text is for people: it goes into tables, events and
    snapshots, so half of a surrogate pair, which JSON can spell, is written as its number."""

    def __init__(self, code: str, text: str) -> None:
        text = text.encode("utf-8", "backslashreplace").decode()
        super().__init__(text)
        self.code, self.text = code, text


def read_json(raw: bytes | str) -> Any:
    """The value in a JSON text. Raises ValueFault NOT_JSON for anything else, NaN and infinities included,
    and for what is nested deeper than VALUE_DEPTH_MAX."""
    try:
        text = raw if isinstance(raw, str) else raw.decode()
        if text.count("[") + text.count("{") > VALUE_DEPTH_MAX and _depth(text) > VALUE_DEPTH_MAX:
            raise ValueFault("NOT_JSON", f"nested deeper than {VALUE_DEPTH_MAX}")
        if _LONG_NUMBER.search(text):
            raise ValueFault("NOT_JSON", f"a number of more than {INT_DIGITS_MAX} digits")
        return _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise ValueFault("NOT_JSON", "not JSON: it is not UTF-8") from error
    except ValueError as error:  # what the decoder says, and which place it names, changes with Python
        raise ValueFault("NOT_JSON", "not JSON") from error


def write_json(value: Any, limit: int = VALUE_BYTES_MAX) -> bytes:
    """One byte string per value. Raises ValueFault VALUE_TOO_LARGE, or NOT_JSON."""
    return encoded(written(value), limit)


def encoded(text: str, limit: int = VALUE_BYTES_MAX) -> bytes:
    """What was written, as bytes. Raises ValueFault VALUE_TOO_LARGE, or NOT_JSON."""
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
        raise ValueFault("NOT_JSON", "a text that is not Unicode") from error
    if len(raw) > limit:
        raise ValueFault("VALUE_TOO_LARGE", f"{len(raw)} bytes, the limit is {limit}")
    return raw


def _refuse(constant: str) -> Any:
    raise ValueFault("NOT_JSON", f"not JSON: {constant} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueFault("NOT_JSON", "not JSON: a number beyond all limits")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
_BRACKETS = re.compile(r'[][{}]|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z|\\\Z)', re.DOTALL)
_LONG_NUMBER = re.compile(rf"[0-9]{{{INT_DIGITS_MAX + 1}}}")


def _depth(text: str) -> int:
    """How deep brackets are nested outside of texts; of a text that does not end all is inside."""
    deepest = depth = 0
    for token in _BRACKETS.finditer(text):
        bracket = token[0]
        if bracket in ("[", "{"):
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in ("]", "}"):
            depth -= 1
    return deepest


def quoted(text: str) -> str:
    """The JSON of a text, as `written` gives it."""
    return encode_basestring(text)


def written(value: Any) -> str:
    """The JSON of a value that came from one; nothing is checked."""
    return _ENCODER.encode(value)


def weight(value: Any, limit: int) -> int:
    """How many bytes its JSON has at least, each part as often as it is written. It counts little beyond
    `limit`, however large the value is."""
    left, bytes_ = [value], 0
    while left and bytes_ <= limit:
        one = left.pop()
        if isinstance(one, str):
            bytes_ += len(one) + 2
        elif isinstance(one, list):
            bytes_ += len(one) + 1
            left += one
        elif isinstance(one, dict):
            bytes_ += 1
            for key, inner in one.items():
                bytes_ += len(key) + 3
                left.append(inner)
        else:
            bytes_ += 1 + (max(0, one.bit_length() - 1) >> 2 if isinstance(one, int) else 0)
    return bytes_


def type_name(value: Any) -> str:
    """What people call it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    names = {int: "int", float: "double", str: "string", list: "list", dict: "map"}
    return names.get(type(value), type(value).__name__)
