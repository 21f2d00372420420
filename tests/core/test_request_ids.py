"""What is asked for twice under one request id happens once, whatever came between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from coterie.core.commands import (
    Accepted,
    CancelTask,
    Command,
    ConfigureCluster,
    FailAttempt,
    FinishTask,
    PauseTask,
    Rejected,
    ReplayTask,
    ResumeTask,
    RetryTask,
    SignalTask,
)
from coterie.core.nouns import NO_DATA, Policy, Request, RetryPolicy, TaskError, TaskId, TaskState
from coterie.core.request_ids import CONTROLS_SHARE
from coterie.core.state import REBUILD_TASKS, ClusterState
from coterie.raft.codec import decode_state, encode_state
from tests.core.builders import CoreCluster, submit_command

T1, NEW = TaskId("t1"), TaskId("new")
ONCE = RetryPolicy(attempts_max=1)
AGAIN = Accepted(T1, duplicate=True)


@pytest.fixture
def cluster() -> CoreCluster:
    made = CoreCluster().with_node("n1")
    made.do(submit_command("t1", retry=ONCE))
    return made


def fail(cluster: CoreCluster) -> None:
    cluster.assign()
    cluster.do(FailAttempt(T1, cluster.task().attempt, TaskError("SKILL_FAILED", "boom")))
    assert cluster.task().state is TaskState.FAILED


def test_a_pause_that_is_repeated_after_a_resume_pauses_nothing(cluster: CoreCluster) -> None:
    assert cluster.do(PauseTask(T1, "", "r1", b"p")) == Accepted(T1)
    assert cluster.do(ResumeTask(T1, "r2", b"r")) == Accepted(T1)
    assert cluster.do(PauseTask(T1, "", "r1", b"p")) == AGAIN
    assert cluster.task().state is TaskState.PENDING
    assert cluster.do(PauseTask(T1, "", "r3", b"p")) == Accepted(T1), "another request"
    assert cluster.do(ResumeTask(T1, "r2", b"r")) == AGAIN
    assert cluster.task().state is TaskState.PAUSED


@pytest.mark.parametrize(
    "command",
    [
        lambda digest: CancelTask(T1, "", "r1", digest),
        lambda digest: PauseTask(T1, "", "r1", digest),
        lambda digest: ResumeTask(T1, "r1", digest),
        lambda digest: SignalTask(T1, "go", NO_DATA, "r1", "r1", digest),
        lambda digest: RetryTask(T1, "r1", digest),
    ],
    ids=["cancel", "pause", "resume", "signal", "retry"],
)
def test_the_answer_stays_the_same_when_the_task_is_gone(
    cluster: CoreCluster, command: Callable[[bytes], Command]
) -> None:
    assert cluster.do(command(b"a")) == Accepted(
        T1, duplicate=isinstance(command(b"a"), ResumeTask | RetryTask)
    )
    cluster.do(CancelTask(T1))
    cluster.state.finished.clear()
    assert cluster.do(command(b"a")) == AGAIN
    other = cluster.do(command(b"b"))
    assert isinstance(other, Rejected) and other.code == "REQUEST_ID_REUSED" and "r1" in other.reason


def test_two_signals_are_two_also_when_they_say_the_same(cluster: CoreCluster) -> None:
    for request_id in ("r1", "r2", "r1"):
        cluster.do(SignalTask(T1, "go", NO_DATA, request_id, request_id, b"a"))
    assert [signal.signal_id for signal in cluster.task().signals] == ["r1", "r2"]


def test_what_was_refused_may_be_asked_for_again(cluster: CoreCluster) -> None:
    cluster.assign()
    refused = cluster.do(RetryTask(T1, "r1", b"a"))
    assert isinstance(refused, Rejected) and refused.code == "NOT_QUEUED"
    assert "\0t1/r1" not in cluster.state.requests


def test_a_retry_that_hurried_a_task_makes_no_new_run_when_it_is_repeated(cluster: CoreCluster) -> None:
    assert isinstance(cluster.do(RetryTask(T1, "r1", b"again")), Accepted)
    fail(cluster)
    assert cluster.do(ReplayTask(T1, NEW, "r1", b"again", False)) == AGAIN
    assert cluster.state.task(NEW) is None
    assert cluster.do(ReplayTask(T1, NEW, "r2", b"again", False)) == Accepted(NEW)
    assert cluster.do(ReplayTask(T1, TaskId("newer"), "r2", b"again", False)) == Accepted(NEW, duplicate=True)


def test_ids_of_one_task_say_nothing_about_another(cluster: CoreCluster) -> None:
    cluster.do(submit_command("t2", request_id="r1", digest=b"s"))
    for task_id in ("t1", "t2"):
        assert cluster.do(PauseTask(TaskId(task_id), "", "r1", b"p")) == Accepted(TaskId(task_id))


def test_answers_are_kept_as_long_as_those_of_submits(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(requests_kept_ms=50)))
    cluster.do(PauseTask(T1, "", "r1", b"p"))
    cluster.do(ResumeTask(T1))
    cluster.now_ms += 100
    cluster.do(submit_command("t2", request_id="other", digest=b"s"))
    assert cluster.do(PauseTask(T1, "", "r1", b"p")) == Accepted(T1), "forgotten: a new pause"


def test_without_an_id_every_call_counts(cluster: CoreCluster) -> None:
    before = dict(cluster.state.requests)
    cluster.do(PauseTask(T1))
    cluster.do(ResumeTask(T1))
    cluster.do(PauseTask(T1))
    assert cluster.task().state is TaskState.PAUSED and dict(cluster.state.requests) == before
    cluster.do(FinishTask(T1, 1, NO_DATA))


def test_a_flood_of_controls_makes_no_submit_be_forgotten() -> None:
    """Nor the newest of themselves; also in a replica that was restored meanwhile."""
    cluster = CoreCluster().with_node("n1")
    cluster.do(ConfigureCluster("id", "name", Policy(requests_kept_max=8)))
    command = submit_command("t1", request_id="first")
    cluster.do(command)

    def flood(name: str) -> None:
        for number in range(20):
            cluster.do(PauseTask(T1, "", f"{name}p{number}", b"p"))
            cluster.do(ResumeTask(T1, f"{name}r{number}", b"r"))

    flood("a")
    cluster.state = decode_state(encode_state(cluster.state))
    flood("b")
    assert len(cluster.state.requests) == 1 + 8 // CONTROLS_SHARE
    again = cluster.do(replace(command, task_id=TaskId("t2")))
    assert again == Accepted(T1, duplicate=True)
    assert cluster.do(ResumeTask(T1, "br19", b"r")) == AGAIN
    for number in range(8):
        cluster.do(submit_command(f"s{number}", request_id=f"s{number}"))
    assert cluster.do(replace(command, task_id=TaskId("t2"))) == Accepted(TaskId("t2"))
    assert len(cluster.state.indexes.controls) == 0, "they were older than the submit that left"


def test_a_state_is_rebuilt_in_portions_however_few_of_its_requests_matter() -> None:
    """A node that installs a snapshot takes a turn of its loop for each."""
    state = ClusterState()
    for number in range(10 * REBUILD_TASKS):
        key = f"default/r{number}"
        state.requests[key] = Request(key, T1, b"", 0)
    assert sum(1 for _ in state.rebuilding()) >= 10
