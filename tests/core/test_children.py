"""Children of a running task: asked for once, waited for together, known until their parent has ended."""

from __future__ import annotations

import pytest

from coterie.core import child_rules, families
from coterie.core.commands import (
    Accepted,
    CancelChildren,
    CancelTask,
    Command,
    ConfigureCluster,
    FailAttempt,
    FinishTask,
    Outcome,
    Rejected,
    ReleaseTask,
    SpawnChild,
    StartTask,
    SuspendTask,
)
from coterie.core.families import child_id
from coterie.core.nouns import Data, Policy, TaskError, TaskId, TaskState, Wait, WaitReason
from coterie.core.waiting import wait_reason
from tests.core.builders import CoreCluster, submit_command

T1 = TaskId("t1")
CHILD = WaitReason.CHILD
FATAL = TaskError("BROKEN", "it broke", retryable=False, traceback="long")


@pytest.fixture
def cluster() -> CoreCluster:
    cluster = CoreCluster().with_node("n1", capacity=50)
    cluster.running("t1")
    return cluster


def spawn(cluster: CoreCluster, key: str, group: str = "g", attempt: int = 1, **changes: object) -> Outcome:
    asked = submit_command(child_id("t1", key), **{"parent_id": T1, "digest": b"d", **changes})
    family = cluster.state.families.get(T1)
    place = len(family.group(group).places) if family is not None else 0
    return cluster.do(SpawnChild(attempt, group, place, asked))


def suspended(cluster: CoreCluster, seen: int = 0, stop_after: int = 0, group: str = "g") -> Outcome:
    attempt = cluster.task().attempt
    return cluster.do(SuspendTask(T1, attempt, CHILD, group, seen, stop_after=stop_after))


def end(cluster: CoreCluster, key: str, *, result: bytes = b"1", error: TaskError | None = None) -> None:
    name = child_id("t1", key)
    cluster.assign(name)
    task = cluster.task(name)
    command: Command = FinishTask(task.task_id, task.attempt, Data(result))
    if error is not None:
        command = FailAttempt(task.task_id, task.attempt, error)
    assert isinstance(cluster.do(command), Accepted)


def code(outcome: Outcome) -> str:
    return outcome.code if isinstance(outcome, Rejected) else ""


def test_a_child_asked_for_again_is_the_same_child(cluster: CoreCluster) -> None:
    assert spawn(cluster, "a") == Accepted(TaskId("t1~a"))
    cluster.do(ReleaseTask(T1, 1, "moved", lost=True))
    cluster.assign()
    assert code(spawn(cluster, "b")) == "FENCED", "the first attempt is deposed"
    assert spawn(cluster, "a", attempt=2) == Accepted(TaskId("t1~a"), duplicate=True)
    end(cluster, "a")
    assert spawn(cluster, "a", attempt=2) == Accepted(TaskId("t1~a"), duplicate=True), (
        "also when it has ended"
    )
    assert code(spawn(cluster, "a", attempt=2, digest=b"other")) == "CHILD_DIFFERS"
    assert len(cluster.state.families[T1]) == 1 and "t1~a" not in cluster.state.tasks


def test_a_child_has_at_most_the_time_of_its_parent() -> None:
    cluster = CoreCluster().with_node("n1")
    cluster.running("t1", deadline_after_ms=1_000)
    parent = cluster.task()
    spawn(cluster, "short", deadline_after_ms=10)
    spawn(cluster, "long", deadline_after_ms=100_000)
    spawn(cluster, "none")
    ends = [cluster.task(child_id("t1", key)).deadline_at_ms for key in ("short", "long", "none")]
    assert ends[0] < parent.deadline_at_ms and ends[1:] == [parent.deadline_at_ms] * 2


def test_the_parent_sleeps_until_few_enough_are_open_and_is_woken_once(cluster: CoreCluster) -> None:
    for key in "abc":
        spawn(cluster, key)
    spawn(cluster, "other", group="h")
    assert isinstance(suspended(cluster, seen=1), Accepted)
    assert cluster.task().wait == Wait(CHILD, "g", 1)
    assert (
        wait_reason(cluster.state, cluster.task(), cluster.now_ms).detail == "4 of its children are not over"
    )
    assert not cluster.state.indexes.held_by(cluster.task().node_id), "it holds no slot"
    end(cluster, "a")
    assert cluster.task().state is TaskState.WAITING
    end(cluster, "other")
    assert cluster.task().state is TaskState.WAITING, "another group is not waited for"
    end(cluster, "b")
    assert cluster.task().state is TaskState.PENDING
    end(cluster, "c")
    assert cluster.types().count("woken") == 1
    cluster.assign()
    assert code(suspended(cluster)) == "WAIT_OVER"


def test_a_failed_child_ends_the_wait_where_that_is_asked_for(cluster: CoreCluster) -> None:
    for key in "abcd":
        spawn(cluster, key)
    suspended(cluster, stop_after=2)
    end(cluster, "a", error=FATAL)
    assert cluster.task().state is TaskState.WAITING
    end(cluster, "c", error=FATAL)
    assert cluster.task().state is TaskState.PENDING
    group = cluster.state.families[T1].group("g")
    assert (group.open, group.failed, group.first_failed) == (2, 2, 0)
    known = cluster.state.families[T1].end_of(0)
    assert known is not None and known.error == TaskError("BROKEN", "it broke", retryable=False)
    cluster.assign()
    cluster.do(CancelChildren(T1, 2, "g", "enough"))
    assert [cluster.task(f"t1~{key}").state.name for key in "abcd"] == [
        "FAILED", "CANCELLED", "FAILED", "CANCELLED",
    ]  # fmt: skip
    cancelled = cluster.state.families[T1].end_of(1)
    assert cancelled is not None and cancelled.error == TaskError("CANCELLED", "enough", retryable=False)


def test_results_outlive_the_tasks_and_go_with_the_parent(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(finished_tasks_kept_max=2)))
    empty = cluster.state.indexes.live_bytes
    for number in range(20):
        spawn(cluster, str(number))
        end(cluster, str(number), result=b"%d" % number)
    assert cluster.state.task(TaskId("t1~3")) is None, "forgotten: the ledger has it"
    ends = [cluster.state.families[T1].end_of(place) for place in range(20)]
    assert [end.result.inline for end in ends if end is not None] == [b"%d" % n for n in range(20)]
    assert cluster.state.indexes.live_bytes > empty, "what is kept counts"
    cluster.do(FinishTask(T1, 1, Data(b"done")))
    assert not cluster.state.families and not cluster.state.indexes.live_bytes


def test_children_do_not_outlive_a_parent_that_is_cancelled(cluster: CoreCluster) -> None:
    spawn(cluster, "a")
    spawn(cluster, "b")
    cluster.assign("t1~a")
    suspended(cluster)
    cluster.do(CancelTask(T1, "changed my mind"))
    assert cluster.task("t1~b").state is TaskState.CANCELLED
    assert cluster.task("t1~a").cancel_requested and not cluster.state.families
    assert code(spawn(cluster, "c")) == "TASK_TERMINAL"


def test_families_have_limits(cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_rules, "CHILDREN_MAX", 2)
    spawn(cluster, "a")
    cluster.do(submit_command("t1~b"))
    assert code(spawn(cluster, "b")) == "TASK_EXISTS", "somebody else has that id"
    assert code(spawn(cluster, "b", tenant="acme")) == "PARENT_ENDED"
    spawn(cluster, "c")
    assert code(spawn(cluster, "d")) == "TOO_MANY_CHILDREN"
    cluster.do(ConfigureCluster("c", "c", Policy(pending_tasks_max=3)))
    monkeypatch.undo()
    assert code(spawn(cluster, "d")) == "QUEUE_FULL"
    cluster.do(ConfigureCluster("c", "c", Policy(task_bytes_max=2 * families.CHILD_OVERHEAD_BYTES - 1)))
    assert code(spawn(cluster, "d")) == "TASK_TOO_LARGE"


def test_generations_have_a_limit(cluster: CoreCluster) -> None:
    above = T1
    for number in range(families.GENERATIONS_MAX):
        name = TaskId(f"n{number}")
        outcome = cluster.do(SpawnChild(1, "g", 0, submit_command(name, parent_id=above, digest=b"d")))
        if isinstance(outcome, Rejected):
            assert (number, outcome.code) == (families.GENERATIONS_MAX - 1, "TOO_DEEP")
            return
        cluster.assign(name)
        cluster.do(StartTask(name, 1))
        above = name
    pytest.fail("there was no limit")


def test_children_begin_in_their_order_without_gaps(cluster: CoreCluster) -> None:
    asked = submit_command("t1~b", parent_id=T1, digest=b"d")
    assert code(cluster.do(SpawnChild(1, "g", 1, asked))) == "OUT_OF_ORDER", "the one before it was refused"
    spawn(cluster, "a")
    assert isinstance(cluster.do(SpawnChild(1, "g", 1, asked)), Accepted)


def test_what_a_thousand_ends_cost_does_not_grow(cluster: CoreCluster) -> None:
    """Each end touches its own record: the family's lists are not copied."""
    for number in range(1_000):
        spawn(cluster, str(number))
    family = cluster.state.families[T1]
    image = family.view()
    before = list(image.parts(T1, 5_000))
    end(cluster, "7")
    assert list(image.parts(T1, 5_000)) == before, "an image stays as it is"
    assert family.open_in("g")[7] == "t1~8"


def test_an_id_that_is_too_long_is_none() -> None:
    assert child_id("p" * 120, "1234567") == "p" * 120 + "~1234567"
    assert child_id("p" * 120, "12345678") == ""


def test_a_wait_after_a_loss_is_no_crash_of_the_machine(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A breaker would open for the healthy node on which parents of a lost one wait."""
    crashed: list[object] = []
    monkeypatch.setattr(type(cluster.state.outcomes), "crashed", lambda *told: crashed.append(told))
    spawn(cluster, "c", attempt=cluster.task().attempt)
    cluster.do(ReleaseTask(T1, cluster.task().attempt, "its node died", lost=True))
    cluster.assign()
    cluster.do(StartTask(T1, cluster.task().attempt))
    assert cluster.task().crashes
    suspended(cluster)
    assert cluster.task().state is TaskState.WAITING and not crashed


def test_a_parent_that_gets_further_is_no_poison(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(node_losses_max=2)))

    def lost() -> None:
        cluster.do(ReleaseTask(T1, cluster.task().attempt, "its node died", lost=True))
        cluster.assign()
        cluster.do(StartTask(T1, cluster.task().attempt))

    for number in range(4):
        lost()
        assert len(cluster.task().crashes) == 1
        spawn(cluster, f"c{number}", attempt=cluster.task().attempt)
        assert cluster.task().crashes == (), "it has begun a child"
    lost()
    suspended(cluster)
    assert cluster.task().state is TaskState.WAITING and cluster.task().crashes == ()
    for number in range(4):
        end(cluster, f"c{number}")
    cluster.assign()
    cluster.do(StartTask(T1, cluster.task().attempt))
    lost()
    cluster.do(ReleaseTask(T1, cluster.task().attempt, "its node died", lost=True))
    task = cluster.task()
    assert task.error is not None and (task.state, task.error.code) == (TaskState.DEAD_LETTERED, "POISON")
