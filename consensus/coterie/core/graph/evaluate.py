"""The value of an expression. Total and deterministic: anything wrong is a ValueFault with a code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from coterie.core.graph.expr import (
    INT_MAX,
    Binary,
    Call,
    Choice,
    Index,
    Items,
    Literal,
    Name,
    Pairs,
    Tree,
    Unary,
    parse,
)
from coterie.core.graph.values import VALUE_BYTES_MAX, ValueFault, type_name, weight
from coterie.core.shown import shown

STEPS_MAX = 10_000  # values looked at in one evaluation
TEXT_MAX = 64 * 1024  # characters of a text that an expression makes
MISSING = "MISSING_VALUE"


class Scope(Protocol):
    """What an expression can see."""

    def value(self, name: str) -> Any:
        """Raises ValueFault MISSING_VALUE when there is none."""

    def ends(self, node: str) -> list[str]:
        """How that node has ended; empty: all dependencies."""


class Values:
    """A scope of plain values."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def value(self, name: str) -> Any:
        if name not in self._values:
            raise ValueFault(MISSING, f"there is no value {shown(name)}")
        return self._values[name]

    def ends(self, node: str) -> list[str]:
        return []


def evaluate(text: str, scope: Scope) -> Any:
    """The value of the expression. Raises ValueFault."""
    try:
        value = _Evaluation(scope).of(parse(text))
    except RecursionError as error:  # the bound of the parser comes first, wherever this is called from
        raise ValueFault("TOO_COSTLY", f"{shown(text[:80])} is nested too deep") from error
    if isinstance(value, list | dict) and weight(value, VALUE_BYTES_MAX) > VALUE_BYTES_MAX:
        raise ValueFault("VALUE_TOO_LARGE", f"a value of more than {VALUE_BYTES_MAX} bytes")
    return value


def holds(text: str, scope: Scope) -> bool:
    """Whether it is true. Raises ValueFault TYPE_ERROR when it is neither true nor false."""
    value = evaluate(text, scope)
    if not isinstance(value, bool):
        raise ValueFault("TYPE_ERROR", f"{shown(text[:80])} is a {type_name(value)}, not true or false")
    return value


class _Evaluation:
    def __init__(self, scope: Scope) -> None:
        self._scope, self._left = scope, STEPS_MAX

    def of(self, tree: Tree) -> Any:
        self._pay()
        match tree:
            case Literal(value):
                return value
            case Name(name):
                return self._scope.value(name)
            case Index(of, key):
                return member(self.of(of), self.of(key))
            case Unary(operator, of):
                return _unary(operator, self.of(of))
            case Binary(operator, left, right):
                return self._binary(operator, left, right)
            case Choice(condition, then, otherwise):
                return self.of(then if _truth(self.of(condition), "?") else otherwise)
            case Items(items):
                return [self.of(item) for item in items]
            case Pairs(pairs):
                return {_text(self.of(key), "a key"): self.of(value) for key, value in pairs}
            case Call(function, arguments):
                return self._call(function, arguments)

    def _pay(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0:
            raise ValueFault("TOO_COSTLY", f"the expression looks at more than {STEPS_MAX} values")

    def _binary(self, operator: str, left: Tree, right: Tree) -> Any:
        one = self.of(left)
        if operator == "&&":
            return _truth(one, operator) and _truth(self.of(right), operator)
        if operator == "||":
            return _truth(one, operator) or _truth(self.of(right), operator)
        other = self.of(right)
        if operator == "==":
            return self.same(one, other)
        if operator == "!=":
            return not self.same(one, other)
        if operator == "in":
            return self._within(one, other)
        if operator == "+" and isinstance(one, list) and isinstance(other, list):
            self._pay(len(one) + len(other))
            return one + other
        return _COMPUTED[operator](one, other)

    def same(self, one: Any, other: Any) -> bool:
        """Equal and of one kind; numbers are compared by value."""
        self._pay()
        if isinstance(one, bool) or isinstance(other, bool):
            return one is other
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(self.same, one, other))
        if isinstance(one, dict) and isinstance(other, dict):
            return one.keys() == other.keys() and all(self.same(one[key], other[key]) for key in one)
        return bool(one == other)

    def _within(self, one: Any, other: Any) -> bool:
        if isinstance(other, dict):
            return _text(one, "a key") in other
        if isinstance(other, list):
            return any(self.same(one, item) for item in other)
        raise ValueFault("TYPE_ERROR", f"`in` needs a list or a map, not a {type_name(other)}")

    def _call(self, function: str, arguments: tuple[Tree, ...]) -> Any:
        if function in ("has", "default"):
            try:
                value = self.of(arguments[0])
            except ValueFault as fault:
                if fault.code != MISSING:
                    raise
                return False if function == "has" else self.of(arguments[1])
            return True if function == "has" else value
        values = [self.of(argument) for argument in arguments]
        if function in _ENDS:
            return self._ended(function, _text(values[0], "a node") if values else "")
        return _FUNCTIONS[function](*values)

    def _ended(self, function: str, node: str) -> bool:
        ends = self._scope.ends(node)
        self._pay(len(ends))
        return (
            all(end == "SUCCEEDED" for end in ends)
            if function == "succeeded"
            else any(end in _ENDS[function] for end in ends)
        )


_ENDS: Mapping[str, frozenset[str]] = {
    "failed": frozenset({"FAILED", "CANCELLED"}),
    "skipped": frozenset({"SKIPPED"}),
    "succeeded": frozenset(),
}


def member(of: Any, key: Any) -> Any:
    """`of[key]`. Raises ValueFault MISSING_VALUE, or TYPE_ERROR."""
    if isinstance(of, dict):
        if not isinstance(key, str):
            raise ValueFault("TYPE_ERROR", f"the key of a map is a string, not a {type_name(key)}")
        if key not in of:
            raise ValueFault(MISSING, f"there is no {shown(key[:80])} in it; there is {_keys(of)}")
        return of[key]
    if isinstance(of, list):
        if isinstance(key, bool) or not isinstance(key, int):
            raise ValueFault("TYPE_ERROR", f"the place in a list is an int, not a {type_name(key)}")
        if not -len(of) <= key < len(of):
            raise ValueFault(MISSING, f"there is no item {key} in a list of {len(of)}")
        return of[key]
    raise ValueFault("TYPE_ERROR", f"a {type_name(of)} has no parts")


def _keys(of: dict[str, Any]) -> str:
    return ", ".join(shown(key[:40]) for key in sorted(of)[:10]) or "nothing"


def _truth(value: Any, operator: str) -> bool:
    if not isinstance(value, bool):
        raise ValueFault("TYPE_ERROR", f"`{operator}` needs true or false, not a {type_name(value)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueFault("TYPE_ERROR", f"{what} is a string, not a {type_name(value)}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unary(operator: str, value: Any) -> Any:
    if operator == "!":
        return not _truth(value, "!")
    if not _is_number(value):
        raise ValueFault("TYPE_ERROR", f"`-` needs a number, not a {type_name(value)}")
    return _bounded(-value)


def _bounded(value: Any) -> Any:
    """Within 64 bits, as in CEL; a text within TEXT_MAX."""
    if isinstance(value, int) and not -INT_MAX - 1 <= value <= INT_MAX:
        raise ValueFault("OVERFLOW", "the number does not fit into 64 bits")
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise ValueFault("OVERFLOW", "the number is beyond all limits")
    if isinstance(value, str) and len(value) > TEXT_MAX:
        raise ValueFault("TOO_COSTLY", f"a text of more than {TEXT_MAX} characters")
    return value


def _arithmetic(symbol: str, compute: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def computed(one: Any, other: Any) -> Any:
        texts = symbol == "+" and isinstance(one, str) and isinstance(other, str)
        if not texts and not (_is_number(one) and _is_number(other)):
            raise ValueFault("TYPE_ERROR", f"`{symbol}` of {type_name(one)} and {type_name(other)}")
        if not texts:
            one, other = _bounded(one), _bounded(other)
        try:
            return _bounded(compute(one, other))
        except ZeroDivisionError as error:
            raise ValueFault("DIVIDE_BY_ZERO", f"`{symbol}` by 0") from error

    return computed


def _divided(one: Any, other: Any) -> Any:
    """Ints are divided towards zero, as in CEL."""
    if isinstance(one, float) or isinstance(other, float):
        return one / other
    quotient = abs(one) // abs(other)
    return quotient if (one < 0) == (other < 0) else -quotient


def _remainder(one: Any, other: Any) -> Any:
    if isinstance(one, float) or isinstance(other, float):
        raise ValueFault("TYPE_ERROR", "`%` needs two ints")
    return one - other * _divided(one, other)


def _comparison(symbol: str, compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compared(one: Any, other: Any) -> bool:
        alike = isinstance(one, str) and isinstance(other, str)
        if not alike and not (_is_number(one) and _is_number(other)):
            raise ValueFault("TYPE_ERROR", f"`{symbol}` of {type_name(one)} and {type_name(other)}")
        return compare(one, other)

    return compared


_COMPUTED: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": _arithmetic("+", lambda one, other: one + other),
    "-": _arithmetic("-", lambda one, other: one - other),
    "*": _arithmetic("*", lambda one, other: one * other),
    "/": _arithmetic("/", _divided),
    "%": _arithmetic("%", _remainder),
    "<": _comparison("<", lambda one, other: one < other),
    "<=": _comparison("<=", lambda one, other: one <= other),
    ">": _comparison(">", lambda one, other: one > other),
    ">=": _comparison(">=", lambda one, other: one >= other),
}


def _size(value: Any) -> int:
    if not isinstance(value, str | list | dict):
        raise ValueFault("TYPE_ERROR", f"size() of a {type_name(value)}")
    return len(value)


def _int(value: Any) -> Any:
    try:
        if isinstance(value, str) and len(value) <= 20 and value.isascii():
            return _bounded(int(value))
        if _is_number(value):
            return _bounded(int(_bounded(value)))
    except ValueError as error:
        raise ValueFault("TYPE_ERROR", f"{shown(value[:40])} is not an int") from error
    raise ValueFault("TYPE_ERROR", f"int() of a {type_name(value)}")


def _double(value: Any) -> Any:
    try:
        if isinstance(value, str) and len(value) <= 40 and value.isascii():
            return _bounded(float(value))
        if _is_number(value):
            return _bounded(float(_bounded(value)))
    except ValueError as error:
        raise ValueFault("TYPE_ERROR", f"{shown(value[:40])} is not a number") from error
    raise ValueFault("TYPE_ERROR", f"double() of a {type_name(value)}")


def _string(value: Any) -> Any:
    if isinstance(value, list | dict):
        raise ValueFault("TYPE_ERROR", f"string() of a {type_name(value)}")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) else repr(_bounded(value))


def _about(test: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    return lambda one, other: test(_text(one, "a text"), _text(other, "a text"))


# ASCII only: what Unicode knows of cases grows with every version of Python.
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "size": _size,
    "int": _int,
    "double": _double,
    "string": _string,
    "type": type_name,
    "lower": lambda value: _text(value, "a text").translate(_LOWER),
    "startsWith": _about(str.startswith),
    "endsWith": _about(str.endswith),
    "contains": _about(lambda one, other: other in one),
    "always": lambda: True,
}
