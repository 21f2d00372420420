"""Many runs on several processes. (A module of its own: new processes import it by name.)"""

from __future__ import annotations

import gc
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")
COLLECT_EVERY = 100
_done = 0


def run_all(items: Iterable[S], jobs: int, one: Callable[[S], T], chunk: int = 8) -> Iterator[T]:
    """`one` of each item, in their order."""
    work: partial[T] = partial(_one, one)
    if jobs <= 1:
        disabled_before = logging.root.manager.disable
        _prepare()
        try:
            yield from map(work, items)
        finally:
            gc.unfreeze()
            gc.enable()
            logging.disable(disabled_before)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=_prepare) as pool:
        yield from pool.imap(work, items, chunksize=chunk)


def _prepare() -> None:
    """A run leaves one heap of garbage behind; looking for it while it grows takes a tenth of the time. What
    the modules hold is no garbage, and not looked at (the first run has imported them all)."""
    logging.disable(logging.CRITICAL)
    gc.disable()


def _one(one: Callable[[S], T], item: S) -> T:
    global _done
    _done += 1
    if _done % COLLECT_EVERY == 0:
        gc.collect()
    elif _done == 2:
        gc.collect()
        gc.freeze()
    return one(item)
