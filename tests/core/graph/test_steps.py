"""What an expression costs: long texts and large maps count for more than one step."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.graph.evaluate import KEYS_MAX, STEPS_MAX, Meter, Values, evaluate, holds
from coterie.core.graph.values import ValueFault

LONG = "x" * 512_000
VALUES = Values(
    {
        "long": LONG,
        "other": "y" * 512_000,
        "umlauts": "Ä" * 64_000,
        "short": "z",
        "texts": [str(number) for number in range(5_000)],
        "twice": [LONG, "y" * 512_000],
        "map": {str(number): number for number in range(4_000)},
        "pages": "p" * 20_000,
    }
)


def steps(text: str) -> int:
    """Beside those for its length."""
    meter = Meter()
    evaluate(text, VALUES, meter)
    return meter.steps - len(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("short", 1),
        ("lower(short)", 2),
        ("lower(long) == short", 5 + 1_000),
        ("lower(umlauts) == short", 5 + 1_000),
        ("long.startsWith(other)", 3 + 1_000),
        ("long.endsWith(short)", 3),
        ("long.contains(short)", 3 + 1_000),
        ("pages.contains('ab')", 3 + 39 + 9),
        ("long == short", 4),
        ("long == other", 4 + 1_000),
        ("long < other", 3 + 1_000),
        ("short + short", 3),
        ("short in map", 3),
        ("long in map", 3 + 1_000),
        ("'4999' in texts", 3 + 5_000),
        ("'7' in texts", 3 + 8),
        ("short in texts", 3 + 5_000),
        ("other in twice", 3 + 2 + 2_000),
        ("map == map", 4 + 250 + 4_000),
        ("map != {}", 4),
        ("size(map)", 2),
    ],
)
def test_what_is_long_takes_more_steps(text: str, count: int) -> None:
    assert steps(text) == count


def test_steps_are_counted_when_they_are_too_many_or_the_value_is_wrong() -> None:
    meter = Meter()
    with pytest.raises(ValueFault, match="more than"):
        holds(" && ".join(["lower(umlauts) != ''"] * 20), VALUES, meter)
    assert STEPS_MAX < meter.steps < 2 * STEPS_MAX
    with pytest.raises(ValueFault, match="not true"):
        holds("map", VALUES, meter := Meter())
    assert meter.steps == len("map") + 1


def test_a_value_that_is_made_takes_steps_by_its_weight() -> None:
    assert steps("[long]") > len(LONG) >> 5


@pytest.mark.parametrize(
    ("value", "lowered"), [("ÄaZ É", "Äaz É"), ("AZ", "az"), ("\U0001fae8İK", "\U0001fae8İk"), ("", "")]
)
def test_lower_knows_the_letters_of_ascii(value: str, lowered: str) -> None:
    assert evaluate("lower(v)", Values({"v": value})) == lowered


def test_of_a_large_map_a_message_names_some_of_the_first_keys() -> None:
    large: dict[str, Any] = {f"k{number:06}": 0 for number in reversed(range(10 * KEYS_MAX))}
    with pytest.raises(ValueFault, match=f"there is 'k{9 * KEYS_MAX:06}', "):
        evaluate("m.x", Values({"m": large}))
