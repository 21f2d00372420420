"""Tasks in every state, with everything that a task can have."""

from __future__ import annotations

from coterie.core.commands import (
    CancelChildren,
    CancelTask,
    ConfirmCancel,
    ExpireTask,
    FailAttempt,
    FinishTask,
    PauseTask,
    PurgeDeadLetters,
    RecordStep,
    ReleaseTask,
    ReplayTask,
    ReportProgress,
    ResumeTask,
    RetryTask,
    SaveCheckpoint,
    SignalTask,
    SpawnChild,
    SubmitTask,
    SuspendTask,
)
from coterie.core.families import child_id
from coterie.core.nouns import (
    Companion,
    Constraints,
    Data,
    ExpiryKind,
    Label,
    RetryPolicy,
    Step,
    TaskError,
    TaskId,
    WaitReason,
)
from coterie.core.transitions import HELD
from tests.core.builders import submit_command
from tests.core.story.stage import Stage

BLOB = Data(sha256="ab" * 32, size_bytes=9_000_001)
RETRY = RetryPolicy(4, 150, 90_000, non_retryable=("BAD_INPUT", "NEVER"), dead_letter=True)
BROKEN = TaskError("SKILL_FAILED", "it broke", retryable=True, traceback="line 1\nline 2")
CRASHED = TaskError("SKILL_CRASHED", "its process died", retryable=True, traceback="signal 9")
HOPELESS = TaskError("NEVER", "it never works", retryable=True, traceback="line 3")
CONSTRAINTS = Constraints(
    require_gpu=True,
    labels=(Label("disk", "ssd"),),
    zones=("z1", "z3"),
    target_node="n1",
    prefer_zone="z1",
    skill_version="1.0",
    memory_bytes=1 << 30,
    gpus=1,
    require_coordinator=True,
    session="session-1",
    max_latency_ms=40,
    origin="n3",
    companions=(
        Companion(task_id="with", type="echo", label_key="batch", label_value="9", required=True, zone=True),
        Companion(type="agent", away=True),
    ),
    prefer_node="n2",
)


def full(task_id: str, **changes: object) -> SubmitTask:
    """A submission that says everything that one can say."""
    values: dict[str, object] = {
        "tenant": "acme",
        "payload": Data(b'{"n": 1}'),
        "priority": 3,
        "retry": RETRY,
        "request_id": f"request-{task_id}",
        "digest": b"digest of " + task_id.encode(),
        "attempt_timeout_ms": 33_000,
        "deadline_after_ms": 8_000_000,
        "labels": (Label("batch", "9"), Label("team", "red")),
        "constraints": CONSTRAINTS,
        "key": "customer-7",
        "agent": "scribe",
    }
    return submit_command(task_id, **values | changes)


def submit_all(stage: Stage) -> None:
    """One that is delayed, one that was and is hurried, and a child that begins with the steps of another."""
    stage.do(full("first"))
    stage.do(full("delayed", start_delay_ms=7_000_000, checkpointing=False))
    stage.do(full("hurried", start_delay_ms=7_000_001))
    stage.do(RetryTask(TaskId("hurried"), "hurry-1", b"digest of hurry"))
    taken_over = Step("s1", 2, Data(b"one"), 900, beside=("s2", "s3"))
    forked = {"retry_of": "earlier", "steps": (taken_over,), "forked_from": "earlier@1"}
    stage.do(full("forked", payload=BLOB, parent_id="first", **forked))


def run(stage: Stage) -> None:
    """One goes as far as one can without an end; others stop in all the ways there are."""
    task_id, attempt = stage.start("first")
    stage.do(ReportProgress(task_id, attempt, 2_500, "a quarter"))
    stage.do(RecordStep(task_id, attempt, "s1", Data(b"one"), ("s2", "s3")))
    stage.do(RecordStep(task_id, attempt, "said", Data(b"hello"), told=True))
    stage.do(RecordStep(task_id, attempt, "large", BLOB))
    stage.do(SaveCheckpoint(task_id, attempt, Data(b"so far"), 4, 3))
    stage.do(SignalTask(task_id, "go", Data(b"now"), "signal-1", "signal-request", b"digest of signal"))
    stage.do(FailAttempt(task_id, attempt, CRASHED, 4_000_000_000))
    stage.pass_ms(2_000)
    task_id, attempt = stage.start("first")
    stage.do(ReleaseTask(task_id, attempt, "the node stops", lost=True))
    stage.start("first")
    _wait(stage)
    _pause(stage)
    stage.do(submit_command("leaving"))
    task_id, attempt = stage.start("leaving")
    stage.do(CancelTask(task_id, "not wanted any more", "cancel-1", b"digest of cancel"))


def _wait(stage: Stage) -> None:
    for name in ("waits", "waited"):
        stage.do(full(name))
        task_id, attempt = stage.start(name)
        stage.do(SaveCheckpoint(task_id, attempt, BLOB, 7, 0))
        stage.do(SuspendTask(task_id, attempt, WaitReason.SIGNAL, "go", 1, timeout_ms=40, stop_after=3))
        stage.do(SignalTask(task_id, "other", BLOB))
    stage.pass_ms(50)
    stage.do(ExpireTask(TaskId("waited"), 1, ExpiryKind.WAIT, dice=77))


def _pause(stage: Stage) -> None:
    for name in ("paused", "resumed"):
        stage.do(submit_command(name, tenant="other"))
        stage.do(PauseTask(TaskId(name), "wait a minute", f"pause-{name}", b"digest of pause"))
    stage.do(ResumeTask(TaskId("resumed"), "resume-1", b"digest of resume"))
    stage.do(submit_command("pausing"))
    task_id, _ = stage.start("pausing")
    stage.do(PauseTask(task_id, "after this step"))


def end(stage: Stage) -> None:
    """Every end there is; a dead letter that is replayed, and one for which there is no room."""
    stage.do(full("done"))
    task_id, attempt = stage.start("done")
    stage.do(RecordStep(task_id, attempt, "s1", Data(b"one")))
    stage.do(FinishTask(task_id, attempt, Data(b"the result")))
    for name in ("dropped", "dead", "replayed", "buried"):
        stage.do(full(name, steps=(Step("s0", 1, Data(b"zero"), 800, beside=("s9",)),)))
        task_id, attempt = stage.start(name)
        stage.do(FailAttempt(task_id, attempt, HOPELESS, 9))
    stage.do(ReplayTask(TaskId("replayed"), TaskId("again"), "replay-1", b"digest of replay"))
    stage.do(submit_command("failed", retry=RetryPolicy(1)))
    task_id, attempt = stage.start("failed")
    stage.do(FailAttempt(task_id, attempt, BROKEN, 9))
    stage.do(submit_command("late", deadline_after_ms=5))
    stage.pass_ms(10)
    stage.do(ExpireTask(TaskId("late"), 0, ExpiryKind.DEADLINE))
    stage.do(submit_command("off"))
    task_id, attempt = stage.start("off")
    stage.do(CancelTask(task_id))
    stage.do(ConfirmCancel(task_id, attempt))
    stage.do(submit_command("slow", attempt_timeout_ms=5))
    task_id, attempt = stage.start("slow")
    stage.do(ExpireTask(task_id, attempt, ExpiryKind.ATTEMPT, dice=1 << 31))


def have_children(stage: Stage) -> None:
    """Children of one group: one succeeded, one failed, one is open; of another group all are called off."""
    stage.do(submit_command("parent"))
    parent, attempt = stage.start("parent")
    for place in range(3):
        asked = submit_command(child_id(parent, str(place)), parent_id=parent, digest=b"child")
        stage.do(SpawnChild(attempt, "team", place, asked))
    task_id, first = stage.start(child_id(parent, "0"))
    stage.do(FinishTask(task_id, first, Data(b"of a child")))
    task_id, first = stage.start(child_id(parent, "1"))
    stage.do(FailAttempt(task_id, first, TaskError("NO", "no", retryable=False, traceback="line 4")))
    asked = submit_command(child_id(parent, "x"), parent_id=parent, digest=b"another child")
    stage.do(SpawnChild(attempt, "spare", 0, asked))
    stage.do(CancelChildren(parent, attempt, "spare", "enough of them"))


def clear(stage: Stage) -> None:
    """What is left of tasks ends, and the dead are forgotten."""
    stage.do(ReplayTask(TaskId("dead"), TaskId("dead again"), keep_steps=False))
    stage.do(PurgeDeadLetters("acme", (TaskId("buried"),), before_ms=1))
    for task_id in sorted(stage.state.tasks):
        if task_id in stage.state.tasks:  # a parent's end may have ended it
            stage.do(CancelTask(task_id, "the story ends"))
    while held := [task for task in stage.state.tasks.values() if task.state in HELD]:
        stage.do(ConfirmCancel(held[0].task_id, held[0].attempt))
    assert not stage.state.tasks
