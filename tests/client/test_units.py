"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coterie.client.units import duration_ms, duration_seconds, optional_seconds


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("500ms", 500),
        ("10m", 600_000),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("0.5s", 500),
        (" 2 H ", 7_200_000),
        ("600", 600_000),
        (600, 600_000),
        (1.1, 1100),
        (0.0001, 1),
        (0, 0),
        (timedelta(seconds=2, milliseconds=5), 2005),
    ],
)
def test_a_duration_is_read(text: Any, ms: int) -> None:
    assert duration_ms(text) == ms
    assert duration_seconds(text) == ms / 1000


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "m", "1x", "-5s", "5 parsecs", "1s2", "nan", "inf", "9" * 100, "4000d"),
        *(-1, -0.5, float("nan"), float("inf"), 10**30, True, None, [], b"1s", timedelta(seconds=-1)),
    ],
)
def test_what_is_no_duration_is_named_with_the_remedy(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"is not a duration|over ten years"):
        duration_ms(wrong)


def test_none_stays_none() -> None:
    assert optional_seconds(None) is None and optional_seconds("2s") == 2.0
