"""The host of all skills: those the node trusts run in children that are used again, the others each in a
sandbox of its own. The zygote of the others is started when the first of them is to run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from coterie.node.schema_checks import SchemaChecks
from coterie.node.skillhost import verdicts
from coterie.node.skillhost.confined import ConfinedPool
from coterie.node.skillhost.nouns import (
    JobPort,
    SkillHostError,
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
        self._preparing: dict[tuple[str, int], bool] = {}
        """Runs that no pool knows yet: whether they were cancelled."""
        self._checks = SchemaChecks()

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
        """See ChildPool.run. A job of a published skill waits until its files are here; what any skill takes
        and gives is checked. Raises what `source` raises, and ApiError where a check came to no end."""
        key = (job.task_id, job.attempt)
        if key in self._preparing:
            raise ValueError(f"task {job.task_id} attempt {job.attempt} is running already")
        self._preparing[key] = False
        try:
            found = await self._prepared(job)
            if isinstance(found, SkillOutcome):
                return found
            try:
                pool = await self._pool_of(found)
            except (OSError, SkillHostError) as error:
                return verdicts.start_failed(str(error))
            if self._preparing[key]:
                return verdicts.CANCELLED
        finally:
            del self._preparing[key]  # from here on the pool knows the run: nothing comes in between
        outcome = await (super().run(found, port) if pool is None else pool.run(found, port))
        return await self._checked(found, outcome)

    async def _prepared(self, job: SkillJob) -> SkillJob | SkillOutcome:
        """The job as it can run, with its files if it is of a published skill, or why it cannot."""
        found = await self.source.resolve(job) if job.revision and self.source is not None else job
        if isinstance(found, SkillOutcome):
            return found
        described = found.confined or self.skills.get(found.skill)
        schema = described.input if described is not None else ""
        wrong = await self._checks.faults(schema, found.payload, found.confined is not None)
        return verdicts.misfit("BAD_INPUT", "payload", wrong) if wrong else found

    async def _pool_of(self, job: SkillJob) -> ConfinedPool | None:
        """Untrusted skills go into the sandbox; None: the others run in this very pool."""
        confines = job.confined is not None and not job.confined.trusted
        return await self._sandbox() if confines else None

    async def _checked(self, job: SkillJob, outcome: SkillOutcome) -> SkillOutcome:
        """What a skill gives must be what it promises."""
        described = job.confined or self.skills.get(job.skill)
        if described is None or outcome.kind != "succeeded":
            return outcome
        wrong = await self._checks.faults(described.output, outcome.result, job.confined is not None)
        return verdicts.misfit("BAD_OUTPUT", "result", wrong) if wrong else outcome

    def cancel(self, task_id: str, attempt: int, grace_ms: int) -> None:
        """See ChildPool.cancel."""
        if (task_id, attempt) in self._preparing:
            self._preparing[task_id, attempt] = True
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
        try:
            await self._checks.close()
            async with self._starting:
                if self._confined is not None:
                    await self._confined.stop()
        finally:
            await super().stop()

    async def _sandbox(self) -> ConfinedPool:
        """The confined pool, started. Raises SkillHostError, OSError."""
        async with self._starting:
            if self._confined is None:
                options = self._options
                zygote = Zygote.launch(options, confining=True)
                pool = ConfinedPool(options, zygote, self.stats, self.layers)
                pool.on_skill_log = lambda *record: self.on_skill_log(*record)
                try:
                    await pool.start()
                except BaseException:
                    await pool.stop()
                    raise
                self._confined = pool
                pool.set_lease(self._keeper.lease_until)
            if self._stopping:
                await self._confined.stop()
            return self._confined
