"""Wakes those who wait for a lock, a key, a message or a schedule to change on this node's replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coterie.core.state import ClusterState

KINDS = ("lock", "key", "topic", "schedule")


class Tide:
    """Waiters by what they wait for. Who is woken looks for itself: a wake-up says nothing but "look"."""

    def __init__(self, state: Callable[[], ClusterState]) -> None:
        self._state = state
        self._waiters: dict[str, set[asyncio.Future[None]]] = {kind: set() for kind in KINDS}

    def look(self) -> None:
        """Called after every applied entry."""
        changed = self._state().coordination.changed
        if changed:
            for kind in changed:
                self._wake(kind)
            changed.clear()

    def rise(self) -> None:
        """The state is another one: everybody looks."""
        for kind in KINDS:
            self._wake(kind)

    async def wait(self, kind: str, timeout_s: float) -> None:
        """Until something of that kind changes, or the time is over. Look at the state right before it."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters[kind].add(waiter)
        timer = loop.call_later(max(0.0, timeout_s), _end, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters[kind].discard(waiter)

    def _wake(self, kind: str) -> None:
        waiters, self._waiters[kind] = self._waiters[kind], set()
        for waiter in waiters:
            _end(waiter)


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
