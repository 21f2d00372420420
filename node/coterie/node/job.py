"""One attempt of one task on this node: its inputs, its child process, its reports."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import grpc

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
    SuspendTask,
)
from coterie.core.nouns import (
    Data,
    ExpiryKind,
    Signal,
    Step,
    Task,
    TaskError,
    TaskId,
    WaitReason,
)
from coterie.core.ports import NotCommitted
from coterie.core.state import ClusterState
from coterie.node.attempt_limit import AttemptLimit, own_limit_ms
from coterie.node.blob_exchange import BlobExchange
from coterie.node.clock import Clock
from coterie.node.departure import Departure
from coterie.node.errors import from_exception
from coterie.node.inputs import bounded, skill_job
from coterie.node.metrics import NodeMetrics
from coterie.node.observability import get_logger
from coterie.node.optimist import WithNext, alone
from coterie.node.patient_blobs import PatientBlobs
from coterie.node.proposer import Proposer
from coterie.node.service_times import ServiceTimes
from coterie.node.skill_calls import STEP_FAULTS, Handlers, answer
from coterie.node.skillhost import SkillHost, SkillOutcome
from coterie.node.skillhost.nouns import SkillWait, Suspended
from coterie.skills import Fenced

log = get_logger(__name__)

REPORT_TIMEOUT_S = 30.0  # one try of a report; an end is reported until the log says yes or no
START_DELAY_S = 0.1  # a task that ends sooner needs no report of its start
RETRY_PAUSE_S = 0.1  # between two tries while there is no majority
PROGRESS_INTERVAL_S = 0.2
MESSAGE_CHARS_MAX = 2_000
CHILD_RESULT_INLINE_MAX = 2_048  # bytes
NODE_FAULTS = {"HOST_LOST", "HOST_STOPPED"}  # the attempt is lost with its node's skills; it did not fail
Answer = TypeVar("Answer")


class JobFactory:
    """Makes jobs; keeps what is common to them."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        proposer: Proposer,
        blobs: BlobExchange,
        host: SkillHost,
        clock: Clock,
        metrics: NodeMetrics,
        calls: Handlers,
        with_next: WithNext = alone,
    ) -> None:
        self.state, self.proposer, self.blobs, self.host = state, proposer, blobs, host
        self.with_next = with_next
        self.clock, self.metrics, self.calls = clock, metrics, calls
        self.times = ServiceTimes(clock)
        self.default_timeout_ms: Callable[[], int] = lambda: 0
        """Of an attempt of which neither the task nor its skill says anything; 0: none."""

    def make(self, task: Task, steps: Iterable[Step]) -> Job:
        return Job(self, task, steps)


class Job:
    """Runs the skill in a child process and turns what it says into commands (the JobPort of the host)."""

    def __init__(self, shared: JobFactory, task: Task, steps: Iterable[Step]) -> None:
        self._shared, self._task, self._steps = shared, task, list(steps)
        self.task_id: TaskId = task.task_id
        self.attempt = task.attempt
        self._blobs = PatientBlobs(shared.blobs, task.task_id, task.attempt)
        self.done: asyncio.Task[None]
        self._checkpoint_number = task.checkpoint_number
        self._cancelling = self._stopped = False
        self._departure = Departure(self._kill)
        self._limit = AttemptLimit(task, shared.proposer, shared.clock)
        self._entered = self._in_host = self._killed = self._finished = False
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
            self._limit.stop()
            self._cancel_timers()
            if self._finished or not self._killed:  # a second blow would let go of a dying process
                self.done.cancel()

    def withdraw(self) -> None:
        """The node is stopping: end the skill and let the worker give the task back. What had ended is still
        reported."""
        if not self._finished:
            self.stop()

    def cancel(self, grace_ms: int) -> None:
        """Somebody asked to cancel: politely when the skill runs, else before it does."""
        if self._cancelling:
            return
        self._cancelling = True
        if self._in_host:
            self._shared.host.cancel(self.task_id, self.attempt, grace_ms)
        else:
            self._kill()

    def leave(self, at_once: bool) -> None:
        """The node is draining: give the task back after its next step, or now."""
        self._departure.ask()
        if at_once:
            self._kill()

    def stay(self) -> None:
        """The drain was called off."""
        self._departure.call_off()

    # --- what the skill says (JobPort)

    async def record_step(self, key: str, result: bytes, beside: tuple[str, ...] = ()) -> None:
        kept = await self.keep(result)
        self._believe(await self.commit(RecordStep(self.task_id, self.attempt, key, kept, beside)))
        self.step_recorded()

    async def save_checkpoint(self, state: bytes) -> None:
        self._checkpoint_number += 1
        number = self._checkpoint_number  # the order of the calls, whichever is kept first
        done = len(self.state.steps.get(self.task_id, ()))
        kept = await self.keep(state)
        self._believe(await self.commit(SaveCheckpoint(self.task_id, self.attempt, kept, number, done)))
        self._departure.step_done()

    async def wait(self, wait: SkillWait) -> bytes | None:
        """The n-th wait for a name gets the n-th signal of that name, in every attempt the same."""
        signal = await self.await_signal(wait)
        return None if signal.timed_out else await self.load(signal.payload)

    async def call(self, name: str, args: bytes) -> bytes:
        """See JobPort."""
        async with self._departure.calling(name):
            return await answer(self._shared.calls, self, name, args)

    def report_progress(self, percent: float, message: str) -> None:
        """The latest value goes out at most every PROGRESS_INTERVAL_S; the ones between are dropped."""
        waiting = self._progress is not None
        self._progress = (percent, message)
        if not waiting:
            loop = asyncio.get_running_loop()
            self._progress_timer = loop.call_later(PROGRESS_INTERVAL_S, self._send_progress)

    # --- what the handlers of calls use (Run)

    @property
    def task(self) -> Task:
        """See Run."""
        return self._task

    @property
    def state(self) -> ClusterState:
        """See Run."""
        return self._shared.state()

    async def commit_own(self, command: Command) -> Outcome:
        """See Run."""
        outcome = await self.commit(command)
        if isinstance(outcome, Rejected) and outcome.code == "FENCED":
            raise Fenced(outcome.reason)
        return outcome

    def step_recorded(self) -> None:
        """See Run."""
        self._shared.metrics.step_recorded()
        self._departure.step_done()

    async def await_signal(self, wait: SkillWait) -> Signal:
        """See Run."""
        signal = self._told(wait)
        if signal is None:
            reason = WaitReason[wait.reason]
            command = SuspendTask(self.task_id, self.attempt, reason, wait.name, wait.seen, wait.timeout_ms)
            outcome = await self.commit(command)
            if isinstance(outcome, Accepted):
                raise Suspended
            signal = self._told(wait) if outcome.code == "WAIT_OVER" else None
            if signal is None:
                self._believe(outcome)
                raise Fenced(outcome.reason)
        return signal

    # --- inside

    def _told(self, wait: SkillWait) -> Signal | None:
        """What this node's replica has for that wait: nothing there is taken back or reordered."""
        task = self._shared.state().tasks.get(self.task_id)
        if task is None or task.attempt != self.attempt:
            return None
        named = [signal for signal in task.signals if signal.name == wait.name]
        return named[wait.seen] if len(named) > wait.seen else None

    def _kill(self) -> None:
        """Stop the skill, once; the end is reported all the same."""
        if self._finished or self._killed or self._stopped:
            return
        self._killed = True
        if self._entered:  # else it will look before it starts: a task cancelled earlier would never report
            self.done.cancel()

    def _cancel_timers(self) -> None:
        for timer in (self._start_timer, self._progress_timer):
            if timer is not None:
                timer.cancel()

    def _believe(self, outcome: Outcome) -> None:
        if isinstance(outcome, Accepted):
            return
        if outcome.code in STEP_FAULTS:
            raise ValueError(outcome.reason)  # the skill's own fault: it sees the error
        raise Fenced(outcome.reason)

    async def commit(self, command: Command) -> Outcome:
        """Until the log answers: a report is repeated with the same content, never dropped."""
        return await self._committed(lambda: self._shared.proposer.one(command, REPORT_TIMEOUT_S))

    async def commit_all(self, commands: Sequence[Command]) -> list[Outcome]:
        """See Run."""
        return await self._committed(lambda: self._shared.proposer.propose(commands, REPORT_TIMEOUT_S))

    async def _committed(self, propose: Callable[[], Awaitable[Answer]]) -> Answer:
        while True:
            try:
                return await propose()
            except NotCommitted as error:
                fields = {"task_id": self.task_id, "attempt": self.attempt, "error": str(error)}
                log.info("report not committed yet", extra=fields)
                await asyncio.sleep(RETRY_PAUSE_S)

    def _report_start(self) -> None:
        """Not before a process has it: in a heap of short ones each would be told to run while it waits."""
        if self._shared.host.is_waiting(self.task_id, self.attempt):
            loop = asyncio.get_running_loop()
            self._start_timer = loop.call_later(START_DELAY_S, self._report_start)
            return
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
        self._entered = True
        shared, skill = self._shared, self._task.type
        began = shared.times.begin(skill)
        try:
            outcome = None if self._killed else await self._run_skill()
        except asyncio.CancelledError:
            self.done.uncancel()  # taken note of: the report still has to go out
            outcome = None
        except Exception as error:  # an input that no node has, a full disk: not the node's end
            failure = self._failure(error)
            outcome = SkillOutcome("failed", b"", failure.code, failure.message, failure.retryable)
        finally:
            self._finished = True
            self._cancel_timers()
            took_ms = shared.times.end(skill, began, outcome is not None and outcome.kind == "succeeded")
        if took_ms is not None:
            shared.metrics.skill_ran(skill, took_ms)
        if not self._stopped:
            await self._report_end(outcome)

    async def _run_skill(self) -> SkillOutcome:
        shared, default_ms = self._shared, self._shared.default_timeout_ms()
        limit_ms = own_limit_ms(self._task, self.state.skillbook, shared.host.skills, default_ms)
        self._limit.start(limit_ms, self.done)
        job = await skill_job(self._task, self._steps, self.load)
        if isinstance(job, SkillOutcome):
            return job
        job = bounded(job, self.state.skillbook, default_ms)
        self._in_host = True
        return await shared.host.run(job, self)

    async def _report_end(self, outcome: SkillOutcome | None) -> None:
        """Tell the log how the attempt ended. A refusal means that it was not ours any more: fine. An end
        that cannot be told is told as a failure: without a word it would be started again and again."""
        try:
            command = await self._ending(outcome)
            answer = await self._commit_end(command) if command is not None else None
        except Exception as error:
            answer = await self.commit(self._failed(self._failure(error)))
        if isinstance(answer, Rejected):
            fields = {"task_id": self.task_id, "attempt": self.attempt, "code": answer.code}
            log.info("end of an attempt refused", extra=fields)

    async def _commit_end(self, command: Command) -> Outcome:
        """The first try carries the assignments of what follows; it is not the end that these may delay."""
        with self._shared.with_next(command) as commands:
            if len(commands) > 1:
                try:
                    return (await self._shared.proposer.propose(commands, REPORT_TIMEOUT_S))[0]
                except NotCommitted as error:
                    log.debug("the end goes alone", extra={"task_id": self.task_id, "error": str(error)})
            return await self.commit(command)

    def _failure(self, error: Exception) -> TaskError:
        """A fault of this node, or of what was asked of it, as the end of an attempt."""
        known = from_exception(error)
        if known.code is grpc.StatusCode.INTERNAL:
            fields = {"task_id": self.task_id, "attempt": self.attempt}
            log.error("an attempt failed in the node itself", extra=fields, exc_info=error)
        permanent = known.code is grpc.StatusCode.INVALID_ARGUMENT
        message = known.message.encode("utf-8", "replace").decode()[:MESSAGE_CHARS_MAX]
        return TaskError(known.reason, message, retryable=not permanent)

    def _failed(self, error: TaskError) -> FailAttempt:
        return FailAttempt(self.task_id, self.attempt, error, self._shared.clock.dice())

    async def _ending(self, outcome: SkillOutcome | None) -> Command | None:
        task_id, attempt = self.task_id, self.attempt
        if self._cancelling and (outcome is None or outcome.kind != "succeeded"):
            return ConfirmCancel(task_id, attempt)
        if outcome is None:
            return ReleaseTask(
                task_id, attempt, "its node is draining" if self._departure.asked else "stopped"
            )
        if outcome.kind == "succeeded":
            return FinishTask(task_id, attempt, await self.keep(outcome.result, self._inline_max()))
        if outcome.kind == "suspended":
            return None
        if outcome.kind == "lease_lost":
            fields = {"task_id": task_id, "attempt": attempt, "skill": self._task.type}
            log.warning("an attempt was ended because this node has lost its lease", extra=fields)
            return ReleaseTask(task_id, attempt, "its node lost its lease", lost=True)
        if outcome.kind == "crashed" and outcome.code in NODE_FAULTS:
            return ReleaseTask(task_id, attempt, outcome.message, lost=True)
        if outcome.kind == "timed_out":
            return ExpireTask(task_id, attempt, ExpiryKind.ATTEMPT, self._shared.clock.dice())
        # Also when it is said to be deposed: the log knows if it is; if not, it would start again for ever.
        error = TaskError(outcome.code, outcome.message, outcome.retryable, outcome.traceback)
        return self._failed(error)

    def _inline_max(self) -> int | None:
        """The result of a child is kept as long as its parent lives, with those of thousands of others."""
        return CHILD_RESULT_INLINE_MAX if self._task.parent_id in self.state.families else None

    async def keep(self, content: bytes, inline_max: int | None = None) -> Data:
        return await self._blobs.keep(content, inline_max)

    async def load(self, data: Data) -> bytes:
        return await self._blobs.load(data)
