"""Short runs share few processes, long ones soon have one each."""

from __future__ import annotations

import pytest

from coterie.node.skillhost.ramp import TICK_S, Ramp


def begin_all(ramp: Ramp, wanted: int, now: float, first: int = 0) -> int:
    """How many of them could begin."""
    begun = 0
    while begun < wanted and ramp.may_begin(now):
        ramp.begun(first + begun, now)
        begun += 1
    return begun


def test_few_begin_at_once() -> None:
    assert begin_all(Ramp(first=4), 100, now=1.0) == 4


def test_one_that_ends_makes_room_for_the_next() -> None:
    ramp = Ramp(first=4)
    begin_all(ramp, 4, now=1.0)
    for number in range(50):
        ramp.ended(number)
        assert begin_all(ramp, 100, now=1.0, first=number + 4) == 1


def test_long_ones_all_begin_within_a_few_ticks() -> None:
    ramp, now, begun, ticks = Ramp(first=4), 1.0, 0, 0
    while begun < 60:
        more = begin_all(ramp, 60 - begun, now, first=begun)
        assert more == min(4 << ticks, 60 - begun)
        begun, ticks = begun + more, ticks + 1
        assert 0 < ramp.pause_s(now) <= TICK_S + 1e-9
        now += TICK_S + 1e-9
    assert ticks == 4


def test_what_has_run_for_long_holds_nobody_up() -> None:
    ramp = Ramp(first=4)
    begin_all(ramp, 4, now=1.0)
    assert begin_all(ramp, 100, now=9.0, first=4) >= 4


def test_after_a_short_one_few_begin_again() -> None:
    ramp = Ramp(first=4)
    begin_all(ramp, 4, now=1.0)
    assert begin_all(ramp, 100, now=9.0, first=4) > 4
    for number in range(200):
        ramp.ended(number)
    assert begin_all(ramp, 100, now=9.0, first=200) == 4


@pytest.mark.parametrize("number", [3, 77])
def test_an_end_that_is_told_twice_or_late_is_no_matter(number: int) -> None:
    ramp = Ramp(first=4)
    begin_all(ramp, 4, now=1.0)
    ramp.ended(number)
    ramp.ended(number)
    assert begin_all(ramp, 100, now=1.0, first=100) == (1 if number == 3 else 0)
