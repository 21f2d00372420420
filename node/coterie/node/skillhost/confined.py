"""The pool of confined children: one process for each run, walled in before it reads the skill."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.node.skillhost import verdicts
from coterie.node.skillhost.cell import Cell, bytes_used, remove_tree
from coterie.node.skillhost.child import Child, Run
from coterie.node.skillhost.nouns import SkillHostOptions, SkillHostStats, SkillJob, SkillOutcome
from coterie.node.skillhost.pool import ChildPool
from coterie.node.skillhost.zygote import Zygote
from coterie.skills.sandbox import NETWORK, OWN_USER, REQUIRED, Layer


class ConfinedPool(ChildPool):
    """Runs skills that nobody here vouches for. Its children are never used twice."""

    def __init__(
        self, options: SkillHostOptions, zygote: Zygote, stats: SkillHostStats, layers: Sequence[Layer]
    ) -> None:
        super().__init__(options, zygote, stats, confining=True)
        self.started = False
        self._standing = frozenset(layer.name for layer in layers if layer.active)
        self._missing = {layer.name: layer.detail for layer in layers if not layer.active}
        self._scratch: Path | None = None
        self._cells = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See ChildPool.start. Raises SkillHostError, OSError."""
        await super().start()
        base = self._options.sandbox.scratch_dir
        self._scratch = Path(tempfile.mkdtemp(prefix=f"coterie-{self._options.node_id}-", dir=base))
        # Its runs, users of their own, go through it to their folders; they cannot list it.
        self._scratch.chmod(0o711)
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="disks of skills")
        self.started = True

    async def stop(self) -> None:
        """See ChildPool.stop."""
        await super().stop()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if self._closing:
            await asyncio.wait(self._closing)
        if self._scratch is not None:
            await asyncio.to_thread(remove_tree, self._scratch)

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
        return job.confined.timeout_ms

    def _may_run_again(self, child: Child) -> bool:
        return False

    def _cell(self, run: Run | None) -> Cell | None:
        assert run is not None and run.job.confined is not None and self._scratch is not None
        self._cells += 1
        job, options = run.job, self._options.sandbox
        own_user = options.own_user and OWN_USER in self._standing
        return Cell(self._scratch / str(self._cells), run.job.confined, options, job.task_id, own_user)

    def _let_go(self, child: Child) -> None:
        if child.cell is not None:
            task = asyncio.get_running_loop().create_task(child.cell.close(), name="cell of a skill")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _watch(self) -> None:
        """End runs that fill the disk. The kernel limits single files, not their number."""
        options = self._options.sandbox
        while True:
            await asyncio.sleep(options.watch_interval_s)
            for child in list(self._children.values()):
                if child.cell is None or child.run is None:
                    continue
                used = await asyncio.to_thread(bytes_used, child.cell.folder)
                if used > options.disk_bytes_max and child.run is not None:
                    self.kill_run(child.run, verdicts.too_much_disk(used, options.disk_bytes_max))
