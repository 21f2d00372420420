"""Keeps a zygote alive: starts it, replaces it when it dies, tells each new one until when skills may run."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping

from coterie.node.skillhost.nouns import SkillHostError, SkillHostOptions, SkillHostStats, SkillInfo
from coterie.node.skillhost.zygote import OnExited, Zygote

RESTART_DELAY_MIN_S = 0.05
RESTART_DELAY_MAX_S = 5.0
HEALTHY_AFTER_S = 10.0

log = logging.getLogger(__name__)


class ZygoteKeeper:
    """The zygote of one host. `on_loss` is called when it has died, `on_return` when there is a new one."""

    def __init__(
        self,
        options: SkillHostOptions,
        zygote: Zygote,
        stats: SkillHostStats,
        on_spawned: Callable[[int, int, int], None],
        on_exited: OnExited,
        on_loss: Callable[[], None],
        on_return: Callable[[], None],
        confining: bool = False,
    ) -> None:
        self.zygote = zygote
        self.skills: Mapping[str, SkillInfo] = {}
        self.lease_until = math.inf
        self._options, self._stats, self._confining = options, stats, confining
        self._on_spawned, self._on_exited = on_spawned, on_exited
        self._on_loss, self._on_return = on_loss, on_return
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Wait until the skills are loaded; from then on keep them loaded. Raises SkillHostError."""
        await self._adopt(self.zygote)
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise(), name="skill host")

    def set_lease(self, until: float) -> None:
        """Running children are killed at `until` (monotonic clock, seconds), whichever zygote has them."""
        self.lease_until = until
        if self.zygote.is_ready:
            self.zygote.set_lease(until)

    async def stop(self) -> None:
        """End the zygote, for good. May be called twice."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        await self.zygote.stop()

    async def _adopt(self, zygote: Zygote) -> None:
        zygote.attach(asyncio.get_running_loop(), self._on_spawned, self._on_exited, _log_import_line)
        try:
            await asyncio.wait([zygote.ready], timeout=self._options.ready_timeout_ms / 1_000)
        finally:
            if not zygote.is_ready:
                await zygote.stop()
        if not zygote.is_ready:
            raise SkillHostError(
                f"the process for skills died or was not ready within {self._options.ready_timeout_ms} ms; "
                f"it printed: {zygote.last_output}"
            )
        self.zygote = zygote
        self.skills = zygote.skills
        if self.lease_until != math.inf:
            zygote.set_lease(self.lease_until)

    async def _supervise(self) -> None:
        """Replace the zygote whenever it dies, more slowly each time it dies young."""
        delay_s = RESTART_DELAY_MIN_S
        while True:
            started_at = time.monotonic()
            await self.zygote.lost.wait()
            log.error("the process for skills died: %s", self.zygote.last_output)
            self._on_loss()
            await self.zygote.stop()
            if time.monotonic() - started_at > HEALTHY_AFTER_S:
                delay_s = RESTART_DELAY_MIN_S
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RESTART_DELAY_MAX_S)
            delay_s = await self._relaunch(delay_s)
            self._on_return()

    async def _relaunch(self, delay_s: float) -> float:
        """Try until a new zygote is ready; returns the next delay."""
        while True:
            self._stats.restarts += 1
            try:
                await self._adopt(Zygote.launch(self._options, self._confining))
            except SkillHostError as error:
                log.error("the process for skills could not be started again: %s", error)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RESTART_DELAY_MAX_S)
            else:
                return delay_s


def _log_import_line(text: str) -> None:
    log.info("while loading skills: %s", text)
