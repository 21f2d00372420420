"""What the state machine makes of a list by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from coterie.core.graph.evaluate import WEIGHT_STEP_BITS, Meter
from coterie.core.graph.model import Reducer
from coterie.core.graph.values import INT_DIGITS_MAX, ValueFault, type_name, written


def reduced(reducer: Reducer, items: Any, meter: Meter | None = None) -> Any:
    """Raises ValueFault TYPE_ERROR when the items are not of the kind it needs."""
    if not isinstance(items, list):
        raise ValueFault("TYPE_ERROR", f"`over` is a {type_name(items)}, not a list")
    return _vote(items, meter or Meter()) if reducer is Reducer.VOTE else _REDUCERS[reducer](items)


def _numbers(items: list[Any]) -> list[Any]:
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise ValueFault("TYPE_ERROR", f"a {type_name(item)} among the numbers")
    return items


def _sum(items: list[Any]) -> Any:
    try:
        total: Any = 0  # one by one: what `sum` does with floats depends on the version of Python
        for number in _numbers(items):
            total = total + number
    except OverflowError as error:  # a huge int beside a float
        raise ValueFault("OVERFLOW", "the sum is beyond all limits") from error
    bounded = abs(total) < 10**INT_DIGITS_MAX if isinstance(total, int) else abs(total) < float("inf")
    if not bounded:
        raise ValueFault("OVERFLOW", "the sum is beyond all limits")
    return total


def _concat(items: list[Any]) -> Any:
    if all(isinstance(item, str) for item in items) and items:
        return "".join(items)
    if all(isinstance(item, list) for item in items):
        return [part for item in items for part in item]
    raise ValueFault("TYPE_ERROR", "concat needs lists, or texts")


def _merge(items: list[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, dict):
            raise ValueFault("TYPE_ERROR", f"merge needs objects, not a {type_name(item)}")
        merged.update(item)
    return merged


def _vote(items: list[Any], meter: Meter) -> Any:
    if not items:
        raise ValueFault("TYPE_ERROR", "vote needs at least one item")
    texts = [written(item) for item in items]
    meter.steps += sum(map(len, texts)) >> WEIGHT_STEP_BITS
    votes = Counter(texts)
    most = max(votes.values())
    return next(item for item, text in zip(items, texts, strict=True) if votes[text] == most)


def _best(choose: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    def chosen(items: list[Any]) -> Any:
        return choose(_numbers(items)) if items else None

    return chosen


_REDUCERS: dict[Reducer, Callable[[list[Any]], Any]] = {
    Reducer.LIST: lambda items: items,
    Reducer.CONCAT: _concat,
    Reducer.SUM: _sum,
    Reducer.COUNT: len,
    Reducer.MIN: _best(min),
    Reducer.MAX: _best(max),
    Reducer.MERGE: _merge,
}
