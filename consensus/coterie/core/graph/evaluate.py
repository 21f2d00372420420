"""The value of an expression. Total and deterministic: anything wrong is a ValueFault with a code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Protocol

from coterie.core.graph.expr import (
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
from coterie.core.graph.functions import CALLED, TEXT_STEP_BITS, beyond_one, bounded, is_number, text_of
from coterie.core.graph.values import VALUE_BYTES_MAX, ValueFault, type_name, weight
from coterie.core.shown import shown

STEPS_MAX = 10_000  # in one evaluation: a value that is looked at is one
WEIGHT_STEP_BITS = 4  # of the bytes of a value that was made
KEYS_MAX = 200  # of a map that are looked at for a message
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


class Meter:
    """Adds up the steps that evaluations take, and the bytes of JSON that are read and written for values,
    whatever comes of them: the same numbers on every machine."""

    def __init__(self) -> None:
        self.steps = self.bytes = 0


def evaluate(text: str, scope: Scope, meter: Meter | None = None) -> Any:
    """The value of the expression. Raises ValueFault."""
    meter = meter or Meter()
    value = _value_of(text, scope, meter)
    if isinstance(value, list | dict):
        bytes_ = weight(value, VALUE_BYTES_MAX)
        meter.steps += bytes_ >> WEIGHT_STEP_BITS
        if bytes_ > VALUE_BYTES_MAX:
            raise ValueFault("VALUE_TOO_LARGE", f"a value of more than {VALUE_BYTES_MAX} bytes")
    return value


def _value_of(text: str, scope: Scope, meter: Meter) -> Any:
    """To parse it counts too, even if it has been parsed before: on another node it may not have been."""
    evaluation = _Evaluation(scope)
    try:
        return evaluation.of(parse(text))
    except RecursionError as error:  # the bound of the parser comes first, wherever this is called from
        raise ValueFault("TOO_COSTLY", f"{shown(text[:80])} is nested too deep") from error
    finally:
        meter.steps += len(text) + evaluation.paid


def holds(text: str, scope: Scope, meter: Meter | None = None) -> bool:
    """Whether it is true. Raises ValueFault TYPE_ERROR when it is neither true nor false."""
    value = _value_of(text, scope, meter or Meter())
    if not isinstance(value, bool):
        raise ValueFault("TYPE_ERROR", f"{shown(text[:80])} is a {type_name(value)}, not true or false")
    return value


class _Evaluation:
    def __init__(self, scope: Scope) -> None:
        self._scope, self._left = scope, STEPS_MAX

    @property
    def paid(self) -> int:
        return STEPS_MAX - self._left

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
                return {text_of(self.of(key), "a key"): self.of(value) for key, value in pairs}
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
        if isinstance(one, str) and isinstance(other, str):
            self._pay(min(len(one), len(other)) >> TEXT_STEP_BITS)
        return _COMPUTED[operator](one, other)

    def same(self, one: Any, other: Any) -> bool:
        """Equal and of one kind; numbers are compared by value."""
        self._pay()
        if isinstance(one, bool) or isinstance(other, bool):
            return one is other
        if isinstance(one, str) and isinstance(other, str):
            self._pay(len(one) >> TEXT_STEP_BITS if len(one) == len(other) else 0)
            return one == other
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(self.same, one, other))
        if isinstance(one, dict) and isinstance(other, dict):
            self._pay(len(one) >> WEIGHT_STEP_BITS if len(one) == len(other) else 0)
            return one.keys() == other.keys() and all(self.same(one[key], other[key]) for key in one)
        return bool(one == other)

    def _within(self, one: Any, other: Any) -> bool:
        if isinstance(other, dict):
            self._pay(len(text_of(one, "a key")) >> TEXT_STEP_BITS)
            return one in other
        if isinstance(other, list):
            if isinstance(one, str) and not len(one) >> TEXT_STEP_BITS:
                return self._is_among(one, other)
            return any(self.same(one, item) for item in other)
        raise ValueFault("TYPE_ERROR", f"`in` needs a list or a map, not a {type_name(other)}")

    def _is_among(self, text: str, items: list[Any]) -> bool:
        """As if each was compared in turn: a short text is equal to nothing but an equal text."""
        try:
            place = items.index(text)
        except ValueError:
            self._pay(len(items))
            return False
        self._pay(place + 1)
        return True

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
            return self._ended(function, text_of(values[0], "a node") if values else "")
        self._pay(beyond_one(function, values))
        return CALLED[function](*values)

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
    """Some of the first: to sort a hundred thousand for a message would take longer than all else."""
    return ", ".join(shown(key[:40]) for key in sorted(islice(of, KEYS_MAX))[:10]) or "nothing"


def _truth(value: Any, operator: str) -> bool:
    if not isinstance(value, bool):
        raise ValueFault("TYPE_ERROR", f"`{operator}` needs true or false, not a {type_name(value)}")
    return value


def _unary(operator: str, value: Any) -> Any:
    if operator == "!":
        return not _truth(value, "!")
    if not is_number(value):
        raise ValueFault("TYPE_ERROR", f"`-` needs a number, not a {type_name(value)}")
    return bounded(-value)


def _arithmetic(symbol: str, compute: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def computed(one: Any, other: Any) -> Any:
        texts = symbol == "+" and isinstance(one, str) and isinstance(other, str)
        if not texts and not (is_number(one) and is_number(other)):
            raise ValueFault("TYPE_ERROR", f"`{symbol}` of {type_name(one)} and {type_name(other)}")
        if not texts:
            one, other = bounded(one), bounded(other)
        try:
            return bounded(compute(one, other))
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
        if not alike and not (is_number(one) and is_number(other)):
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
