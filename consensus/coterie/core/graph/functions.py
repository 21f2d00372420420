"""What the functions of expressions do with their values, and how many steps that takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coterie.core.graph.expr import INT_MAX
from coterie.core.graph.values import ValueFault, type_name
from coterie.core.shown import shown

TEXT_MAX = 64 * 1024  # characters of a text that an expression makes
TEXT_STEP_BITS = 9  # so many characters of a text are one more: 512, ...
SLOW_STEP_BITS = 6  # ... where they take longer 64, ...
PAIR_STEP_BITS = 12  # ... and where each may be compared with each of another, so many pairs
PAIRED_MAX = 30_000  # characters; in longer texts no version of Python compares pair by pair, ...
PAIRS_MAX = 3_000_000  # ... and in none of them more than so many

_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def text_of(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueFault("TYPE_ERROR", f"{what} is a string, not a {type_name(value)}")
    return value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def bounded(value: Any) -> Any:
    """Within 64 bits, as in CEL; a text within TEXT_MAX."""
    if isinstance(value, int) and not -INT_MAX - 1 <= value <= INT_MAX:
        raise ValueFault("OVERFLOW", "the number does not fit into 64 bits")
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise ValueFault("OVERFLOW", "the number is beyond all limits")
    if isinstance(value, str) and len(value) > TEXT_MAX:
        raise ValueFault("TOO_COSTLY", f"a text of more than {TEXT_MAX} characters")
    return value


def _size(value: Any) -> int:
    if not isinstance(value, str | list | dict):
        raise ValueFault("TYPE_ERROR", f"size() of a {type_name(value)}")
    return len(value)


def _int(value: Any) -> Any:
    try:
        if isinstance(value, str) and len(value) <= 20 and value.isascii():
            return bounded(int(value))
        if is_number(value):
            return bounded(int(bounded(value)))
    except ValueError as error:
        raise ValueFault("TYPE_ERROR", f"{shown(value[:40])} is not an int") from error
    raise ValueFault("TYPE_ERROR", f"int() of a {type_name(value)}")


def _double(value: Any) -> Any:
    try:
        if isinstance(value, str) and len(value) <= 40 and value.isascii():
            return bounded(float(value))
        if is_number(value):
            return bounded(float(bounded(value)))
    except ValueError as error:
        raise ValueFault("TYPE_ERROR", f"{shown(value[:40])} is not a number") from error
    raise ValueFault("TYPE_ERROR", f"double() of a {type_name(value)}")


def _string(value: Any) -> Any:
    if isinstance(value, list | dict):
        raise ValueFault("TYPE_ERROR", f"string() of a {type_name(value)}")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) else repr(bounded(value))


def _about(test: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    return lambda one, other: test(text_of(one, "a text"), text_of(other, "a text"))


def _lower(value: Any) -> str:
    """ASCII only: what Unicode knows of cases grows with every version of Python."""
    text = text_of(value, "a text")
    if text.isascii():
        return text.lower()
    for letter in _UPPER:  # a table for `translate` takes ten times as long
        text = text.replace(letter, letter.lower())
    return text


def beyond_one(function: str, values: list[Any]) -> int:
    """The steps that a function takes because its texts are long."""
    texts = [value for value in values if isinstance(value, str)]
    if function == "lower" and texts:
        return len(texts[0]) >> (TEXT_STEP_BITS if texts[0].isascii() else SLOW_STEP_BITS)
    if len(texts) < 2:
        return 0
    length, other = map(len, texts)
    if function != "contains":
        return min(length, other) >> TEXT_STEP_BITS
    pairs = min(length * other, PAIRS_MAX) if length < PAIRED_MAX else 0
    return (length >> TEXT_STEP_BITS) + (pairs >> PAIR_STEP_BITS)


CALLED: Mapping[str, Callable[..., Any]] = {
    "size": _size,
    "int": _int,
    "double": _double,
    "string": _string,
    "type": type_name,
    "lower": _lower,
    "startsWith": _about(str.startswith),
    "endsWith": _about(str.endswith),
    "contains": _about(lambda one, other: other in one),
    "always": lambda: True,
}
