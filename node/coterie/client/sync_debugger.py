"""The debugger for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from typing import Literal

from coterie.client import debugger
from coterie.client.sync_queueing import Run


class Debugger:
    """See `coterie.client.debugger.Debugger`."""

    def __init__(self, run: Run, inner: debugger.Debugger) -> None:
        self._run, self._inner = run, inner

    def history(
        self,
        task_id: str,
        *,
        format: debugger.Format | Literal[""] = "",
        tasks_max: int = 0,
        stale: bool = False,
    ) -> debugger.History:
        """See `coterie.client.debugger.Debugger.history`."""
        return self._run(self._inner.history(task_id, format=format, tasks_max=tasks_max, stale=stale))

    def story(self, task_id: str) -> str:
        """See `coterie.client.debugger.Debugger.story`."""
        return self._run(self._inner.story(task_id))
