"""Pause, resume, signal, suspend, hurry, cancel of families: a rule for every state."""

from __future__ import annotations

import pytest

from coterie.core.agenda import Pause, Start, agenda
from coterie.core.commands import (
    Accepted,
    CancelTask,
    Command,
    ConfigureCluster,
    ConfirmCancel,
    ExpireTask,
    FailAttempt,
    FinishTask,
    MarkNode,
    PauseTask,
    RecordStep,
    Rejected,
    ReleaseTask,
    ResumeTask,
    RetryTask,
    SignalTask,
    SuspendTask,
)
from coterie.core.nouns import (
    NO_DATA,
    PAUSE,
    Data,
    ExpiryKind,
    NodeId,
    NodeStatus,
    Policy,
    TaskError,
    TaskId,
    TaskState,
    Wait,
    WaitReason,
)
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from coterie.core.waiting import Waiting, wait_reason
from tests.core.builders import CoreCluster, submit_command

N1, T1, T2 = NodeId("n1"), TaskId("t1"), TaskId("t2")
SIGNAL, CHILD, TIMER = WaitReason.SIGNAL, WaitReason.CHILD, WaitReason.TIMER


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1")


def code(outcome: object) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def accepted(cluster: CoreCluster, command: Command) -> None:
    outcome = cluster.do(command)
    assert isinstance(outcome, Accepted) and not outcome.duplicate, outcome


def state(cluster: CoreCluster, task_id: str = "t1") -> TaskState:
    return cluster.task(task_id).state


def plans(cluster: CoreCluster) -> list[Command]:
    return plan(cluster.state, View(cluster.now_ms), PlanPolicy())


# --- pause


def test_a_queued_task_pauses_at_once_and_comes_back_to_its_place(cluster: CoreCluster) -> None:
    for name in ("t1", "t2"):
        cluster.do(submit_command(name))
    accepted(cluster, PauseTask(T1, "not now"))
    assert cluster.do(PauseTask(T1)) == Accepted(T1, duplicate=True)
    assert state(cluster) is TaskState.PAUSED
    assert wait_reason(cluster.state, cluster.task(), cluster.now_ms) == Waiting(WaitReason.PAUSE, "not now")
    assert [command.task_id for command in plans(cluster)] == ["t2"]  # type: ignore[union-attr]
    accepted(cluster, ResumeTask(T1))
    assert cluster.do(ResumeTask(T1)) == Accepted(T1, duplicate=True)
    assert [command.task_id for command in plans(cluster)] == ["t1", "t2"]  # type: ignore[union-attr]
    assert cluster.types() == ["submitted", "paused", "resumed"]


def test_a_running_task_pauses_when_its_node_gives_it_back(cluster: CoreCluster) -> None:
    cluster.running()
    accepted(cluster, PauseTask(T1))
    assert state(cluster) is TaskState.RUNNING
    assert agenda(cluster.state, N1, 1, {T1: 1}) == [Pause(T1, 1)]
    accepted(cluster, RecordStep(T1, 1, "a", NO_DATA))
    accepted(cluster, ReleaseTask(T1, 1, "paused"))
    assert (state(cluster), cluster.task().pause_requested) == (TaskState.PAUSED, False)
    accepted(cluster, ResumeTask(T1))
    cluster.assign()
    assert [step.key for step in cluster.state.steps[T1]] == ["a"]


@pytest.mark.parametrize(
    "end",
    [
        FailAttempt(T1, 1, TaskError("SKILL_FAILED", "no")),
        ExpireTask(T1, 1, ExpiryKind.ATTEMPT),
        MarkNode(N1, 1, NodeStatus.DOWN),
        SuspendTask(T1, 1, SIGNAL, "go"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_whatever_ends_the_attempt_of_a_task_to_be_paused_pauses_it(
    end: Command, cluster: CoreCluster
) -> None:
    cluster.running()
    cluster.do(PauseTask(T1))
    accepted(cluster, end)
    assert state(cluster) is TaskState.PAUSED


def test_a_pause_can_be_called_off_while_the_task_runs(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(PauseTask(T1))
    accepted(cluster, ResumeTask(T1))
    assert agenda(cluster.state, N1, 1, {T1: 1}) == []
    accepted(cluster, FinishTask(T1, 1, NO_DATA))


def test_what_is_to_be_paused_is_not_started(cluster: CoreCluster) -> None:
    cluster.do(submit_command())
    cluster.assign()
    assert isinstance(agenda(cluster.state, N1, 1, {})[0], Start)
    cluster.do(PauseTask(T1))
    assert agenda(cluster.state, N1, 1, {}) == [Pause(T1, 1)]
    accepted(cluster, ReleaseTask(T1, 1, "paused"))
    assert state(cluster) is TaskState.PAUSED


def test_a_paused_task_ends_by_its_deadline_or_by_cancellation(cluster: CoreCluster) -> None:
    cluster.do(submit_command("t1", deadline_after_ms=100))
    cluster.do(submit_command("t2"))
    cluster.do(PauseTask(T1))
    cluster.do(PauseTask(T2))
    cluster.now_ms += 200
    assert plans(cluster) == [ExpireTask(T1, 0, ExpiryKind.DEADLINE)]
    accepted(cluster, ExpireTask(T1, 0, ExpiryKind.DEADLINE))
    accepted(cluster, CancelTask(T2))
    assert (state(cluster), state(cluster, "t2")) == (TaskState.TIMED_OUT, TaskState.CANCELLED)
    assert code(cluster.do(ResumeTask(T1))) == "TASK_TERMINAL"
    assert code(cluster.do(PauseTask(TaskId("t9")))) == "TASK_NOT_FOUND"


# --- suspend and signal


def test_a_suspended_task_frees_its_slot_and_goes_on_at_its_signal(cluster: CoreCluster) -> None:
    cluster.running()
    accepted(cluster, SuspendTask(T1, 1, SIGNAL, "answer"))
    assert state(cluster) is TaskState.WAITING
    assert not cluster.state.indexes.held_by(N1)
    assert wait_reason(cluster.state, cluster.task(), cluster.now_ms).reason is SIGNAL
    accepted(cluster, SignalTask(T1, "other"))
    assert state(cluster) is TaskState.WAITING
    accepted(cluster, SignalTask(T1, "answer", Data(b"yes"), "s1"))
    assert (state(cluster), cluster.task().wait) == (TaskState.PENDING, None)
    assert cluster.do(SignalTask(T1, "answer", Data(b"yes"), "s1")) == Accepted(T1, duplicate=True)
    for other in (SignalTask(T1, "answer", Data(b"no"), "s1"), SignalTask(T1, "other", Data(b"yes"), "s1")):
        assert code(cluster.do(other)) == "REQUEST_ID_REUSED"
    assert [(signal.name, signal.payload.inline) for signal in cluster.task().signals] == [
        ("other", b""),
        ("answer", b"yes"),
    ]
    assert code(cluster.do(SuspendTask(T1, 1, SIGNAL, "answer"))) == "FENCED"


def test_a_wait_for_what_is_there_already_is_over_before_it_begins(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(SignalTask(T1, "answer"))
    assert code(cluster.do(SuspendTask(T1, 1, SIGNAL, "answer", seen=0))) == "WAIT_OVER"
    accepted(cluster, SuspendTask(T1, 1, SIGNAL, "answer", seen=1))
    accepted(cluster, SignalTask(T1, "answer"))
    assert state(cluster) is TaskState.PENDING


def test_a_wait_that_runs_out_is_told_to_the_task(cluster: CoreCluster) -> None:
    cluster.running()
    accepted(cluster, SuspendTask(T1, 1, TIMER, "timer:1", timeout_ms=100))
    until = cluster.task().wait
    assert until == Wait(TIMER, "timer:1", 0, cluster.now_ms + 100)
    assert code(cluster.do(ExpireTask(T1, 1, ExpiryKind.WAIT))) == "NOT_DUE"
    cluster.now_ms += 100
    [expiry] = plans(cluster)
    accepted(cluster, expiry)
    assert state(cluster) is TaskState.PENDING
    [signal] = cluster.task().signals
    assert (signal.name, signal.timed_out) == ("timer:1", True)
    cluster.assign()
    assert code(cluster.do(SuspendTask(T1, 2, TIMER, "timer:1", timeout_ms=100))) == "WAIT_OVER"


def test_a_paused_wait_goes_on_waiting_or_not(cluster: CoreCluster) -> None:
    for task_id in (T1, T2):
        cluster.running(task_id)
        cluster.do(SuspendTask(task_id, 1, SIGNAL, "go", timeout_ms=50))
        accepted(cluster, PauseTask(task_id))
    accepted(cluster, SignalTask(T2, "go"))
    assert state(cluster, "t2") is TaskState.PAUSED
    cluster.now_ms += 100
    assert plans(cluster) == [], "a paused wait does not run out"
    accepted(cluster, ResumeTask(T1))
    accepted(cluster, ResumeTask(T2))
    assert (state(cluster), state(cluster, "t2")) == (TaskState.WAITING, TaskState.PENDING)
    assert ExpireTask(T1, 1, ExpiryKind.WAIT) in plans(cluster), "but it does when it is resumed"


def sleep(cluster: CoreCluster, name: str) -> None:
    """A wait that runs out; the next attempt has begun."""
    accepted(cluster, SuspendTask(T1, cluster.task().attempt, TIMER, name, timeout_ms=10))
    cluster.now_ms += 20
    accepted(cluster, ExpireTask(T1, 0, ExpiryKind.WAIT))
    cluster.assign()


def test_sleeps_use_up_no_signals(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(signals_per_task_max=2)))
    cluster.running()
    for number in range(5):
        sleep(cluster, f"timer:{number}")
    accepted(cluster, SignalTask(T1, "one"))
    accepted(cluster, SignalTask(T1, "two"))
    assert code(cluster.do(SignalTask(T1, "three"))) == "TOO_MANY_SIGNALS"


def test_so_many_waits_of_a_task_run_out_and_no_more(cluster: CoreCluster) -> None:
    """The end of each is kept, because later attempts come to it again."""
    cluster.do(ConfigureCluster("c", "c", Policy(steps_per_task_max=2, task_bytes_max=700)))
    cluster.running()
    sleep(cluster, "timer:1")
    sleep(cluster, "timer:2")
    wait = SuspendTask(T1, 3, TIMER, "timer:3", timeout_ms=10)
    assert code(cluster.do(wait)) == "TOO_MANY_STEPS"
    cluster.do(ConfigureCluster("c", "c", Policy(task_bytes_max=601)))
    assert code(cluster.do(wait)) == "TASK_TOO_LARGE"
    accepted(cluster, SuspendTask(T1, 3, SIGNAL, "go"))


def test_a_pause_that_is_no_step_leaves_nothing_behind(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(steps_per_task_max=1)))
    cluster.running()
    for _ in range(3):
        sleep(cluster, f"{PAUSE}g1")
    assert cluster.task().signals == () and state(cluster) is TaskState.SCHEDULED
    accepted(cluster, SuspendTask(T1, 4, SIGNAL, f"{PAUSE}g1", timeout_ms=10))
    cluster.now_ms += 20
    accepted(cluster, ExpireTask(T1, 4, ExpiryKind.WAIT))
    assert [signal.timed_out for signal in cluster.task().signals] == [True], "a skill may call a signal so"


def test_signals_have_limits(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(signals_per_task_max=1, task_bytes_max=1_000)))
    cluster.do(submit_command())
    assert code(cluster.do(SignalTask(T1, "big", Data(b"x" * 900)))) == "TASK_TOO_LARGE"
    assert code(cluster.do(SignalTask(T1, ""))) == "BAD_SIGNAL"
    accepted(cluster, SignalTask(T1, "one"))
    assert code(cluster.do(SignalTask(T1, "two"))) == "TOO_MANY_SIGNALS"
    cluster.do(CancelTask(T1))
    assert code(cluster.do(SignalTask(T1, "late"))) == "TASK_TERMINAL"


def test_what_a_task_cannot_wait_for_is_refused(cluster: CoreCluster) -> None:
    cluster.running()
    assert code(cluster.do(SuspendTask(T1, 1, WaitReason.QUEUED, "x"))) == "BAD_WAIT"
    assert code(cluster.do(SuspendTask(T1, 1, SIGNAL))) == "BAD_WAIT"
    cluster.do(CancelTask(T1))
    assert code(cluster.do(SuspendTask(T1, 1, SIGNAL, "x"))) == "CANCELLED"
    assert state(cluster) is TaskState.CANCELLED


def test_signals_of_a_task_without_checkpoints_survive_its_attempts(cluster: CoreCluster) -> None:
    cluster.running(checkpointing=False)
    cluster.do(SignalTask(T1, "go", Data(b"1")))
    cluster.do(RecordStep(T1, 1, "a", NO_DATA))
    cluster.do(ReleaseTask(T1, 1, "why not"))
    task = cluster.task()
    assert (len(task.signals), task.step_count) == (1, 0)
    assert cluster.state.indexes.live_bytes == task.bytes_held == len(b"{}") + 1 + 200


# --- hurry


def test_a_delayed_task_can_be_hurried(cluster: CoreCluster) -> None:
    cluster.do(submit_command("t1", start_delay_ms=60_000))
    accepted(cluster, RetryTask(T1))
    assert cluster.do(RetryTask(T1)) == Accepted(T1, duplicate=True)
    assert isinstance(cluster.assign(), Accepted)
    assert code(cluster.do(RetryTask(T1))) == "NOT_QUEUED"
    cluster.do(FailAttempt(T1, 1, TaskError("SKILL_FAILED", "no"), dice=1 << 31))
    assert wait_reason(cluster.state, cluster.task(), cluster.now_ms).reason is WaitReason.BACKOFF
    accepted(cluster, RetryTask(T1))
    assert isinstance(cluster.assign(), Accepted)


# --- families


def family(cluster: CoreCluster) -> None:
    """t1 runs; t2 is its child and runs; t3 is t2's child and waits in the queue."""
    cluster.running("t1", deadline_after_ms=1_000)
    cluster.running("t2", parent_id=T1)
    cluster.do(submit_command("t3", parent_id=T2))


def test_cancelling_a_parent_cancels_its_children_and_theirs(cluster: CoreCluster) -> None:
    family(cluster)
    accepted(cluster, CancelTask(T1, "enough"))
    assert cluster.task("t2").cancel_requested and cluster.task("t2").state is TaskState.RUNNING
    assert state(cluster, "t3") is TaskState.CANCELLED
    accepted(cluster, ConfirmCancel(T2, 1))
    accepted(cluster, ConfirmCancel(T1, 1))
    assert not cluster.state.tasks


def test_children_end_with_a_parent_that_fails_and_outlive_one_that_succeeds(cluster: CoreCluster) -> None:
    family(cluster)
    accepted(cluster, FinishTask(T1, 1, NO_DATA))
    assert not cluster.task("t2").cancel_requested
    accepted(cluster, FailAttempt(T2, 1, TaskError("SKILL_FAILED", "no", retryable=False)))
    assert state(cluster, "t3") is TaskState.CANCELLED
    assert cluster.task("t3").cancel_reason == "its parent ended as FAILED"


def test_a_deep_family_ends_in_one_entry(cluster: CoreCluster) -> None:
    cluster.do(submit_command("t0"))
    for number in range(1, 3_000):
        cluster.do(submit_command(f"t{number}", parent_id=TaskId(f"t{number - 1}")))
    accepted(cluster, CancelTask(TaskId("t0")))
    assert not cluster.state.tasks


def test_a_child_has_no_more_time_than_its_parent(cluster: CoreCluster) -> None:
    family(cluster)
    deadline = cluster.task("t1").deadline_at_ms
    assert cluster.task("t2").deadline_at_ms == cluster.task("t3").deadline_at_ms == deadline
    cluster.do(submit_command("t4", parent_id=T1, deadline_after_ms=10))
    assert cluster.task("t4").deadline_at_ms == cluster.now_ms + 10
    cluster.now_ms = deadline
    while commands := [c for c in plans(cluster) if isinstance(c, ExpireTask)]:
        for command in commands:
            accepted(cluster, command)
    assert {state(cluster, name) for name in ("t1", "t2", "t3", "t4")} == {TaskState.TIMED_OUT}


def test_a_parent_must_live_and_be_of_the_same_tenant(cluster: CoreCluster) -> None:
    assert code(cluster.do(submit_command("t2", parent_id=T1))) == "PARENT_ENDED"
    cluster.running("t1")
    assert code(cluster.do(submit_command("t2", parent_id=T1, tenant="b"))) == "PARENT_ENDED"
    cluster.do(CancelTask(T1))
    assert code(cluster.do(submit_command("t2", parent_id=T1))) == "PARENT_ENDED"


def test_a_parent_waits_for_its_children(cluster: CoreCluster) -> None:
    cluster.running("t1")
    for name in ("c1", "c2", "c3"):
        cluster.running(name, parent_id=T1)
    accepted(cluster, SuspendTask(T1, 1, CHILD, seen=1))
    cluster.do(FinishTask(TaskId("c1"), 1, NO_DATA))
    assert state(cluster) is TaskState.WAITING
    cluster.do(FailAttempt(TaskId("c2"), 1, TaskError("X", "no", retryable=False)))
    assert state(cluster) is TaskState.PENDING, "one is left, and it does not wait for that one"
    cluster.assign()
    accepted(cluster, SuspendTask(T1, 2, CHILD))
    cluster.do(FinishTask(TaskId("c3"), 1, NO_DATA))
    assert state(cluster) is TaskState.PENDING
    cluster.assign()
    assert code(cluster.do(SuspendTask(T1, 3, CHILD))) == "WAIT_OVER"
