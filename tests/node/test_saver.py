"""Whom the node asks where it is, and when."""

from __future__ import annotations

from coterie.node.clock import Clock
from coterie.node.saver import Saver

A, B = ("a", 1), ("b", 2)


class FakeClock(Clock):
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class FakeHost:
    def __init__(self) -> None:
        self.asked: list[tuple[str, int, bool]] = []

    def ask_to_save(self, task_id: str, attempt: int, leaving: bool) -> None:
        self.asked.append((task_id, attempt, leaving))


class Bench:
    def __init__(self) -> None:
        self.clock, self.host = FakeClock(), FakeHost()
        self.saver = Saver(self.host, self.clock, 10_000)

    def look(
        self, after_s: float, running: list[tuple[str, int]], leaving: list[tuple[str, int]]
    ) -> list[object]:
        self.clock.now += after_s
        self.host.asked.clear()
        self.saver.look(running, leaving)
        return list(self.host.asked)


def test_each_is_asked_once_an_interval_from_its_start_on() -> None:
    bench = Bench()
    assert bench.look(0, [A], []) == []
    assert bench.look(5, [A, B], []) == []
    assert bench.look(5, [A, B], []) == [("a", 1, False)]
    assert bench.look(5, [A, B], []) == [("b", 2, False)]
    assert bench.look(4.9, [A, B], []) == []
    assert bench.look(0.1, [A, B], []) == [("a", 1, False)]


def test_who_is_to_leave_is_asked_at_once_and_again_until_it_has_left() -> None:
    bench = Bench()
    bench.look(0, [A, B], [])
    assert bench.look(1, [A, B], [B]) == [("b", 2, True)]
    assert bench.look(0.5, [A, B], [B]) == []
    assert bench.look(0.5, [A, B], [B]) == [("b", 2, True)]
    assert bench.look(0.5, [A, B], []) == []  # the drain was called off
    assert bench.look(0.1, [A, B], [B]) == [("b", 2, True)]


def test_another_attempt_is_another_run() -> None:
    bench = Bench()
    bench.look(0, [A], [])
    assert bench.look(10, [("a", 2)], []) == []
