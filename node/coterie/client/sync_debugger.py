"""The debugger for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from coterie.client import debugger, job
from coterie.client.sync_queueing import Run


class Debugger:
    """See `coterie.client.debugger.Debugger`."""

    def __init__(self, run: Run, inner: debugger.Debugger, made: Callable[[job.Job], Any]) -> None:
        self._run, self._inner, self._made = run, inner, made

    def history(
        self,
        task_id: str,
        *,
        format: debugger.Format | Literal[""] = "",
        tasks_max: int = 0,
        until: int = 0,
        stale: bool = False,
    ) -> debugger.History:
        """See `coterie.client.debugger.Debugger.history`."""
        found = self._inner.history(task_id, format=format, tasks_max=tasks_max, until=until, stale=stale)
        return self._run(found)

    def fork(
        self, task_id: str, at: str, set: Mapping[str, Any] | None = None, *, request_id: str = ""
    ) -> Any:
        """See `coterie.client.debugger.Debugger.fork`; returns a blocking Job."""
        return self._made(self._run(self._inner.fork(task_id, at, set, request_id=request_id)))

    def state(self, index: int = 0, task_id: str = "") -> debugger.StateAt:
        """See `coterie.client.debugger.Debugger.state`."""
        return self._run(self._inner.state(index, task_id))

    def story(self, task_id: str) -> str:
        """See `coterie.client.debugger.Debugger.story`."""
        return self._run(self._inner.story(task_id))
