"""An id is good once: also while nothing but a dead letter has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coterie.core.commands import (
    Accepted,
    ConfigureCluster,
    FailAttempt,
    Outcome,
    PurgeDeadLetters,
    Rejected,
    ReplayTask,
    SpawnChild,
)
from coterie.core.coordination.commands import ApplySchedule, RunSchedule
from coterie.core.coordination.nouns import SchedulePlan, TaskTemplate
from coterie.core.nouns import NO_DATA, DeadLetter, Policy, RetryPolicy, TaskError, TaskId, evolve
from tests.core.builders import CoreCluster, submit_command
from tests.core.runs.world import World, echo

BURIED = RetryPolicy(attempts_max=1, dead_letter=True)
FAILED = TaskError("SKILL_FAILED", "no")


def forgetful(cluster: CoreCluster) -> Any:
    """One that forgets what has ended at once: only its dead letters know."""
    cluster.with_node(capacity=100)
    cluster.do(ConfigureCluster("c", "c", Policy(finished_tasks_kept_max=0)))
    return cluster


@pytest.fixture
def cluster() -> CoreCluster:
    core: CoreCluster = forgetful(CoreCluster())
    return core


def bury(cluster: CoreCluster, task_id: str, **changes: Any) -> None:
    cluster.running(task_id, retry=BURIED, **changes)
    cluster.do(FailAttempt(TaskId(task_id), 1, FAILED))
    assert task_id in cluster.state.dead_letters and cluster.state.task(TaskId(task_id)) is None


def spawn(cluster: CoreCluster, parent: str, name: str, place: int, **changes: Any) -> Outcome:
    values = {"parent_id": TaskId(parent), "retry": BURIED, **changes}
    return cluster.do(SpawnChild(1, "g", place, submit_command(f"{parent}~{name}", **values)))


def code(outcome: Outcome) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def test_a_child_does_not_take_the_id_of_another_tenants_dead_letter(cluster: CoreCluster) -> None:
    bury(cluster, "p~k", tenant="evil")
    cluster.running("p", tenant="good")
    assert code(spawn(cluster, "p", "k", 0, tenant="good")) == "TASK_EXISTS"
    cluster.do(PurgeDeadLetters("good", (TaskId("p~k"),)))
    assert [*cluster.state.indexes.dead_of("evil")] == ["p~k"], "it is theirs, and still there"
    assert cluster.do(PurgeDeadLetters("evil", (TaskId("p~k"),))) == Accepted()
    assert not cluster.state.dead_letters and cluster.state.meta.dead_letter_bytes == 0
    assert spawn(cluster, "p", "k", 0, tenant="good") == Accepted(TaskId("p~k"))


def test_no_task_and_no_new_run_takes_the_id_of_a_dead_letter(cluster: CoreCluster) -> None:
    bury(cluster, "t1")
    bury(cluster, "t2")
    assert code(cluster.do(submit_command("t1"))) == "TASK_EXISTS"
    assert code(cluster.do(ReplayTask(TaskId("t1"), TaskId("t2")))) == "TASK_EXISTS"
    assert code(cluster.do(ReplayTask(TaskId("t1"), TaskId("t1")))) == "TASK_EXISTS"
    assert cluster.do(ReplayTask(TaskId("t1"), TaskId("again"))) == Accepted(TaskId("again"))


def test_a_parent_that_asks_again_hears_how_its_dead_child_ended(cluster: CoreCluster) -> None:
    cluster.running("p")
    spawn(cluster, "p", "k", 0)
    cluster.assign("p~k")
    cluster.do(FailAttempt(TaskId("p~k"), 1, FAILED))
    assert spawn(cluster, "p", "k", 0) == Accepted(TaskId("p~k"), duplicate=True)
    assert cluster.do(ReplayTask(TaskId("p~k"), TaskId("again"))) == Accepted(TaskId("again"))
    assert cluster.task("again").parent_id == "p" and not cluster.state.dead_letters
    assert spawn(cluster, "p", "k", 0) == Accepted(TaskId("p~k"), duplicate=True), "its end is kept"


@pytest.mark.parametrize(
    "node", [echo("a"), {"id": "a", "type": "workflow", "body": {"nodes": [echo("in")]}}], ids=["task", "run"]
)
def test_a_dead_letter_in_the_place_of_a_nodes_task_fails_the_node(node: dict[str, Any]) -> None:
    world: World = forgetful(World())
    bury(world, "r~a~0")
    world.do(ConfigureCluster("c", "c", Policy()))
    world.run(node)
    assert world.table()["a"]["code"] == "TASK_EXISTS"


def test_a_run_of_a_schedule_that_lies_among_the_dead_letters_has_been(cluster: CoreCluster) -> None:
    template = TaskTemplate("echo", NO_DATA, 2, BURIED)
    cluster.do(ApplySchedule("default", "s", SchedulePlan(interval_ms=60_000), template))
    command = RunSchedule("default", "s", "once")
    done = cluster.do(command)
    assert isinstance(done, Accepted)
    cluster.assign(done.task_id)
    cluster.do(FailAttempt(done.task_id, 1, FAILED))
    schedule = cluster.state.schedules["default\0s"]
    cluster.state.schedules["default\0s"] = replace(schedule, runs=())
    assert cluster.do(command) == Accepted(done.task_id, number=1)
    assert cluster.state.schedules["default\0s"].fired == 1 and not cluster.state.tasks


def test_a_letter_takes_the_place_of_an_older_one_of_its_id(cluster: CoreCluster) -> None:
    """Only a state that an earlier version left has both."""
    task = cluster.running("t1", tenant="good", retry=BURIED)
    cluster.state.dead_letters[task.task_id] = DeadLetter(evolve(task, tenant="evil"), ())
    cluster.state.meta = evolve(cluster.state.meta, dead_letter_bytes=1_004)
    cluster.state.rebuild()
    cluster.do(FailAttempt(TaskId("t1"), 1, FAILED))
    assert not cluster.state.indexes.dead_of("evil") and [*cluster.state.indexes.dead_of("good")] == ["t1"]
    cluster.do(PurgeDeadLetters("good", before_ms=cluster.now_ms + 1))
    assert not cluster.state.dead_letters and cluster.state.meta.dead_letter_bytes == 0
