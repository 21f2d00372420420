"""What is remembered of nodes that were removed opens no breaker."""

from __future__ import annotations

from coterie.core.breaker_commands import TripBreaker
from coterie.core.commands import ConfigureCluster, FailAttempt, ForgetNode, MarkNode
from coterie.core.nouns import NodeId, NodeStatus, Policy, RetryPolicy, TaskError, TaskId
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, submit_command

N1 = NodeId("n1")


def made() -> CoreCluster:
    cluster = CoreCluster()
    cluster.do(ConfigureCluster("c1", "test", Policy(breaker_failures=2, breaker_recovery_ms=1_000)))
    return cluster.with_node("n1", capacity=50).with_node("n2", capacity=50)


def begun(cluster: CoreCluster, task_id: str, node_id: str = "n1") -> TaskId:
    cluster.do(submit_command(task_id, retry=RetryPolicy(100, 1, 1)))
    cluster.assign(task_id, node_id)
    return TaskId(task_id)


def tripped(cluster: CoreCluster) -> list[str]:
    found = plan(cluster.state, View(cluster.now_ms), PlanPolicy())
    return [command.key for command in found if isinstance(command, TripBreaker)]


def test_a_node_that_was_lost_twice_and_removed_has_no_breaker() -> None:
    cluster = made()
    begun(cluster, "a")
    cluster.do(MarkNode(N1, 1, NodeStatus.DOWN, "it is silent"))
    cluster.do(MarkNode(N1, 1, NodeStatus.UP, ""))
    cluster.now_ms += 2_000
    begun(cluster, "b")
    cluster.do(ForgetNode(N1, 1))
    assert tripped(cluster) == [] and not cluster.state.outcomes.windows


def test_what_died_on_a_removed_node_still_tells_of_the_skill() -> None:
    cluster = made()
    for task_id, node_id in (("a", "n1"), ("b", "n2")):
        begun(cluster, task_id, node_id)
        cluster.do(FailAttempt(TaskId(task_id), 1, TaskError("SKILL_CRASHED", "its process died")))
    cluster.do(ForgetNode(N1, 1))
    assert tripped(cluster) == ["skill:echo"]
    assert set(cluster.state.outcomes.windows) == {"skill:echo", "skill:echo@n2", "node:n2"}
