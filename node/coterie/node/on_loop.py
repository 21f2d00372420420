"""Readings of the event loop for threads beside it: nobody else goes through what the loop changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
WAIT_S = 5.0  # a loop that takes longer for one turn serves nobody


class LoopSilent(Exception):
    """The event loop has stopped, or is too busy to say anything."""


class OnLoop:
    """Calls small functions on a loop. To be called in any thread but that of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, read: Callable[[], T]) -> T:
        """What `read` returns or raises. Raises LoopSilent."""
        answer: Future[T] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return  # nobody waits for it any more
            try:
                answer.set_result(read())
            except Exception as error:
                answer.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(run)
        except RuntimeError as error:
            raise LoopSilent("the event loop has ended") from error
        try:
            return answer.result(WAIT_S)
        except TimeoutError:
            if answer.cancel():
                raise LoopSilent(f"the event loop has not answered for {WAIT_S:g} s") from None
            return answer.result()
