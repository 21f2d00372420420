"""An event loop in a thread of its own: some libraries compute for most of a second when they are imported
and first used, and the node's loop must not miss its lease meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
STOP_S = 2.0


class SideLoop:
    """Runs coroutines elsewhere. Its methods are called on the node's loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which runs on the other loop. Cancelling this cancels it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._started()))

    def stop(self) -> None:
        """End the loop; what still runs on it is left alone."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_S)
            self._loop = self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
            self._thread.start()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


def told_here(call: Callable[[str], None]) -> Callable[[str], None]:
    """A function for the other loop that has `call` called on this one, in order."""
    here = asyncio.get_running_loop()

    def tell(text: str) -> None:
        here.call_soon_threadsafe(call, text)

    return tell


def awaited_here(call: Callable[[str], Awaitable[None]]) -> Callable[[str], Awaitable[None]]:
    """The same for a coroutine function, whose end the other loop waits for."""
    here = asyncio.get_running_loop()

    async def work(text: str) -> None:
        await call(text)

    async def tell(text: str) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(text), here))

    return tell
