"""Attempts that fail, crash or are lost; tasks that are given up; dead letters and new runs."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.commands import (
    Accepted,
    ConfigureCluster,
    FailAttempt,
    FinishTask,
    MarkNode,
    PurgeDeadLetters,
    RecordStep,
    Rejected,
    ReleaseTask,
    ReplayTask,
    SaveCheckpoint,
)
from coterie.core.nouns import (
    NO_DATA,
    CrashKind,
    Data,
    NodeId,
    NodeStatus,
    Policy,
    RetryPolicy,
    Step,
    TaskError,
    TaskId,
    TaskState,
)
from tests.core.builders import CoreCluster, submit_command

T1, T2, AGAIN = TaskId("t1"), TaskId("t2"), TaskId("again")
FAILED = TaskError("SKILL_FAILED", "no")
CRASHED = TaskError("SKILL_CRASHED", "signal 11")
PATIENT = RetryPolicy(attempts_max=50, backoff_initial_ms=1, backoff_max_ms=1)
BURIED = RetryPolicy(attempts_max=1, dead_letter=True)


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1").with_node("n2").with_node("n3")


def code(outcome: object) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def fail_on(cluster: CoreCluster, node_id: str, error: TaskError = CRASHED) -> TaskState:
    cluster.now_ms += 10
    assert isinstance(cluster.assign("t1", node_id), Accepted)
    assert isinstance(cluster.do(FailAttempt(T1, cluster.task().attempt, error)), Accepted)
    return cluster.task().state


def lose(cluster: CoreCluster, *, started: bool = True) -> TaskState:
    cluster.now_ms += 10
    cluster.assign()
    attempt = cluster.task().attempt
    if started:
        cluster.do(RecordStep(T1, attempt, f"s{attempt}", NO_DATA))
    cluster.do(ReleaseTask(T1, attempt, "gone", lost=True))
    return cluster.task().state


def bury(cluster: CoreCluster, task_id: str, **changes: Any) -> None:
    cluster.running(task_id, retry=BURIED, **changes)
    cluster.do(FailAttempt(TaskId(task_id), cluster.task(task_id).attempt, FAILED))
    assert cluster.task(task_id).state is TaskState.DEAD_LETTERED


# --- retries


def test_an_error_on_the_list_is_not_tried_again(cluster: CoreCluster) -> None:
    cluster.do(submit_command(retry=RetryPolicy(non_retryable=("BAD_INPUT",))))
    assert fail_on(cluster, "n1", FAILED) is TaskState.PENDING
    cluster.now_ms += 1_000
    assert fail_on(cluster, "n1", TaskError("BAD_INPUT", "no")) is TaskState.FAILED


def test_the_next_attempts_time_is_part_of_the_state(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(FailAttempt(T1, 1, FAILED, dice=1 << 31))
    assert cluster.task().start_at_ms == cluster.now_ms + 50, "half of the ceiling of 100 ms"
    refused = cluster.assign()
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.retry_at_ms) == ("NOT_DUE", cluster.task().start_at_ms)


def test_out_of_attempts_a_task_fails_or_is_kept_as_a_dead_letter(cluster: CoreCluster) -> None:
    cluster.running("t1", retry=RetryPolicy(attempts_max=1))
    cluster.do(FailAttempt(T1, 1, FAILED))
    assert (cluster.task().state, len(cluster.state.dead_letters)) == (TaskState.FAILED, 0)
    bury(cluster, "t2")
    assert cluster.state.dead_letters[T2].task.error == FAILED


# --- poison


def test_a_task_that_crashes_on_three_nodes_is_put_aside(cluster: CoreCluster) -> None:
    cluster.do(submit_command(retry=PATIENT))
    for node in ("n1", "n1", "n2", "n2"):
        assert fail_on(cluster, node) is TaskState.PENDING
    assert fail_on(cluster, "n3") is TaskState.DEAD_LETTERED
    task = cluster.task()
    assert task.error == TaskError("POISON", "its process died on n1, n2, n3", retryable=False)
    assert {crash.node_id for crash in task.crashes} == {"n1", "n2", "n3"}
    assert T1 in cluster.state.dead_letters


@pytest.mark.parametrize("progress", ["step", "checkpoint"])
def test_progress_clears_the_suspicion(progress: str, cluster: CoreCluster) -> None:
    cluster.do(submit_command(retry=PATIENT))
    fail_on(cluster, "n1")
    fail_on(cluster, "n2")
    cluster.now_ms += 10
    cluster.assign()
    attempt = cluster.task().attempt
    if progress == "step":
        cluster.do(RecordStep(T1, attempt, "a", NO_DATA))
    else:
        cluster.do(SaveCheckpoint(T1, attempt, Data(b"x"), 1))
    assert cluster.task().crashes == ()
    cluster.do(FailAttempt(T1, attempt, CRASHED))
    assert fail_on(cluster, "n3") is TaskState.PENDING


def test_losses_are_counted_apart_and_only_those_without_progress_tell(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(node_losses_max=3)))
    cluster.do(submit_command())
    for _ in range(5):
        assert lose(cluster) is TaskState.PENDING, "each attempt got a step further"
    for _ in range(5):
        assert lose(cluster, started=False) is TaskState.PENDING, "it had not begun"
    task = cluster.task()
    assert (task.failures, task.losses) == (0, 10)
    for _ in range(2):
        cluster.running("t2") if T2 not in cluster.state.tasks else cluster.assign("t2")
        cluster.do(RecordStep(T2, cluster.task("t2").attempt, "once", NO_DATA))
        cluster.do(ReleaseTask(T2, cluster.task("t2").attempt, "gone", lost=True))
    assert cluster.task("t2").crashes[-1].kind is CrashKind.NODE


def test_a_task_whose_nodes_die_again_and_again_is_put_aside(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(node_losses_max=2)))
    cluster.running()
    cluster.do(MarkNode(NodeId("n1"), 1, NodeStatus.DOWN))
    assert cluster.task().state is TaskState.PENDING
    cluster.assign("t1", "n2")
    cluster.do(SaveCheckpoint(T1, 2, NO_DATA, 0))  # an old checkpoint is no progress, but a sign of life
    cluster.do(MarkNode(NodeId("n2"), 1, NodeStatus.DOWN))
    task = cluster.task()
    assert task.state is TaskState.DEAD_LETTERED and task.error is not None
    assert task.error.message == "2 times in a row its node was lost: n1, n2"


def test_a_process_that_died_is_no_lost_node(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(node_losses_max=2, crash_nodes_max=3)))
    cluster.do(submit_command(retry=PATIENT))
    fail_on(cluster, "n1")
    fail_on(cluster, "n1")
    cluster.now_ms += 10
    cluster.assign("t1", "n1")
    cluster.do(MarkNode(NodeId("n1"), 1, NodeStatus.DOWN))
    assert cluster.task().state is TaskState.PENDING, "two crashes of one process, and no node lost twice"


# --- dead letters


def test_a_dead_letter_runs_again_with_its_steps_as_a_task_of_its_own(cluster: CoreCluster) -> None:
    cluster.running("t1", retry=BURIED, deadline_after_ms=5_000, key="k", priority=3)
    cluster.do(RecordStep(T1, 1, "a", Data(b"1")))
    cluster.do(FailAttempt(T1, 1, FAILED))
    replay = ReplayTask(T1, AGAIN, "r1", b"d", keep_steps=True)
    assert cluster.do(replay) == Accepted(AGAIN)
    assert cluster.do(replay) == Accepted(AGAIN, duplicate=True)
    task = cluster.task("again")
    assert (task.retry_of, task.key, task.priority, task.attempt, task.failures) == ("t1", "k", 3, 0, 0)
    assert task.deadline_at_ms == task.created_at_ms + 5_000
    assert [step.key for step in cluster.state.steps[AGAIN]] == ["a"] and task.step_count == 1
    assert T1 not in cluster.state.dead_letters and cluster.state.meta.dead_letter_bytes == 0
    cluster.assign("again")
    assert code(cluster.do(RecordStep(AGAIN, 1, "a", Data(b"2")))) == "STEP_RECORDED"
    cluster.do(FinishTask(AGAIN, 1, NO_DATA))


def test_a_recently_failed_task_can_be_run_again_from_zero(cluster: CoreCluster) -> None:
    cluster.running("t1", retry=RetryPolicy(attempts_max=1))
    cluster.do(RecordStep(T1, 1, "a", Data(b"1")))
    assert code(cluster.do(ReplayTask(T1, AGAIN))) == "TASK_LIVE"
    cluster.do(FailAttempt(T1, 1, FAILED))
    assert code(cluster.do(ReplayTask(T1, AGAIN, keep_steps=True))) == "STEPS_ELSEWHERE"
    assert cluster.do(ReplayTask(T1, AGAIN, keep_steps=False)) == Accepted(AGAIN)
    assert AGAIN not in cluster.state.steps
    assert code(cluster.do(ReplayTask(T1, AGAIN, keep_steps=False))) == "TASK_EXISTS"
    assert code(cluster.do(ReplayTask(TaskId("t9"), T2))) == "TASK_NOT_FOUND"
    cluster.running("t2")
    cluster.do(FinishTask(T2, 1, NO_DATA))
    assert code(cluster.do(ReplayTask(T2, TaskId("t3")))) == "TASK_SUCCEEDED"


def test_a_run_may_bring_its_steps_along(cluster: CoreCluster) -> None:
    steps = (Step("a", 1, Data(b"abc"), 5), Step("b", 2, NO_DATA, 6))
    cluster.do(submit_command("t2", retry_of=T1, steps=steps))
    task = cluster.task("t2")
    assert (task.retry_of, task.step_count, task.bytes_held) == ("t1", 2, 2 + 3 + 2 * 200)
    assert cluster.state.steps[T2] == steps


def test_the_list_of_a_tenant_has_an_end_and_the_total_has_a_size(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(dead_letters_max=2)))
    bury(cluster, "other", tenant="b")
    for number in range(3):
        bury(cluster, f"t{number}")
    assert list(cluster.state.dead_letters) == ["other", "t1", "t2"]
    assert cluster.state.meta.dead_letters_dropped == 1
    cluster.do(ConfigureCluster("c", "c", Policy(dead_letter_bytes_max=3_000)))
    bury(cluster, "t3")
    assert list(cluster.state.dead_letters) == ["t2", "t3"], "the oldest of all make room"
    assert cluster.state.meta.dead_letter_bytes <= 3_000


def test_dead_letters_are_purged_by_name_or_by_age(cluster: CoreCluster) -> None:
    for number in range(4):
        bury(cluster, f"t{number}")
    bury(cluster, "other", tenant="b")
    then = cluster.task("t1").finished_at_ms
    cluster.do(PurgeDeadLetters("default", (TaskId("t3"), TaskId("other"))))
    assert list(cluster.state.dead_letters) == ["t0", "t1", "t2", "other"]
    cluster.do(PurgeDeadLetters("default", before_ms=then))
    assert list(cluster.state.dead_letters) == ["t1", "t2", "other"]
    cluster.do(PurgeDeadLetters("default", before_ms=cluster.now_ms + 1))
    assert list(cluster.state.dead_letters) == ["other"]
