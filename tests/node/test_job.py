"""One attempt on a node: whatever happens to it, the log hears how it ended, once and truly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from coterie.core.commands import (
    Accepted,
    Command,
    ConfirmCancel,
    FailAttempt,
    FinishTask,
    Outcome,
    RecordStep,
    Rejected,
    ReleaseTask,
    SaveCheckpoint,
    StartTask,
    SuspendTask,
)
from coterie.core.nouns import Data, RetryPolicy, Signal, Task, TaskId, TaskState, WaitReason, evolve
from coterie.core.ports import NotCommitted
from coterie.core.state import ClusterState
from coterie.node.blob_errors import BlobDiskFull, BlobMismatch, BlobQuotaExceeded
from coterie.node.clock import Clock
from coterie.node.errors import ApiError, _unavailable
from coterie.node.job import Job, JobFactory
from coterie.node.metrics import NodeMetrics
from coterie.node.skill_calls import Handlers, Run
from coterie.node.skillhost import SkillJob, SkillOutcome, verdicts
from coterie.node.skillhost.nouns import SkillInfo, SkillWait, Suspended
from coterie.raft.errors import EntryTooLarge
from coterie.skills import Fenced

T1 = TaskId("t1")


async def ask(run: Run, args: Any) -> list[Any]:
    """A call that waits for a signal and records a step."""
    signal = await run.await_signal(WAIT)
    await run.commit_own(RecordStep(run.task_id, run.attempt, args, await run.keep(b"1")))
    return [run.task.task_id, (await run.load(signal.payload)).decode(), len(run.state.tasks)]


CALLS: Handlers = {"ask": ask}


class FakeProposer:
    """Accepts everything and keeps all but starts; `faults` are raised first, one per call."""

    def __init__(self) -> None:
        self.committed: list[Command] = []
        self.faults: list[Exception] = []
        self.suspend: Callable[[SuspendTask], Outcome] = lambda _: Accepted(T1)

    async def one(self, command: Command, timeout_s: float) -> Outcome:
        await asyncio.sleep(0)
        if isinstance(command, SuspendTask):
            return self.suspend(command)
        if isinstance(command, StartTask):  # sent by a timer
            return Accepted(T1)
        if self.faults:
            raise self.faults.pop(0)
        self.committed.append(command)
        return Accepted(T1)


class FakeBlobs:
    """Content is always inline; `faults` are raised first, one per call; `gate` holds loads up."""

    def __init__(self) -> None:
        self.faults: list[Exception] = []
        self.slow: set[bytes] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def keep(self, content: bytes) -> Data:
        if content in self.slow:
            await asyncio.sleep(0.02)
        if self.faults:
            raise self.faults.pop(0)
        return Data(content)

    async def load(self, data: Data) -> bytes:
        await self.gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        return data.inline


class FakeHost:
    """A skill that runs until it is told how to end; killed when its run is cancelled."""

    def __init__(self) -> None:
        self.end: asyncio.Future[SkillOutcome] = asyncio.get_running_loop().create_future()
        self.started = asyncio.Event()
        self.killed = 0
        self.cancelled: list[int] = []
        self.skills: dict[str, SkillInfo] = {}

    def is_waiting(self, task_id: str, attempt: int) -> bool:
        return False  # it has a process at once

    async def run(self, job: SkillJob, port: Job) -> SkillOutcome:
        self.started.set()
        try:
            return await asyncio.shield(self.end)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # its process takes a moment to die
            self.killed += 1
            raise

    def cancel(self, task_id: str, attempt: int, grace_ms: int) -> None:
        self.cancelled.append(attempt)

    def ask_to_save(self, task_id: str, attempt: int, leaving: bool) -> None:
        """It has nothing to say."""


class Bench:
    """A job with everything around it pretended."""

    def __init__(self, proposer: FakeProposer | None = None, host: FakeHost | None = None) -> None:
        self.proposer, self.blobs, self.host = proposer or FakeProposer(), FakeBlobs(), host or FakeHost()
        self.state = ClusterState()
        parts: Any = (lambda: self.state, self.proposer, self.blobs, self.host, Clock(), NodeMetrics(), CALLS)
        self.factory = JobFactory(*parts)
        self.job = self.factory.make(task(), [])
        self.ends = 0

    def start(self) -> Job:
        self.job.start(self._ended)
        return self.job

    def _ended(self) -> None:
        self.ends += 1

    async def reported(self) -> Command:
        await self.job.done
        [command] = self.proposer.committed
        return command


def task() -> Task:
    return Task(
        T1, 1, "default", "echo", Data(b"{}"), 2, RetryPolicy(), 1, state=TaskState.SCHEDULED, attempt=1
    )


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_result_is_reported(bench: Bench) -> None:
    bench.start()
    bench.host.end.set_result(SkillOutcome("succeeded", b"42"))
    assert await bench.reported() == FinishTask(T1, 1, Data(b"42"))


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        (BlobQuotaExceeded("full"), "BLOB_QUOTA", True),
        (BlobMismatch("lies"), "BLOB_MISMATCH", False),
        (ApiError(_unavailable("", "").code, "BLOB_GONE", "no node"), "BLOB_GONE", True),
        (RuntimeError("a bug"), "INTERNAL", True),
    ],
)
@pytest.mark.parametrize("at", ["input", "result"])
async def test_a_fault_of_the_node_ends_the_attempt_as_a_failure(
    bench: Bench, fault: Exception, code: str, retryable: bool, at: str
) -> None:
    """Without a report the same attempt would be started again at once, for ever."""
    if at == "input":
        bench.blobs.faults = [fault]
    bench.start()
    if at == "result":
        await bench.host.started.wait()
        bench.blobs.faults = [fault]
        bench.host.end.set_result(SkillOutcome("succeeded", b"42"))
    command = await bench.reported()
    assert isinstance(command, FailAttempt)
    assert (command.attempt, command.error.code, command.error.retryable) == (1, code, retryable)


async def test_a_result_waits_for_room_on_the_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.node.patient_blobs.ROOM_PAUSE_S", 0.001)
    bench.start()
    await bench.host.started.wait()
    bench.blobs.faults = [BlobDiskFull("full"), BlobDiskFull("full")]
    bench.host.end.set_result(SkillOutcome("succeeded", b"42"))
    assert await bench.reported() == FinishTask(T1, 1, Data(b"42"))


@pytest.mark.parametrize(
    "fault", [EntryTooLarge("entry of 9 MiB"), UnicodeEncodeError("utf-8", "x", 0, 1, "odd")]
)
async def test_an_end_that_cannot_be_proposed_is_reported_as_a_failure(
    bench: Bench, fault: Exception
) -> None:
    bench.proposer.faults = [fault]
    bench.start()
    bench.host.end.set_result(SkillOutcome("succeeded", b"42"))
    assert isinstance(await bench.reported(), FailAttempt)


async def test_an_end_is_reported_until_the_log_answers(bench: Bench) -> None:
    bench.proposer.faults = [NotCommitted("no leader")] * 2
    bench.start()
    bench.host.end.set_result(SkillOutcome("succeeded", b"42"))
    assert await bench.reported() == FinishTask(T1, 1, Data(b"42"))


@pytest.mark.parametrize("what", ["step", "checkpoint", "result"])
async def test_what_a_skill_did_waits_for_a_majority_of_copies(bench: Bench, what: str) -> None:
    job = bench.start()
    await bench.host.started.wait()
    bench.blobs.faults = [_unavailable("NO_QUORUM", "1 of 3 nodes")] * 2
    if what == "step":
        await job.record_step("s", b"42")
        assert bench.proposer.committed == [RecordStep(T1, 1, "s", Data(b"42"))]
    elif what == "checkpoint":
        await job.save_checkpoint(b"42")
        assert bench.proposer.committed == [SaveCheckpoint(T1, 1, Data(b"42"), 1)]
    bench.host.end.set_result(SkillOutcome("succeeded", b"42"))
    await job.done
    assert bench.proposer.committed[-1] == FinishTask(T1, 1, Data(b"42"))


async def test_checkpoints_are_numbered_in_the_order_of_the_calls(bench: Bench) -> None:
    job = bench.start()
    await bench.host.started.wait()
    bench.blobs.slow = {b"older"}
    await asyncio.gather(job.save_checkpoint(b"older"), job.save_checkpoint(b"newer"))
    numbers = {
        c.checkpoint.inline: c.number for c in bench.proposer.committed if isinstance(c, SaveCheckpoint)
    }
    assert numbers == {b"older": 1, b"newer": 2}
    job.stop()
    await job.done


async def test_a_cancellation_while_the_inputs_are_fetched_is_not_lost(bench: Bench) -> None:
    bench.blobs.gate.clear()
    job = bench.start()
    await asyncio.sleep(0)
    job.cancel(2_000)
    assert await bench.reported() == ConfirmCancel(T1, 1)
    assert not bench.host.started.is_set()


async def test_a_cancellation_of_a_running_skill_is_polite(bench: Bench) -> None:
    job = bench.start()
    await bench.host.started.wait()
    job.cancel(2_000)
    job.cancel(2_000)
    assert bench.host.cancelled == [1]
    bench.host.end.set_result(SkillOutcome("cancelled"))
    assert await bench.reported() == ConfirmCancel(T1, 1)


@pytest.mark.parametrize("kill", [lambda job: job.leave(at_once=True), lambda job: job.cancel(0)])
async def test_a_job_killed_before_its_first_step_reports_all_the_same(
    bench: Bench, kill: Callable[[Job], None]
) -> None:
    job = bench.start()
    kill(job)
    assert isinstance(await bench.reported(), ReleaseTask | ConfirmCancel)
    assert bench.ends == 1
    assert not bench.host.started.is_set()


@pytest.mark.parametrize("verdict", [verdicts.HOST_LOST, verdicts.HOST_STOPPED, verdicts.LEASE_LOST])
async def test_an_attempt_that_died_with_its_node_has_not_failed(bench: Bench, verdict: SkillOutcome) -> None:
    bench.start()
    bench.host.end.set_result(verdict)
    told = await bench.reported()
    assert isinstance(told, ReleaseTask) and told.lost, "no attempt of its own is used up"


async def test_leaving_at_once_gives_the_task_back(bench: Bench) -> None:
    job = bench.start()
    await bench.host.started.wait()
    job.leave(at_once=True)
    job.leave(at_once=True)
    assert await bench.reported() == ReleaseTask(T1, 1, "its node is draining")
    assert bench.host.killed == 1


async def test_leaving_waits_for_the_next_step_unless_the_drain_is_called_off(bench: Bench) -> None:
    job = bench.start()
    await bench.host.started.wait()
    job.leave(at_once=False)
    job.stay()
    await job.record_step("one", b"1")
    await asyncio.sleep(0)
    assert not job.done.done()
    job.leave(at_once=False)
    await job.record_step("two", b"2")
    await job.done
    assert bench.proposer.committed[-1] == ReleaseTask(T1, 1, "its node is draining")


async def test_stopping_a_dying_job_waits_for_its_process_and_reports_nothing(bench: Bench) -> None:
    job = bench.start()
    await bench.host.started.wait()
    job.leave(at_once=True)
    await asyncio.sleep(0)
    job.stop()
    await job.done
    assert bench.host.killed == 1, "the job ended before its process did"
    assert bench.proposer.committed == []


async def test_withdrawing_reports_what_had_ended_and_nothing_else(bench: Bench) -> None:
    running, ended = bench, Bench()
    for one in (running, ended):
        one.start()
        await one.host.started.wait()
    ended.proposer.faults = [NotCommitted("no leader")]
    ended.host.end.set_result(SkillOutcome("succeeded", b"42"))
    await asyncio.sleep(0.02)
    for one in (running, ended):
        one.job.withdraw()
    await asyncio.gather(running.job.done, ended.job.done, return_exceptions=True)
    assert running.proposer.committed == []
    assert ended.proposer.committed == [FinishTask(T1, 1, Data(b"42"))]


WAIT = SkillWait("SIGNAL", "go", 1, 0)


def tell(bench: Bench, *payloads: bytes | None, attempt: int = 1) -> None:
    """The replica shows these signals; None: a wait that ran out."""
    signals = tuple(Signal("go", Data(payload or b""), 1, timed_out=payload is None) for payload in payloads)
    others = (Signal("other", Data(b"0"), 1),)
    bench.state.tasks[T1] = evolve(task(), attempt=attempt, signals=(*others, *signals))


async def test_a_signal_that_is_there_needs_no_suspension() -> None:
    bench = Bench()
    tell(bench, b"1", b"2")
    assert await bench.job.wait(WAIT) == b"2"
    tell(bench, b"1", None)
    assert await bench.job.wait(WAIT) is None
    assert bench.proposer.committed == []


async def test_a_wait_for_what_is_not_there_ends_the_attempt_without_a_word() -> None:
    bench = Bench()
    tell(bench, b"1")
    job = bench.start()
    with pytest.raises(Suspended):
        await job.wait(WAIT)
    bench.host.end.set_result(SkillOutcome("suspended"))
    await job.done
    assert bench.proposer.committed == []


async def test_a_signal_that_comes_while_the_attempt_suspends_itself_is_taken() -> None:
    bench = Bench()
    tell(bench, b"1")

    def overtaken(command: SuspendTask) -> Outcome:
        assert command == SuspendTask(T1, 1, WaitReason.SIGNAL, "go", 1, 0)
        tell(bench, b"1", b"2")
        return Rejected("WAIT_OVER", "it is there")

    bench.proposer.suspend = overtaken
    assert await bench.job.wait(WAIT) == b"2"


async def test_an_attempt_that_is_no_more_is_fenced() -> None:
    bench = Bench()
    tell(bench, b"1", b"2", attempt=2)
    bench.proposer.suspend = lambda _: Rejected("FENCED", "attempt 2 runs")
    with pytest.raises(Fenced):
        await bench.job.wait(WAIT)


async def test_a_call_of_the_skill_goes_to_its_handler() -> None:
    bench = Bench()
    tell(bench, b"1", b"2")
    assert await bench.job.call("ask", b'"s"') == b'["t1","2",1]'
    assert bench.proposer.committed == [RecordStep(T1, 1, "s", Data(b"1"))]
    tell(bench, b"1")
    with pytest.raises(Suspended):
        await bench.job.call("ask", b'"s"')


async def test_a_command_of_a_deposed_attempt_fences_the_call() -> None:
    bench = Bench()
    bench.proposer.suspend = lambda _: Rejected("FENCED", "attempt 2 runs")
    with pytest.raises(Fenced):
        await bench.job.commit_own(SuspendTask(T1, 1, WaitReason.SIGNAL, "go", 1, 0))
