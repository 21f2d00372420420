"""The host of all skills: those the node trusts run in children that are used again, the others each in a
sandbox of its own. The zygote of the others is started when the first of them is to run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from coterie.node.schemas import faults_by_text
from coterie.node.skillhost import verdicts
from coterie.node.skillhost.confined import ConfinedPool
from coterie.node.skillhost.nouns import (
    JobPort,
    SkillHostOptions,
    SkillHostStats,
    SkillJob,
    SkillOutcome,
    SkillSource,
)
from coterie.node.skillhost.pool import ChildPool
from coterie.node.skillhost.zygote import Zygote
from coterie.skills.sandbox import REQUIRED, Layer

log = logging.getLogger(__name__)


class SkillHost(ChildPool):
    """The pool of trusted children, and behind it the confined one. All methods belong to one loop."""

    def __init__(self, options: SkillHostOptions, zygote: Zygote) -> None:
        super().__init__(options, zygote, SkillHostStats())
        self._confined: ConfinedPool | None = None
        self._starting = asyncio.Lock()
        self.source: SkillSource | None = None
        """Set before the first run of a published skill."""
        self._resolving: dict[tuple[str, int], bool] = {}

    @classmethod
    def spawn(cls, options: SkillHostOptions) -> SkillHost:
        """Start the zygote. Synchronous; call it first thing, from the main thread. Raises SkillHostError."""
        return cls(options, Zygote.launch(options))

    async def start(self) -> None:
        """Attach to the running loop and wait until the skills are loaded. Raises SkillHostError."""
        await super().start()
        standing = [layer.name for layer in self.layers if layer.active]
        missing = {layer.name: layer.detail for layer in self.layers if not layer.active}
        log.info("sandbox", extra={"layers": standing, "missing": missing})

    @property
    def confines(self) -> bool:
        """Whether untrusted skills can run here, those without a network at least."""
        return set(REQUIRED) <= {layer.name for layer in self.layers if layer.active}

    @property
    def layers(self) -> Sequence[Layer]:
        """What a sandbox consists of on this machine."""
        return self._keeper.zygote.layers

    @property
    def running(self) -> int:
        """Runs in flight, waiting ones included."""
        return super().running + (self._confined.running if self._confined else 0)

    @property
    def child_pids(self) -> list[int]:
        """The living children, idle or busy, as far as the zygotes have reported them."""
        return super().child_pids + (self._confined.child_pids if self._confined else [])

    async def run(self, job: SkillJob, port: JobPort) -> SkillOutcome:
        """See ChildPool.run. A job of a published skill waits until its files are here, and what comes of it
        is checked. Raises what `source` raises."""
        if not job.revision or self.source is None:
            return await self._run(job, port)
        key = (job.task_id, job.attempt)
        self._resolving[key] = False
        try:
            found = await self.source.resolve(job)
            if isinstance(found, SkillOutcome) or self._resolving[key]:
                return found if isinstance(found, SkillOutcome) else verdicts.CANCELLED
        finally:
            del self._resolving[key]
        return self.source.checked(found, await self._run(found, port))

    async def _run(self, job: SkillJob, port: JobPort) -> SkillOutcome:
        """Untrusted skills go into the sandbox; what those on disk take and give is looked at here."""
        if job.confined is None:
            return await self._run_local(job, port)
        if job.confined.trusted:
            return await super().run(job, port)
        return await (await self._sandbox()).run(job, port)

    async def _run_local(self, job: SkillJob, port: JobPort) -> SkillOutcome:
        said = self.skills.get(job.skill)
        if said is not None and (wrong := faults_by_text(said.input, job.payload)):
            return verdicts.misfit("BAD_INPUT", "payload", wrong)
        outcome = await super().run(job, port)
        if said is None or outcome.kind != "succeeded":
            return outcome
        wrong = faults_by_text(said.output, outcome.result)
        return verdicts.misfit("BAD_OUTPUT", "result", wrong) if wrong else outcome

    def cancel(self, task_id: str, attempt: int, grace_ms: int) -> None:
        """See ChildPool.cancel."""
        if (task_id, attempt) in self._resolving:
            self._resolving[task_id, attempt] = True
        super().cancel(task_id, attempt, grace_ms)
        if self._confined is not None:
            self._confined.cancel(task_id, attempt, grace_ms)

    def is_waiting(self, task_id: str, attempt: int) -> bool:
        """See ChildPool.is_waiting."""
        confined = self._confined
        waits = confined is not None and confined.is_waiting(task_id, attempt)
        return waits or super().is_waiting(task_id, attempt)

    def ask_to_save(self, task_id: str, attempt: int, leaving: bool) -> None:
        """See ChildPool.ask_to_save."""
        super().ask_to_save(task_id, attempt, leaving)
        if self._confined is not None:
            self._confined.ask_to_save(task_id, attempt, leaving)

    def extend_lease(self, valid_for_ms: int) -> None:
        """See ChildPool.extend_lease."""
        super().extend_lease(valid_for_ms)
        if self._confined is not None:
            self._confined.extend_lease(valid_for_ms)

    async def stop(self) -> None:
        """See ChildPool.stop."""
        self._stopping = True
        async with self._starting:
            if self._confined is not None:
                await self._confined.stop()
        await super().stop()

    async def _sandbox(self) -> ConfinedPool:
        """The confined pool, started. Raises SkillHostError."""
        async with self._starting:
            if self._confined is None or not self._confined.started:
                options = self._options
                zygote = Zygote.launch(options, confining=True)
                pool = ConfinedPool(options, zygote, self.stats, self.layers)
                pool.on_skill_log = lambda *record: self.on_skill_log(*record)
                self._confined = pool
                await pool.start()
                pool.set_lease(self._keeper.lease_until)
            if self._stopping:
                await self._confined.stop()
            return self._confined
