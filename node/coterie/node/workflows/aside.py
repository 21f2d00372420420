"""Work on large workflows goes to a thread: no node may miss a heartbeat over somebody's plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from coterie.core.graph.needs import size
from coterie.node.workflows import Loaded

T = TypeVar("T")
HERE_MAX = 16_000  # characters of source: some 10 ms to read and to check
NODE_CHARS = 50  # of source, about


async def aside(size: int, work: Callable[[], T]) -> T:
    """What `work` gives. `size`: of the source in characters; small work is done at once, on the loop."""
    return work() if size <= HERE_MAX else await asyncio.to_thread(work)


def size_of(loaded: Loaded) -> int:
    """About how large the source is, bodies included."""
    return size(loaded.graph) * NODE_CHARS
