"""Ending the parts of a node: every one of them, in order, whatever the others do, and in bounded time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Sequence

from coterie.node.observability import get_logger

log = get_logger(__name__)

SLOW_S = 5.0  # then the log says what everybody is doing
PART_S = 10.0  # then the next part's turn comes
TASKS_SHOWN = 40

End = Callable[[], Awaitable[object]]


class NotStopped(Exception):
    """Parts that did not end; their threads would keep the process alive."""


async def end_all(parts: Sequence[tuple[str, End]], slow_s: float = SLOW_S, part_s: float = PART_S) -> None:
    """End the parts one after the other. What one raises is logged, and none is waited for longer than
    `part_s`. Raises NotStopped when some did not end in time."""
    loop = asyncio.get_running_loop()
    left: list[str] = []
    slow = loop.call_later(slow_s, _tell_tasks)
    try:
        for name, end in parts:
            if not await _end(name, end, part_s):
                left.append(name)
    finally:
        slow.cancel()
    if left:
        raise NotStopped(f"these parts of the node did not end in time: {', '.join(left)}")


async def _end(name: str, end: End, part_s: float) -> bool:
    task = asyncio.ensure_future(end())
    done, _ = await asyncio.wait({task}, timeout=part_s)
    if not done:
        task.cancel()
        log.error("a part of the node does not end", extra={"part": name, "after_s": part_s})
        return False
    if not task.cancelled() and task.exception() is not None:
        log.error("a part of the node ended badly", extra={"part": name}, exc_info=task.exception())
    return True


async def end_loops(loops: Sequence[asyncio.Task[None]]) -> None:
    """What they raised is known already, or of no interest any more."""
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


def _tell_tasks() -> None:
    """Who waits for what, for the one who has to find out why a node does not stop."""
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    log.warning("the node takes long to stop", extra={"tasks": len(tasks)})
    for task in tasks[:TASKS_SHOWN]:
        text = io.StringIO()
        task.print_stack(limit=3, file=text)
        log.warning("still there", extra={"task": task.get_name(), "stack": text.getvalue()})
