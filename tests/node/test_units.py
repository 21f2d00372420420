"""Durations, sizes, shares and rates: what people write, and what they should not have written."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.node.units import (
    SIZE_MAX,
    YEAR_MS,
    format_duration,
    format_size,
    parse_duration_ms,
    parse_rate_per_s,
    parse_ratio,
    parse_size_bytes,
)

PARSERS: list[Callable[[object], float]] = [
    parse_duration_ms,
    parse_size_bytes,
    parse_ratio,
    parse_rate_per_s,
]
UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("500ms", 500),
        ("5s", 5_000),
        ("1m", 60_000),
        ("10m", 600_000),
        ("1m30s", 90_000),
        ("1h 5m", 3_900_000),
        ("30d", 2_592_000_000),
        ("0.5s", 500),
        ("0s", 0),
        (5, 5_000),
        (0.1, 100),
        (0.001, 1),
    ],
)
def test_a_duration_is_read(text: object, milliseconds: int) -> None:
    assert parse_duration_ms(text) == milliseconds


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("5", "is not a duration"),  # a number in quotes says nothing about its unit
        ("5 parsecs", "is not a duration"),
        ("", "is not a duration"),
        ("s", "is not a duration"),
        ("12:30:45", "is not a duration"),
        ("-5s", "is negative"),
        (-1, "is negative"),
        ("0.1ms", "finer than a millisecond"),
        (0.0001, "finer than a millisecond"),
        ("366d", "longer than a year"),
        (float("inf"), "not a finite number"),
        (float("nan"), "not a finite number"),
        (True, "neither a number nor text"),
        (None, "neither a number nor text"),
        (["5s"], "neither a number nor text"),
        ("9" * 100 + "s", "longer than 40 characters"),
        ("\u0665s", "is not a duration"),  # an Arabic five is a digit to Python
    ],
)
def test_a_wrong_duration_is_refused_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_duration_ms(value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256KiB", 256 * 1024),
        ("4Gi", 4 * 1024**3),
        ("1MB", 1_000_000),
        ("1M", 1_000_000),
        ("1.5 KiB", 1_536),
        ("64mib", 64 * 1024**2),
        ("100B", 100),
        ("100", 100),
        (4096, 4096),
    ],
)
def test_a_size_is_read(text: object, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1 XB", "is not a size"),
        ("KiB", "is not a size"),
        ("1.5B", "whole number of bytes"),
        (1.5, "whole number of bytes"),
        ("-1KiB", "is negative"),
        ("2000TiB", "more than 1 PiB"),
        (False, "neither a number nor text"),
    ],
)
def test_a_wrong_size_is_refused_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_size_bytes(value)


@pytest.mark.parametrize(("value", "share"), [(0.8, 0.8), ("80%", 0.8), ("0.5%", 0.005), (1, 1.0), (0, 0.0)])
def test_a_share_is_read(value: object, share: float) -> None:
    assert parse_ratio(value) == share


@pytest.mark.parametrize("value", [80, "101%", "80", "-5%", -0.1, "all"])
def test_a_wrong_share_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"share|negative"):
        parse_ratio(value)


@pytest.mark.parametrize(("value", "rate"), [("100/s", 100.0), ("30/m", 0.5), ("36/h", 0.01), (5, 5.0)])
def test_a_rate_is_read(value: object, rate: float) -> None:
    assert parse_rate_per_s(value) == rate


@pytest.mark.parametrize("value", ["100", "100/year", "/s", -1, "fast"])
def test_a_wrong_rate_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"rate|negative"):
        parse_rate_per_s(value)


@given(st.integers(0, YEAR_MS))
def test_a_duration_is_read_back_from_its_text(milliseconds: int) -> None:
    assert parse_duration_ms(format_duration(milliseconds)) == milliseconds


@given(st.integers(0, SIZE_MAX))
def test_a_size_is_read_back_from_its_text(size: int) -> None:
    assert parse_size_bytes(format_size(size)) == size


@given(st.lists(st.tuples(st.integers(0, 500), st.sampled_from(sorted(UNIT_MS))), min_size=1, max_size=4))
def test_the_parts_of_a_duration_add_up(parts: list[tuple[int, str]]) -> None:
    total = sum(number * UNIT_MS[unit] for number, unit in parts)
    text = "".join(f"{number}{unit}" for number, unit in parts)
    if total <= YEAR_MS:
        assert parse_duration_ms(text) == total
    else:
        with pytest.raises(ValueError, match="longer than a year"):
            parse_duration_ms(text)


@given(st.decimals(0, 1000, places=3))
def test_a_decimal_fraction_of_seconds_is_exact(seconds: object) -> None:
    assert parse_duration_ms(f"{seconds}s") == Fraction(str(seconds)) * 1000


@given(
    st.one_of(
        st.text(max_size=60), st.floats(), st.integers(), st.booleans(), st.none(), st.binary(max_size=5)
    )
)
def test_any_value_is_read_or_refused_and_never_negative(value: object) -> None:
    for parse in PARSERS:
        try:
            number = parse(value)
        except ValueError as error:
            assert str(error)
        else:
            assert number >= 0
