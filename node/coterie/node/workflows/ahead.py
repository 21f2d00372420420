"""Reads the graphs of large runs in a thread before an entry needs them: no entry holds the loop over it.

What comes of it is kept beside the state and is no part of it: an entry that comes before it is done works
it out itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from coterie.core.graph.model import GraphError
from coterie.core.nouns import Event, TaskId
from coterie.core.runs.outline import is_large, known_outline
from coterie.core.runs.run import WORKFLOW
from coterie.core.state import ClusterState
from coterie.node.observability import get_logger

log = get_logger(__name__)


class Ahead:
    """Told of every applied entry; works on one graph at a time."""

    def __init__(self, state: Callable[[], ClusterState]) -> None:
        self._state = state
        self._wanted: dict[TaskId, None] = {}
        self._reading: asyncio.Task[None] | None = None

    def look(self, events: Iterable[Event]) -> None:
        """Called after every applied entry."""
        for event in events:
            if event.type == "submitted" and event.task.type == WORKFLOW:
                self._want(event.task.task_id)

    def look_at_all(self) -> None:
        """The state is another one."""
        for run_id in self._state().runs:
            self._want(run_id)

    def _want(self, run_id: TaskId) -> None:
        run = self._state().runs.get(run_id)
        if run is None or run.book is not None or not is_large(run.head.graph):
            return
        self._wanted[run_id] = None
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read(), name="read graphs ahead")

    async def _read(self) -> None:
        try:
            while self._wanted:
                run = self._state().runs.get(self._wanted.popitem()[0])
                if run is not None and run.book is None:
                    await asyncio.to_thread(_read_one, run.head.graph)
        finally:
            self._reading = None


def _read_one(graph: bytes) -> None:
    try:
        known_outline(graph)
    except GraphError as error:  # the run fails of it when it begins
        log.debug("unreadable graph", extra={"error": str(error)[:200]})
