"""What the state machine makes of a list by itself, and of which lists it can make nothing."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.graph.model import Reducer
from coterie.core.graph.values import INT_DIGITS_MAX, ValueFault
from coterie.core.runs.reducers import reduced


@pytest.mark.parametrize(
    ("reducer", "items", "made"),
    [
        (Reducer.LIST, [1, "a", None], [1, "a", None]),
        (Reducer.COUNT, ["a", "b"], 2),
        (Reducer.CONCAT, ["ab", "", "c"], "abc"),
        (Reducer.CONCAT, [[1], [], [2, 3]], [1, 2, 3]),
        (Reducer.CONCAT, [], []),
        (Reducer.SUM, [], 0),
        (Reducer.SUM, [1, 2, 3], 6),
        (Reducer.SUM, [0.1, 0.2, 0.3], 0.1 + 0.2 + 0.3),
        (Reducer.MIN, [3, 1.5, 2], 1.5),
        (Reducer.MAX, [3, 1.5, 2], 3),
        (Reducer.MIN, [], None),
        (Reducer.MERGE, [{"a": 1, "b": 1}, {}, {"b": 2}], {"a": 1, "b": 2}),
        (Reducer.MERGE, [], {}),
        (Reducer.VOTE, ["no", "yes", "yes"], "yes"),
        (Reducer.VOTE, ["first", "second"], "first"),
        (Reducer.VOTE, [{"a": 1, "b": 2}, 3, {"b": 2, "a": 1}], {"a": 1, "b": 2}),
    ],
)
def test_what_a_list_becomes(reducer: Reducer, items: Any, made: Any) -> None:
    assert reduced(reducer, items) == made


@pytest.mark.parametrize(
    ("reducer", "items", "why"),
    [
        (Reducer.COUNT, "abc", "not a list"),
        (Reducer.SUM, [1, "2"], "among the numbers"),
        (Reducer.SUM, [1, True], "among the numbers"),
        (Reducer.MAX, [None], "among the numbers"),
        (Reducer.CONCAT, ["a", ["b"]], "needs lists, or texts"),
        (Reducer.MERGE, [{}, []], "merge needs objects"),
        (Reducer.VOTE, [], "at least one item"),
    ],
)
def test_of_what_it_makes_nothing(reducer: Reducer, items: Any, why: str) -> None:
    with pytest.raises(ValueFault, match=why) as caught:
        reduced(reducer, items)
    assert caught.value.code == "TYPE_ERROR"


@pytest.mark.parametrize(
    "items",
    [[10**INT_DIGITS_MAX - 1, 1], [1e308, 1e308], [10 ** (INT_DIGITS_MAX - 1), 0.5]],
    ids=["digits", "infinity", "a huge whole number beside a float"],
)
def test_a_sum_beyond_all_limits(items: list[Any]) -> None:
    with pytest.raises(ValueFault) as caught:
        reduced(Reducer.SUM, items)
    assert caught.value.code == "OVERFLOW"
