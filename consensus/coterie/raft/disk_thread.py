"""The thread beside the event loop in which the disk is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class DiskThread(Generic[T]):
    """Does what it is given in that order. An executor does the same with two futures and three locks for
    each job, and every commit waits for that twice."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[Callable[[], T], Callable[[T | Exception], None]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T], ended: Callable[[T | Exception], None]) -> None:
        """Do `work` in the thread, then call `ended` on the loop with what it returned or raised. What is no
        Exception, such as SystemExit, comes as a RuntimeError: whoever waits for the disk must hear of it."""
        self._jobs.put((work, ended))

    def shutdown(self) -> None:
        """Finish what was submitted, end the thread. Blocks."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, ended = job
            answer: T | Exception
            try:
                answer = work()
            except Exception as error:
                answer = error
            except BaseException as error:  # else the thread ends, and with it every write
                answer = RuntimeError(f"{type(error).__name__}: {error}")
                answer.__cause__ = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(ended, answer)
            del job, work, ended, answer  # an idle thread keeps nothing alive
