"""Assignments that travel with the submission, without a plan: they overtake nobody."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.commands import Accepted, AssignTask, FinishTask, Rejected, SetLimit
from coterie.core.indexes import RELEASED_MAX
from coterie.core.nouns import NO_DATA, NodeId, TaskId
from coterie.core.quotas import Limit
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, submit_command


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1", capacity=2)


def test_an_assignment_without_a_plan_overtakes_nobody(cluster: CoreCluster) -> None:
    """Its node saw an empty queue; when it commits, an older task may wait for the same limit's token."""
    cluster.do(SetLimit(Limit("l", rate_count=1, rate_period_ms=1_000, burst=1)))
    assert not hasty(cluster, "first")
    assert hasty(cluster, "second") == "LIMIT_REACHED"
    cluster.now_ms += 1_001
    assert hasty(cluster, "third") == "NOT_FIRST"
    planned = plan(cluster.state, View(cluster.now_ms), PlanPolicy())
    assert [one.task_id for one in planned if isinstance(one, AssignTask)] == ["second"]


def test_nor_one_of_its_key_that_a_limit_held_back(cluster: CoreCluster) -> None:
    cluster.do(SetLimit(Limit("l", key="*", rate_count=1, rate_period_ms=1_000, burst=1)))
    assert not hasty(cluster, "first", key="k")
    assert hasty(cluster, "second", key="k") == "LIMIT_REACHED"
    assert not hasty(cluster, "other", key="j"), "what waits may not start"
    other = cluster.task("other")
    cluster.do(FinishTask(other.task_id, other.attempt, NO_DATA))
    cluster.now_ms += 1_001
    assert hasty(cluster, "third", key="k") == "NOT_FIRST"


def test_but_it_need_not_wait_for_other_kinds_classes_and_tenants(cluster: CoreCluster) -> None:
    cluster.do(submit_command("w1", type="other"))
    cluster.do(submit_command("w2", priority=1))
    cluster.do(submit_command("w3", tenant="other"))
    assert not hasty(cluster, "one")


def test_nor_for_those_that_come_due_with_it_and_are_not_queued_yet(cluster: CoreCluster) -> None:
    """When very many come due at once they are queued in portions: see TaskIndexes.advance."""
    delay_ms, name = 1_000, TaskId(f"t{RELEASED_MAX}")
    for number in range(RELEASED_MAX + 1):
        type_ = "other" if number < RELEASED_MAX else "echo"
        cluster.do(submit_command(f"t{number}", type=type_, start_delay_ms=delay_ms))
    cluster.now_ms += delay_ms
    node, queue = cluster.state.nodes[NodeId("n1")], cluster.state.indexes.queue
    outcome = cluster.do(AssignTask(name, node.node_id, node.incarnation, 1, if_first=True))
    assert outcome == Accepted(name) and len(queue) == RELEASED_MAX


def hasty(cluster: CoreCluster, task_id: str, **fields: Any) -> str:
    """Submit and assign in one go, as the node does that takes the task; the code of a refusal."""
    cluster.do(submit_command(task_id, **fields))
    node = cluster.state.nodes[NodeId("n1")]
    outcome = cluster.do(AssignTask(TaskId(task_id), node.node_id, node.incarnation, 1, if_first=True))
    return outcome.code if isinstance(outcome, Rejected) else ""
