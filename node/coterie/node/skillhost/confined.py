"""The pool of confined children: one process for each run, walled in before it reads the skill.

Making one takes longer than most runs, so a few are made ahead of need: they wait behind all walls that no
skill has a say in, knowing nothing of any skill, task or tenant, until a run takes one and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coterie.node.skillhost import verdicts
from coterie.node.skillhost.cell import Cell
from coterie.node.skillhost.child import Child, Run
from coterie.node.skillhost.nouns import SkillHostOptions, SkillHostStats, SkillJob, SkillOutcome
from coterie.node.skillhost.pool import ChildPool
from coterie.node.skillhost.scratch import RUNS, Scratch
from coterie.node.skillhost.zygote import Zygote
from coterie.skills.sandbox import NETWORK, OWN_USER, REQUIRED, Layer

log = logging.getLogger(__name__)

REFILL_AFTER_S = 0.02
"""Without a run that starts: children are made ahead when nobody waits for one, one after the other. Under
steady load there is no such time, and each run's is made when it is due."""


class ConfinedPool(ChildPool):
    """Runs skills that nobody here vouches for. Its children are never used twice; the idle ones are those
    that were made ahead of need and have run nothing."""

    def __init__(
        self, options: SkillHostOptions, zygote: Zygote, stats: SkillHostStats, layers: Sequence[Layer]
    ) -> None:
        super().__init__(options, zygote, stats, confining=True)
        self._standing = frozenset(layer.name for layer in layers if layer.active)
        self._missing = {layer.name: layer.detail for layer in layers if not layer.active}
        sandbox = options.sandbox
        # Its runs, users of their own, go through it to their folders; they cannot list it.
        self._scratch = Scratch(RUNS, sandbox.scratch_name, sandbox.scratch_dir, mode=0o711)
        self._cells = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._refilling: asyncio.TimerHandle | None = None
        self._wanted: set[bool] = set()
        """Whether with a network or not: of which kinds children are kept waiting."""

    async def start(self) -> None:
        """See ChildPool.start. Raises SkillHostError, OSError."""
        await super().start()
        await asyncio.to_thread(self._scratch.folder)
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="disks of skills")

    async def stop(self) -> None:
        """See ChildPool.stop."""
        if self._refilling is not None:
            self._refilling.cancel()
        await super().stop()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if self._closing:
            await asyncio.wait(self._closing)
        await asyncio.to_thread(self._scratch.clear)

    def set_lease(self, until: float) -> None:
        """Skills may run until then (monotonic clock, seconds)."""
        self._keeper.set_lease(until)

    def _settings_of(self, job: SkillJob) -> Mapping[str, Any]:
        """See ChildPool. Who is not trusted gets no secrets, whatever name it took."""
        return self._options.confined_settings.get(job.skill, {})

    def _unfit(self, job: SkillJob) -> SkillOutcome | None:
        assert job.confined is not None
        wanted = {*REQUIRED, NETWORK} if job.confined.network else set(REQUIRED)
        missing = {name: self._missing.get(name, "not tried") for name in sorted(wanted - self._standing)}
        return verdicts.not_confinable(job.skill, missing) if missing else None

    def _default_timeout_ms(self, job: SkillJob) -> int:
        assert job.confined is not None
        return job.confined.timeout_ms or job.default_timeout_ms

    def _may_run_again(self, child: Child) -> bool:
        return False

    def _child_for(self, run: Run) -> Child | None:
        """One that waits, or a new one. Those that wait come on top of those that run."""
        assert run.job.confined is not None
        if len(self._children) - len(self._idle) >= self._options.max_children:
            return None
        network = bool(run.job.confined.network)
        self._wanted.add(network)
        self._refill_later()
        for child in list(self._idle_ones(network)):
            self._idle.remove(child)
            if child.cell is not None and child.cell.folder.is_dir():
                return child
            self._kill(child)  # its folder was tidied away while it waited
        return self._confined_child(network)

    def _idle_ones(self, network: bool) -> Iterator[Child]:
        """The oldest first: it is the one most surely there."""
        return (child for child in self._idle if child.cell is not None and child.cell.box.network == network)

    def _confined_child(self, network: bool) -> Child:
        self._cells += 1
        options = self._options.sandbox
        own_user = options.own_user and OWN_USER in self._standing
        cell = Cell(self._scratch.folder() / str(self._cells), options, own_user, network)
        try:
            return self._new_child(cell)
        except OSError:
            self._close_later(cell)
            raise

    def _refill_later(self) -> None:
        if self._refilling is not None:
            self._refilling.cancel()
        self._refilling = asyncio.get_running_loop().call_later(REFILL_AFTER_S, self._refill)

    def _refill(self) -> None:
        """Make one child, if one is missing and may be made; the others in their turn."""
        self._refilling = None
        if self._stopping or not self._keeper.zygote.is_ready:
            return
        if time.monotonic() >= self._keeper.lease_until:
            return  # it would be killed at once
        for network in sorted(self._wanted):
            if sum(1 for _ in self._idle_ones(network)) < self._options.sandbox.waiting_children:
                try:
                    self._idle.append(self._confined_child(network))
                except OSError as error:
                    log.warning("no process could be made ahead of need: %s", error)
                    return
                self._refill_later()
                return

    def _let_go(self, child: Child) -> None:
        if child.cell is not None:
            self._close_later(child.cell)

    def _close_later(self, cell: Cell) -> None:
        task = asyncio.get_running_loop().create_task(cell.close(), name="cell of a skill")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _watch(self) -> None:
        """End runs that fill the disk. The kernel limits single files, not their number."""
        while True:
            await asyncio.sleep(self._options.sandbox.watch_interval_s)
            for child in list(self._children.values()):
                try:
                    await self._measure(child)
                except Exception:  # of this one; the others are measured all the same
                    log.exception("the disk of a skill could not be measured")

    async def _measure(self, child: Child) -> None:
        cell, run, bytes_max = child.cell, child.run, self._options.sandbox.disk_bytes_max
        if cell is None or run is None:
            return
        used = await asyncio.to_thread(cell.bytes_used, child.pid)
        if used > bytes_max and child.run is run:
            self.kill_run(run, verdicts.too_much_disk(used, bytes_max))
