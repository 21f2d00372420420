"""One attempt of one task on this node: its inputs, its child process, its reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from coterie.core.commands import (
    Accepted,
    Command,
    ConfirmCancel,
    ExpireTask,
    FailAttempt,
    FinishTask,
    Outcome,
    RecordStep,
    Rejected,
    ReleaseTask,
    ReportProgress,
    SaveCheckpoint,
    StartTask,
)
from coterie.core.nouns import NO_DATA, Data, ExpiryKind, Step, Task, TaskError, TaskId
from coterie.core.ports import NotCommitted
from coterie.node.blob_exchange import BlobExchange
from coterie.node.clock import Clock
from coterie.node.errors import ApiError
from coterie.node.metrics import NodeMetrics
from coterie.node.observability import get_logger
from coterie.node.proposer import Proposer
from coterie.node.skillhost import SkillHost, SkillJob, SkillOutcome
from coterie.skills import Fenced

log = get_logger(__name__)

REPORT_TIMEOUT_S = 30.0  # one try of a report; an end is reported until the log says yes or no
START_DELAY_S = 0.02  # a task that ends sooner needs no report of its start
PROGRESS_INTERVAL_S = 0.2
EWMA_WEIGHT = 0.2
STEP_FULL = {"TOO_MANY_STEPS", "TASK_TOO_LARGE"}


class JobFactory:
    """Makes jobs; keeps what is common to them."""

    def __init__(
        self,
        proposer: Proposer,
        blobs: BlobExchange,
        host: SkillHost,
        clock: Clock,
        metrics: NodeMetrics,
    ) -> None:
        self.proposer, self.blobs, self.host = proposer, blobs, host
        self.clock, self.metrics = clock, metrics
        self.service_ms: dict[str, float] = {}

    def make(self, task: Task, steps: Iterable[Step]) -> Job:
        return Job(self, task, steps)

    def observe(self, skill: str, took_ms: float) -> None:
        before = self.service_ms.get(skill, took_ms)
        self.service_ms[skill] = before + EWMA_WEIGHT * (took_ms - before)
        self.metrics.skill_ran(skill, took_ms)


class Job:
    """Runs the skill in a child process and turns what it says into commands (the JobPort of the host)."""

    def __init__(self, shared: JobFactory, task: Task, steps: Iterable[Step]) -> None:
        self._shared, self._task, self._steps = shared, task, list(steps)
        self.task_id: TaskId = task.task_id
        self.attempt = task.attempt
        self.done: asyncio.Task[None]
        self._checkpoint_number = task.checkpoint_number
        self._cancelling = self._leaving = self._stopped = self._finished = self._killed = False
        self._progress: tuple[float, str] | None = None
        self._progress_timer: asyncio.TimerHandle | None = None
        self._start_timer: asyncio.TimerHandle | None = None
        self._reports: set[asyncio.Task[None]] = set()

    # --- what the worker does with it

    def start(self, on_end: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.done = loop.create_task(self._run(), name=f"job-{self.task_id}-{self.attempt}")
        self.done.add_done_callback(lambda _: on_end())
        self._start_timer = loop.call_later(START_DELAY_S, self._report_start)

    def stop(self) -> None:
        """End at once, report nothing: the attempt is not ours any more."""
        if not self._stopped:
            self._stopped = True
            self.done.cancel()

    def cancel(self, grace_ms: int) -> None:
        if not self._cancelling:
            self._cancelling = True
            self._shared.host.cancel(self.task_id, self.attempt, grace_ms)

    def leave(self, at_once: bool) -> None:
        """The node is draining: give the task back after its next step, or now."""
        self._leaving = True
        if at_once:
            self._kill()

    # --- what the skill says (JobPort)

    async def record_step(self, key: str, result: bytes) -> None:
        kept = await self._shared.blobs.keep(result)
        outcome = await self._commit(RecordStep(self.task_id, self.attempt, key, kept), len(kept.inline))
        self._believe(outcome)
        self._shared.metrics.step_recorded()
        self._leave_after_step()

    async def save_checkpoint(self, state: bytes) -> None:
        kept = await self._shared.blobs.keep(state)
        self._checkpoint_number += 1
        command = SaveCheckpoint(self.task_id, self.attempt, kept, self._checkpoint_number)
        self._believe(await self._commit(command, len(kept.inline)))
        self._leave_after_step()

    def report_progress(self, percent: float, message: str) -> None:
        """The latest value goes out at most every PROGRESS_INTERVAL_S; the ones between are dropped."""
        waiting = self._progress is not None
        self._progress = (percent, message)
        if not waiting:
            loop = asyncio.get_running_loop()
            self._progress_timer = loop.call_later(PROGRESS_INTERVAL_S, self._send_progress)

    # --- inside

    def _leave_after_step(self) -> None:
        if self._leaving:
            asyncio.get_running_loop().call_soon(self._kill)

    def _kill(self) -> None:
        """Stop the skill, once; the end is reported all the same."""
        if not self._finished and not self._killed:
            self._killed = True
            self.done.cancel()

    def _believe(self, outcome: Outcome) -> None:
        if isinstance(outcome, Accepted):
            return
        if outcome.code in STEP_FULL:
            raise ValueError(outcome.reason)  # the skill's own fault: it sees the error
        raise Fenced(outcome.reason)

    async def _commit(self, command: Command, size: int = 0) -> Outcome:
        """Until the log answers: a report is repeated with the same content, never dropped."""
        while True:
            try:
                return await self._shared.proposer.one(command, REPORT_TIMEOUT_S, size)
            except NotCommitted as error:
                fields = {"task_id": self.task_id, "attempt": self.attempt, "error": str(error)}
                log.info("report not committed yet", extra=fields)

    def _report_start(self) -> None:
        self._report(StartTask(self.task_id, self.attempt))

    def _send_progress(self) -> None:
        if self._progress is not None and not self._finished:
            percent, message = self._progress
            self._progress = None
            self._report(ReportProgress(self.task_id, self.attempt, round(percent * 100), message))

    def _report(self, command: Command) -> None:
        """Nice to know: proposed once, not waited for by the skill."""
        task = asyncio.get_running_loop().create_task(self._report_once(command), name="report")
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def _report_once(self, command: Command) -> None:
        try:
            await self._shared.proposer.one(command, REPORT_TIMEOUT_S)
        except NotCommitted as error:
            log.debug("report lost", extra={"task_id": self.task_id, "error": str(error)})

    async def _run(self) -> None:
        began = self._shared.clock.monotonic()
        try:
            outcome = await self._run_skill()
        except asyncio.CancelledError:
            self.done.uncancel()  # taken note of: the report still has to go out
            outcome = None
        except ApiError as error:  # an input that no node has
            outcome = SkillOutcome("failed", code=error.reason, message=error.message)
        finally:
            self._finished = True
            for timer in (self._start_timer, self._progress_timer):
                if timer is not None:
                    timer.cancel()
        if outcome is not None and outcome.kind == "succeeded":
            self._shared.observe(self._task.type, (self._shared.clock.monotonic() - began) * 1000)
        if not self._stopped:
            await self._report_end(outcome)

    async def _run_skill(self) -> SkillOutcome:
        load = self._shared.blobs.load
        task = self._task
        job = SkillJob(
            task_id=task.task_id,
            attempt=task.attempt,
            skill=task.type,
            payload=await load(task.payload),
            steps={step.key: await load(step.result) for step in self._steps},
            checkpoint=None if task.checkpoint is NO_DATA else await load(task.checkpoint),
            timeout_ms=task.attempt_timeout_ms,
        )
        return await self._shared.host.run(job, self)

    async def _report_end(self, outcome: SkillOutcome | None) -> None:
        """Tell the log how the attempt ended. A refusal means that it was not ours any more: fine."""
        command = await self._ending(outcome)
        if command is None:
            return
        size = len(command.result.inline) if isinstance(command, FinishTask) else 0
        answer = await self._commit(command, size)
        if isinstance(answer, Rejected):
            fields = {"task_id": self.task_id, "attempt": self.attempt, "code": answer.code}
            log.info("end of an attempt refused", extra=fields)

    async def _ending(self, outcome: SkillOutcome | None) -> Command | None:
        task_id, attempt = self.task_id, self.attempt
        if self._cancelling and (outcome is None or outcome.kind != "succeeded"):
            return ConfirmCancel(task_id, attempt)
        if outcome is None:
            return ReleaseTask(task_id, attempt, "its node is draining" if self._leaving else "stopped")
        if outcome.kind == "succeeded":
            return await self._finish(outcome)
        if outcome.kind == "fenced":
            return None
        if outcome.kind == "lease_lost":
            return ReleaseTask(task_id, attempt, "its node lost its lease", lost=True)
        if outcome.kind == "timed_out":
            return ExpireTask(task_id, attempt, ExpiryKind.ATTEMPT, self._shared.clock.dice())
        error = TaskError(outcome.code, outcome.message, outcome.retryable, outcome.traceback)
        return FailAttempt(task_id, attempt, error, self._shared.clock.dice())

    async def _finish(self, outcome: SkillOutcome) -> Command:
        try:
            kept: Data = await self._keep_result(outcome.result)
        except ApiError as error:
            failure = TaskError(error.reason, error.message, retryable=False)
            return FailAttempt(self.task_id, self.attempt, failure, self._shared.clock.dice())
        return FinishTask(self.task_id, self.attempt, kept)

    async def _keep_result(self, result: bytes) -> Data:
        while True:
            try:
                return await self._shared.blobs.keep(result)
            except ApiError as error:
                if error.reason != "NO_QUORUM":
                    raise
                await asyncio.sleep(0.2)  # the content is here: wait for a majority to come back
