"""Checkpoints that the node asks for: a skill says once how to find out where it is."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from coterie.skills import jsonio
from coterie.skills.link import Link, RunFacts


class Checkpoints:
    """The part of a context that keeps where a task is."""

    log: logging.Logger
    _facts: RunFacts
    _link: Link

    def _begin_checkpoints(self) -> None:
        self._state_of: Callable[[], Any] | None = None
        self._saved: bytes | None = self._facts.checkpoint
        self._saving = False

    async def checkpoint(self, state: Any) -> None:
        """Commit `state` (JSON) as what `ctx.restored` is in a later attempt. Raises as `step` does."""
        await self._save(jsonio.encode(state, "the checkpoint", self._facts.checkpoint_bytes_max))

    def on_checkpoint(self, state: Callable[[], Any] | None) -> None:
        """Have `state()` asked for what `ctx.restored` shall be, instead of calling `checkpoint` yourself.

        The node asks each `checkpointInterval` (what has not changed costs nothing), and once more when the
        task shall leave the node. `state` is quick; plain, or async. A plain one is called between two awaits
        of the skill, and while a plain handler runs, from another thread. None ends it.
        """
        self._state_of = state

    async def save_now(self, leaving: bool) -> None:
        """Called by the child process when the node asks; `leaving`: also what has not changed."""
        if self._state_of is None or self._saving:
            return
        self._saving = True
        try:
            state = self._state_of()
            if inspect.isawaitable(state):
                state = await state
            data = jsonio.encode(state, "the checkpoint", self._facts.checkpoint_bytes_max)
            if leaving or data != self._saved:
                await self._save(data)
        except Exception as error:
            self.log.warning("no checkpoint: %r", error)
        finally:
            self._saving = False

    async def _save(self, data: bytes) -> None:
        await self._link.save_checkpoint(data)
        self._saved = data
