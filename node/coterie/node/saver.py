"""Asks running skills where they are: each checkpoint interval, and when they are to leave the node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from coterie.node.clock import Clock

LEAVING_S = 1.0  # between two requests to one that is to leave

Key = tuple[str, int]  # task id and attempt


class Asked(Protocol):
    """What passes the question on."""

    def ask_to_save(self, task_id: str, attempt: int, leaving: bool) -> None: ...


class Saver:
    """Told again and again who runs and who is to leave, it asks whom it has not asked for long enough."""

    def __init__(self, host: Asked, clock: Clock, interval_ms: int) -> None:
        self._host, self._clock, self._interval_s = host, clock, interval_ms / 1000
        self._asked: dict[Key, float] = {}  # since when an attempt is due for its next question; monotonic
        self._told: dict[Key, float] = {}  # when one that is to leave was asked last

    def look(self, running: Iterable[Key], leaving: Iterable[Key]) -> None:
        """`leaving` are those among `running` that go after their next step or checkpoint."""
        now = self._clock.monotonic()
        self._asked = {key: self._asked.get(key, now) for key in running}
        self._told = {key: self._told.get(key, now - LEAVING_S) for key in leaving}
        for key, told in self._told.items():
            if now - told >= LEAVING_S:
                self._told[key] = self._asked[key] = now
                self._host.ask_to_save(*key, leaving=True)
        for key, asked in self._asked.items():
            if now - asked >= self._interval_s:
                self._asked[key] = now
                self._host.ask_to_save(*key, leaving=False)
