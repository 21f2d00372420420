"""Rules of schedules: overlap, pause, runs outside of the times, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.commands import Accepted, CancelTask, ConfigureCluster, FinishTask, Outcome, Rejected
from coterie.core.coordination import schedules
from coterie.core.coordination.bounds import RUNS_MAX
from coterie.core.coordination.commands import (
    ApplySchedule,
    DeleteSchedule,
    FireSchedule,
    PauseSchedule,
    RunSchedule,
)
from coterie.core.coordination.nouns import FireKind, Overlap, Schedule, SchedulePlan, TaskTemplate
from coterie.core.nouns import NO_DATA, Data, Policy, RetryPolicy, TaskId, TaskState
from tests.core.builders import CoreCluster

TEMPLATE = TaskTemplate("echo", Data(b"{}"), 2, RetryPolicy(), key="k")
KEY = "t\0s"


def scheduled(**plan: Any) -> CoreCluster:
    cluster = CoreCluster().with_node()
    values = {"interval_ms": 10, "overlap": Overlap.ALLOW, **plan}
    outcome = cluster.do(ApplySchedule("t", "s", SchedulePlan(**values), TEMPLATE))
    assert isinstance(outcome, Accepted)
    cluster.now_ms += 10_000
    return cluster


def known(cluster: CoreCluster) -> Schedule:
    return cluster.state.schedules[KEY]


def fire(cluster: CoreCluster, nominal_ms: int, kind: FireKind = FireKind.TICK, missed: int = 0) -> Any:
    return cluster.do(FireSchedule("t", "s", known(cluster).number, nominal_ms, kind, missed))


def refused(outcome: Outcome) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def test_a_time_fires_once_and_its_task_is_made_of_the_template() -> None:
    cluster = scheduled()
    first = fire(cluster, 5_000)
    assert isinstance(first, Accepted) and first.task_id == "s.1.5000"
    assert fire(cluster, 5_000) == Accepted(duplicate=True) == fire(cluster, 4_000)
    task = cluster.task(first.task_id)
    assert (task.type, task.key, task.tenant) == ("echo", "k", "t")
    labels = {label.key: label.value for label in task.labels}
    assert labels == {schedules.SCHEDULE_LABEL: "s", schedules.NOMINAL_LABEL: "5000"}
    assert (known(cluster).fired, known(cluster).last_nominal_ms, known(cluster).runs) == (
        1,
        5_000,
        (task.task_id,),
    )
    assert refused(fire(cluster, cluster.now_ms + 50)) == "NOT_DUE", "the cluster's clock has not reached it"
    assert refused(cluster.do(FireSchedule("t", "s", 9, 6_000))) == "SCHEDULE_NOT_FOUND", (
        "an older one of the id"
    )


@pytest.mark.parametrize("overlap", list(Overlap))
def test_what_happens_when_the_earlier_run_is_not_over(overlap: Overlap) -> None:
    cluster = scheduled(overlap=overlap)
    fire(cluster, 5_000)
    cluster.assign("s.1.5000")
    second = fire(cluster, 5_010)
    schedule = known(cluster)
    first = cluster.task("s.1.5000")
    live = [task_id for task_id in cluster.state.tasks if task_id.startswith("s.")]
    if overlap is Overlap.SKIP:
        assert (live, schedule.skipped, schedule.fired) == (["s.1.5000"], 1, 1)
        cluster.do(FinishTask(TaskId("s.1.5000"), 1, NO_DATA))
        assert fire(cluster, 5_020).task_id == "s.1.5020"
    elif overlap is Overlap.QUEUE:
        assert (live, schedule.queued) == (["s.1.5000"], (5_010,))
        assert refused(fire(cluster, 5_010, FireKind.QUEUED)) == "STILL_RUNNING"
        cluster.do(FinishTask(TaskId("s.1.5000"), 1, NO_DATA))
        assert fire(cluster, 5_020) == Accepted() and known(cluster).queued == (5_010, 5_020), (
            "in their order"
        )
        assert fire(cluster, 5_010, FireKind.QUEUED).task_id == "s.1.5010"
        assert fire(cluster, 5_010, FireKind.QUEUED) == Accepted(duplicate=True)
    else:
        assert live == ["s.1.5000", "s.1.5010"] and second.task_id == "s.1.5010"
        assert first.cancel_requested == (overlap is Overlap.CANCEL_PREVIOUS)


def test_the_queue_of_a_schedule_is_bounded_and_says_what_it_dropped() -> None:
    cluster = scheduled(overlap=Overlap.QUEUE)
    for nominal in range(5_000, 5_000 + RUNS_MAX + 4):
        fire(cluster, nominal)
    assert len(known(cluster).queued) == RUNS_MAX and known(cluster).missed == 3
    cluster.do(CancelTask(TaskId("s.1.5000")))
    assert fire(cluster, known(cluster).queued[0], FireKind.QUEUED).task_id


def test_times_that_are_given_up_are_counted() -> None:
    cluster = scheduled()
    fire(cluster, 5_000, FireKind.PASS, 4)
    fire(cluster, 5_010, missed=2)
    assert (known(cluster).missed, known(cluster).fired) == (7, 1)
    assert fire(cluster, 4_999) == Accepted(duplicate=True)


def test_a_full_queue_leaves_the_time_to_be_fired_later() -> None:
    cluster = scheduled(overlap=Overlap.CANCEL_PREVIOUS)
    cluster.do(ConfigureCluster("c", "test", Policy(pending_tasks_max=1)))
    fire(cluster, 5_000)
    assert refused(fire(cluster, 5_010)) == "QUEUE_FULL"
    assert known(cluster).last_nominal_ms == 5_000
    assert cluster.task("s.1.5000").state is TaskState.PENDING, (
        "nothing is cancelled for a run that is not there"
    )
    cluster.assign("s.1.5000")
    assert fire(cluster, 5_010).task_id == "s.1.5010"


def test_a_paused_schedule_fires_nothing_and_makes_up_for_nothing() -> None:
    cluster = scheduled()
    cluster.do(PauseSchedule("t", "s", True, "holidays"))
    assert refused(fire(cluster, 5_000)) == "SCHEDULE_PAUSED"
    cluster.do(PauseSchedule("t", "s", False))
    assert known(cluster).last_nominal_ms == cluster.now_ms and not known(cluster).pause_reason
    assert fire(cluster, 5_000) == Accepted(duplicate=True)
    assert cluster.do(PauseSchedule("t", "s", False)) == Accepted(
        duplicate=True, number=known(cluster).version
    )


def test_a_change_of_the_times_does_not_reach_back_and_one_of_the_task_loses_nothing() -> None:
    cluster = scheduled()
    cluster.do(ApplySchedule("t", "s", known(cluster).plan, TaskTemplate("sleep", NO_DATA, 2, RetryPolicy())))
    assert known(cluster).last_nominal_ms < 2_000, "times that are due still fire"
    cluster.do(ApplySchedule("t", "s", SchedulePlan(interval_ms=7), TEMPLATE))
    assert known(cluster).last_nominal_ms == cluster.now_ms
    version = known(cluster).version
    again = cluster.do(ApplySchedule("t", "s", SchedulePlan(interval_ms=7), TEMPLATE))
    assert again == Accepted(duplicate=True, number=version)
    stale = cluster.do(ApplySchedule("t", "s", SchedulePlan(interval_ms=8), TEMPLATE, version - 1))
    assert refused(stale) == "VERSION_MISMATCH"


def test_a_schedule_made_anew_is_another_one() -> None:
    cluster = scheduled()
    fire(cluster, 5_000)
    cluster.do(DeleteSchedule("t", "s"))
    assert refused(cluster.do(DeleteSchedule("t", "s"))) == "SCHEDULE_NOT_FOUND"
    assert cluster.task("s.1.5000"), "its runs go on"
    cluster.do(ApplySchedule("t", "s", SchedulePlan(interval_ms=10), TEMPLATE))
    assert known(cluster).number > 1 and known(cluster).fired == 0


def test_runs_outside_of_the_times_happen_once_each() -> None:
    cluster = scheduled(overlap=Overlap.SKIP)
    command = RunSchedule("t", "s", "now")
    assert cluster.do(command) == cluster.do(command) == Accepted(TaskId("s.1.now"), number=1)
    cluster.do(ConfigureCluster("c", "test", Policy(pending_tasks_max=3)))
    past = RunSchedule("t", "s", "past", (5_000, 5_010, 5_020))
    assert refused(cluster.do(past)) == "QUEUE_FULL"
    cluster.assign("s.1.now")
    assert isinstance(cluster.do(past), Accepted), "it goes on where it stopped"
    runs = sorted(task_id for task_id in cluster.state.tasks if task_id.endswith(".past"))
    assert runs == ["s.1.5000.past", "s.1.5010.past", "s.1.5020.past"]
    assert known(cluster).fired == 4 and known(cluster).last_nominal_ms < 2_000


def test_what_makes_no_sense_is_refused() -> None:
    cluster = CoreCluster()
    for plan in (SchedulePlan(), SchedulePlan("* * * * *", 5), SchedulePlan("* * * * *", catch_up_ms=-1)):
        assert refused(cluster.do(ApplySchedule("t", "s", plan, TEMPLATE))) == "BAD_SCHEDULE"
    assert refused(cluster.do(ApplySchedule("t", "", SchedulePlan("x"), TEMPLATE))) == "BAD_NAME"
    assert refused(cluster.do(RunSchedule("t", "s", "now"))) == "SCHEDULE_NOT_FOUND"
    assert refused(cluster.do(PauseSchedule("t", "s", True))) == "SCHEDULE_NOT_FOUND"
