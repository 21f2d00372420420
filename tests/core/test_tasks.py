"""The life of a task, rule by rule."""

from __future__ import annotations

import pytest

from coterie.core.commands import (
    Accepted,
    CancelTask,
    ConfigureCluster,
    ConfirmCancel,
    ExpireTask,
    FailAttempt,
    FinishTask,
    RecordStep,
    Rejected,
    ReleaseTask,
    ReportProgress,
    SaveCheckpoint,
    StartTask,
)
from coterie.core.nouns import (
    NO_DATA,
    Data,
    ExpiryKind,
    Policy,
    RetryPolicy,
    TaskError,
    TaskId,
    TaskState,
)
from coterie.core.retry_rules import backoff_ms
from tests.core.builders import CoreCluster, submit_command

T1 = TaskId("t1")
ERROR = TaskError("SKILL_FAILED", "no")
DICE_TOP = (1 << 32) - 1


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1").with_node("n2")


def code(outcome: object) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def test_a_task_runs_to_its_result(cluster: CoreCluster) -> None:
    cluster.running()
    assert cluster.do(FinishTask(T1, 1, Data(b"42"))) == Accepted(T1)
    task = cluster.task()
    assert (task.state, task.result, task.attempt) == (TaskState.SUCCEEDED, Data(b"42"), 1)
    assert cluster.types() == ["submitted", "assigned", "started", "succeeded"]
    assert not cluster.state.tasks


def test_a_short_task_needs_no_report_of_its_start(cluster: CoreCluster) -> None:
    cluster.do(submit_command())
    cluster.assign()
    cluster.do(FinishTask(T1, 1, NO_DATA))
    assert cluster.types() == ["submitted", "assigned", "started", "succeeded"]


def test_any_report_implies_the_start(cluster: CoreCluster) -> None:
    cluster.do(submit_command())
    cluster.assign()
    cluster.do(RecordStep(T1, 1, "s", NO_DATA))
    assert cluster.types() == ["submitted", "assigned", "started", "step"]
    assert cluster.do(StartTask(T1, 1)) == Accepted(T1, duplicate=True)


def test_the_same_request_is_answered_with_the_same_task(cluster: CoreCluster) -> None:
    cluster.do(submit_command("t1", request_id="r", digest=b"d"))
    again = cluster.do(submit_command("t2", request_id="r", digest=b"d"))
    assert again == Accepted(T1, duplicate=True)
    assert list(cluster.state.tasks) == ["t1"]


def test_a_request_is_remembered_after_its_task_has_ended(cluster: CoreCluster) -> None:
    cluster.running(request_id="r", digest=b"d")
    cluster.do(FinishTask(T1, 1, NO_DATA))
    assert cluster.do(submit_command("t2", request_id="r", digest=b"d")) == Accepted(T1, True)


def test_a_request_id_with_another_body_is_refused(cluster: CoreCluster) -> None:
    cluster.do(submit_command("t1", request_id="r", digest=b"d"))
    assert code(cluster.do(submit_command("t2", request_id="r", digest=b"e"))) == "REQUEST_ID_REUSED"


def test_request_ids_of_two_tenants_do_not_meet(cluster: CoreCluster) -> None:
    cluster.do(submit_command("t1", request_id="r", digest=b"d"))
    assert cluster.do(submit_command("t2", tenant="b", request_id="r", digest=b"e")) == Accepted(TaskId("t2"))


def test_request_ids_are_forgotten_after_their_window(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(requests_kept_ms=100)))
    cluster.do(submit_command("t1", request_id="r"))
    cluster.now_ms += 200
    cluster.do(submit_command("t2", request_id="s"))
    assert list(cluster.state.requests) == ["default/s"]


def test_a_task_id_is_used_once(cluster: CoreCluster) -> None:
    cluster.do(submit_command())
    assert code(cluster.do(submit_command())) == "TASK_EXISTS"


def test_a_full_queue_refuses_and_keeps_nothing(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(pending_tasks_max=2)))
    cluster.do(submit_command("t1"))
    cluster.do(submit_command("t2", start_delay_ms=1_000))
    assert code(cluster.do(submit_command("t3", request_id="r"))) == "QUEUE_FULL"
    assert "default/r" not in cluster.state.requests


def test_live_tasks_hold_a_limited_number_of_bytes(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(live_bytes_max=100)))
    cluster.do(submit_command("t1", payload=Data(b"x" * 90)))
    assert code(cluster.do(submit_command("t2", payload=Data(b"x" * 20)))) == "QUEUE_FULL"


def test_a_lost_node_gives_its_tasks_back_with_what_they_did(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(RecordStep(T1, 1, "fetch", Data(b"page")))
    cluster.do(SaveCheckpoint(T1, 1, Data(b"half"), 1))
    cluster.do(ReleaseTask(T1, 1, "node died", lost=True))
    task = cluster.task()
    assert (task.state, task.losses, task.failures) == (TaskState.PENDING, 1, 0)
    assert task.checkpoint == Data(b"half")
    assert [step.key for step in cluster.state.steps[T1]] == ["fetch"]
    cluster.assign(node_id="n2")
    assert cluster.task().attempt == 2


def test_without_checkpointing_a_resumed_task_starts_from_zero(cluster: CoreCluster) -> None:
    cluster.running(checkpointing=False)
    cluster.do(RecordStep(T1, 1, "fetch", Data(b"page")))
    cluster.do(SaveCheckpoint(T1, 1, Data(b"half"), 1))
    cluster.do(ReleaseTask(T1, 1, "node died", lost=True))
    assert cluster.task().checkpoint == NO_DATA
    assert T1 not in cluster.state.steps


@pytest.mark.parametrize(
    "report",
    [
        StartTask(T1, 1),
        RecordStep(T1, 1, "s", NO_DATA),
        SaveCheckpoint(T1, 1, NO_DATA, 1),
        ReportProgress(T1, 1, 5_000, "half"),
        FinishTask(T1, 1, Data(b"late")),
        FailAttempt(T1, 1, ERROR),
        ReleaseTask(T1, 1, "late"),
        ConfirmCancel(T1, 1),
        ExpireTask(T1, 1, ExpiryKind.ATTEMPT),
    ],
    ids=lambda report: type(report).__name__,
)
def test_reports_of_a_deposed_attempt_are_refused(cluster: CoreCluster, report: object) -> None:
    cluster.running()
    cluster.do(ReleaseTask(T1, 1, "cut off", lost=True))
    cluster.assign(node_id="n2")
    before = cluster.task()
    assert code(cluster.do(report)) == "FENCED"  # type: ignore[arg-type]
    assert cluster.task() == before


def test_the_end_may_be_reported_twice_by_the_same_attempt_only(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(FinishTask(T1, 1, Data(b"first")))
    assert cluster.do(FinishTask(T1, 1, Data(b"again"))) == Accepted(T1, duplicate=True)
    assert cluster.task().result == Data(b"first")
    assert code(cluster.do(FinishTask(T1, 2, Data(b"other")))) == "TASK_TERMINAL"


def test_a_recorded_step_is_never_replaced(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(RecordStep(T1, 1, "s", Data(b"1")))
    assert cluster.do(RecordStep(T1, 1, "s", Data(b"1"))) == Accepted(T1, duplicate=True)
    assert code(cluster.do(RecordStep(T1, 1, "s", Data(b"2")))) == "STEP_RECORDED"


def test_a_late_copy_of_an_older_checkpoint_changes_nothing(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(SaveCheckpoint(T1, 1, Data(b"a"), 1))
    cluster.do(SaveCheckpoint(T1, 1, Data(b"b"), 2))
    assert cluster.do(SaveCheckpoint(T1, 1, Data(b"a"), 1)) == Accepted(T1, duplicate=True)
    assert cluster.task().checkpoint == Data(b"b")


def test_steps_have_limits(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(steps_per_task_max=1, task_bytes_max=2_000)))
    cluster.running("t1")
    assert code(cluster.do(RecordStep(T1, 1, "big", Data(b"x" * 2_000)))) == "TASK_TOO_LARGE"
    cluster.do(RecordStep(T1, 1, "one", NO_DATA))
    assert code(cluster.do(RecordStep(T1, 1, "two", NO_DATA))) == "TOO_MANY_STEPS"
    assert code(cluster.do(SaveCheckpoint(T1, 1, Data(b"x" * 2_000), 1))) == "TASK_TOO_LARGE"


def test_a_failed_attempt_is_tried_again_after_its_back_off(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(FailAttempt(T1, 1, ERROR, DICE_TOP))
    task = cluster.task()
    assert (task.state, task.failures, task.error) == (TaskState.PENDING, 1, ERROR)
    assert task.start_at_ms - cluster.now_ms == 99  # of at most 100
    assert code(cluster.assign()) == "NOT_DUE"
    cluster.now_ms += 100
    cluster.assign()
    assert cluster.task().start_at_ms == 0


def test_back_off_doubles_up_to_its_ceiling_with_full_jitter() -> None:
    retry = RetryPolicy(10, 100, 1_000)
    assert [backoff_ms(retry, n, DICE_TOP) for n in (1, 2, 3, 4, 5, 99)] == [99, 199, 399, 799, 999, 999]
    assert backoff_ms(retry, 3, 0) == 1


def test_the_last_failure_ends_the_task(cluster: CoreCluster) -> None:
    cluster.running(retry=RetryPolicy(attempts_max=2))
    cluster.do(FailAttempt(T1, 1, ERROR))
    cluster.assign()
    cluster.do(FailAttempt(T1, 2, ERROR))
    assert (cluster.task().state, cluster.task().error) == (TaskState.FAILED, ERROR)


def test_an_error_that_cannot_be_retried_ends_the_task(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(FailAttempt(T1, 1, TaskError("BAD_INPUT", "no", retryable=False)))
    assert cluster.task().state is TaskState.FAILED


def test_a_task_that_loses_many_nodes_is_put_aside(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(losses_max=2)))
    cluster.running()
    cluster.do(ReleaseTask(T1, 1, "node died", lost=True))
    cluster.assign()
    cluster.do(ReleaseTask(T1, 2, "node died", lost=True))
    assert cluster.task().state is TaskState.DEAD_LETTERED


def test_a_queued_task_is_cancelled_at_once(cluster: CoreCluster) -> None:
    cluster.do(submit_command())
    cluster.do(CancelTask(T1, "no need"))
    assert (cluster.task().state, cluster.task().cancel_reason) == (TaskState.CANCELLED, "no need")
    assert code(cluster.do(CancelTask(T1))) == "TASK_TERMINAL"


def test_a_running_task_is_cancelled_when_its_worker_has_stopped_it(cluster: CoreCluster) -> None:
    cluster.running()
    assert code(cluster.do(ConfirmCancel(T1, 1))) == "NOT_CANCELLED"
    cluster.do(CancelTask(T1))
    assert cluster.task().state is TaskState.RUNNING
    assert cluster.do(CancelTask(T1)) == Accepted(T1, duplicate=True)
    cluster.do(ConfirmCancel(T1, 1))
    assert cluster.task().state is TaskState.CANCELLED


def test_a_result_after_the_cancellation_is_dropped(cluster: CoreCluster) -> None:
    """The order of the log decides the race."""
    cluster.running()
    cluster.do(CancelTask(T1))
    assert code(cluster.do(FinishTask(T1, 1, Data(b"late")))) == "CANCELLED"
    assert (cluster.task().state, cluster.task().result) == (TaskState.CANCELLED, NO_DATA)


@pytest.mark.parametrize(
    "end",
    [
        FailAttempt(T1, 1, ERROR),
        ReleaseTask(T1, 1, "x", lost=True),
        ExpireTask(T1, 1, ExpiryKind.ATTEMPT),
    ],
)
def test_a_cancelled_task_does_not_come_back(cluster: CoreCluster, end: FailAttempt) -> None:
    cluster.running()
    cluster.do(CancelTask(T1))
    cluster.do(end)
    assert cluster.task().state is TaskState.CANCELLED


def test_a_deadline_ends_a_task_wherever_it_is(cluster: CoreCluster) -> None:
    cluster.running(deadline_after_ms=100)
    assert code(cluster.do(ExpireTask(T1, 1, ExpiryKind.DEADLINE))) == "NOT_DUE"
    cluster.now_ms += 200
    cluster.do(ExpireTask(T1, 1, ExpiryKind.DEADLINE))
    assert cluster.task().state is TaskState.TIMED_OUT


def test_an_attempt_that_takes_too_long_is_tried_again_then_timed_out(cluster: CoreCluster) -> None:
    cluster.running(retry=RetryPolicy(attempts_max=2))
    cluster.do(ExpireTask(T1, 1, ExpiryKind.ATTEMPT))
    assert cluster.task().state is TaskState.PENDING
    cluster.assign()
    cluster.do(ExpireTask(T1, 2, ExpiryKind.ATTEMPT))
    assert cluster.task().state is TaskState.TIMED_OUT


def test_finished_tasks_are_kept_up_to_a_number_and_a_size(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(finished_tasks_kept_max=2)))
    for number in range(4):
        cluster.running(f"t{number}")
        cluster.do(FinishTask(TaskId(f"t{number}"), 1, NO_DATA))
    assert list(cluster.state.finished) == ["t2", "t3"]
    assert cluster.state.meta.finished_total == 4
    cluster.do(ConfigureCluster("c", "c", Policy(finished_bytes_kept_max=5_000)))
    cluster.running("t9")
    cluster.do(FinishTask(TaskId("t9"), 1, Data(b"x" * 3_500)))
    assert list(cluster.state.finished) == ["t9"]


def test_an_unknown_task_is_refused(cluster: CoreCluster) -> None:
    assert code(cluster.do(CancelTask(TaskId("nobody")))) == "TASK_NOT_FOUND"
    assert code(cluster.do(FinishTask(TaskId("nobody"), 1, NO_DATA))) == "TASK_NOT_FOUND"


def test_another_cluster_is_refused(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c1", "c", Policy()))
    assert code(cluster.do(ConfigureCluster("c2", "c", Policy()))) == "OTHER_CLUSTER"


def test_a_command_without_a_rule_is_refused(cluster: CoreCluster) -> None:
    assert code(cluster.do("drop table")) == "UNKNOWN_COMMAND"  # type: ignore[arg-type]


def test_time_never_goes_back(cluster: CoreCluster) -> None:
    cluster.do(submit_command("t1"))
    cluster.now_ms -= 500
    cluster.do(submit_command("t2"))
    assert cluster.task("t2").created_at_ms >= cluster.task("t1").created_at_ms
