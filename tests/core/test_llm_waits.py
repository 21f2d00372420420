"""Tasks that wait for room in a budget: what wakes them, and that nothing does so too early to be heard."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coterie.core.commands import Accepted, Outcome, PauseTask, Rejected, ResumeTask, SuspendTask
from coterie.core.control_rules import BUDGET_WAIT_MS
from coterie.core.llm.commands import DeleteLlmBudget, SetLlmBudget
from coterie.core.llm.nouns import LlmBudget, OnExhausted
from coterie.core.nouns import TaskId, TaskState, WaitReason
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from coterie.raft.codec import decode_state, encode_state
from tests.core.builders import CoreCluster
from tests.core.llm_calls import begin

T1 = TaskId("t1")


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1", capacity=50)


def code(outcome: Outcome) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def limit(cluster: CoreCluster, **fields: Any) -> None:
    assert isinstance(cluster.do(SetLlmBudget(LlmBudget("b", **fields))), Accepted)


def test_a_task_that_waits_for_a_budget_goes_on_when_there_is_more(cluster: CoreCluster) -> None:
    limit(cluster, requests=1)
    task = cluster.running()
    begin(cluster)
    assert code(begin(cluster, key="b")) == "BUDGET_WAIT"
    assert isinstance(cluster.do(SuspendTask(T1, task.attempt, WaitReason.BUDGET, "b")), Accepted)
    assert cluster.task().state is TaskState.WAITING
    limit(cluster, requests=2)
    assert cluster.task().state is TaskState.PENDING
    assert cluster.task().signals == ()


def test_a_budget_that_was_raised_before_the_wait_began_is_not_waited_for(cluster: CoreCluster) -> None:
    limit(cluster, requests=1)
    task, seen = cluster.running(), cluster.state.llm.mark
    begin(cluster)
    assert code(begin(cluster, key="b")) == "BUDGET_WAIT"
    limit(cluster, requests=2)
    wait = SuspendTask(T1, task.attempt, WaitReason.BUDGET, "b", seen)
    assert code(cluster.do(wait)) == "WAIT_OVER", "nobody would wake it"
    now = replace(wait, seen=cluster.state.llm.mark)
    assert isinstance(cluster.do(now), Accepted) and cluster.task().state is TaskState.WAITING


def test_a_paused_task_hears_of_a_budget_that_was_raised(cluster: CoreCluster) -> None:
    limit(cluster, requests=1)
    task = cluster.running()
    cluster.do(SuspendTask(T1, task.attempt, WaitReason.BUDGET, "b", cluster.state.llm.mark))
    cluster.do(PauseTask(T1))
    cluster.do(ResumeTask(T1))
    assert cluster.task().state is TaskState.WAITING, "nothing has changed"
    cluster.do(PauseTask(T1))
    limit(cluster, requests=2)
    cluster.do(ResumeTask(T1))
    assert cluster.task().state is TaskState.PENDING


def test_nobody_waits_for_a_budget_without_a_clock(cluster: CoreCluster) -> None:
    task = cluster.running()
    cluster.do(SuspendTask(T1, task.attempt, WaitReason.BUDGET, "b"))
    cluster.now_ms += BUDGET_WAIT_MS
    [expire] = plan(cluster.state, View(cluster.now_ms), PlanPolicy())
    assert isinstance(cluster.do(expire), Accepted)
    assert cluster.task().state is TaskState.PENDING


def test_the_mark_of_the_budgets_is_the_same_after_a_restart_and_another_after_a_change(
    cluster: CoreCluster,
) -> None:
    marks = [cluster.state.llm.mark]
    for change in ({"tokens": 5}, {"tokens": 6}, {"tokens": 6, "on_exhausted": OnExhausted.FAIL}):
        limit(cluster, **change)
        marks.append(cluster.state.llm.mark)
    assert len({*marks}) == 4
    assert decode_state(encode_state(cluster.state.copy())).llm.mark == marks[-1]
    cluster.do(DeleteLlmBudget("b"))
    assert cluster.state.llm.mark == marks[0]


def test_a_wait_for_a_budget_ends_with_its_time_and_is_no_signal(cluster: CoreCluster) -> None:
    task = cluster.running()
    cluster.do(SuspendTask(T1, task.attempt, WaitReason.BUDGET, "b", timeout_ms=10))
    cluster.now_ms += 20
    [expire] = plan(cluster.state, View(cluster.now_ms), PlanPolicy())
    assert isinstance(cluster.do(expire), Accepted)
    assert (cluster.task().state, cluster.task().signals) == (TaskState.PENDING, ())
