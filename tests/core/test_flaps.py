"""Nodes that come and go have to prove themselves longer each time, unless they are needed."""

from __future__ import annotations

import pytest

from coterie.core.commands import BeginLeadership, ConfigureCluster, MarkNode, SetDrain
from coterie.core.flaps import reports_wanted
from coterie.core.nouns import STOPPING, Node, NodeId, NodeStatus, Policy
from coterie.core.routing import NodeLoad
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, register_command

N1 = NodeId("n1")
MEMORY_MS = 10_000


@pytest.fixture
def cluster() -> CoreCluster:
    made = CoreCluster()
    made.do(ConfigureCluster("c1", "test", Policy(flap_memory_ms=MEMORY_MS)))
    return made.with_node("n1").with_node("n2").with_node("n3")


def node(cluster: CoreCluster) -> Node:
    return cluster.state.nodes[N1]


def down(cluster: CoreCluster, reason: str = "no report") -> None:
    cluster.do(MarkNode(N1, node(cluster).incarnation, NodeStatus.DOWN, reason))


def up(cluster: CoreCluster) -> None:
    cluster.do(MarkNode(N1, node(cluster).incarnation, NodeStatus.UP, "reports again"))


def restart(cluster: CoreCluster) -> NodeStatus:
    cluster.do(register_command("n1", node(cluster).incarnation + 1))
    return node(cluster).status


def wanted(cluster: CoreCluster) -> int:
    return reports_wanted(cluster.state, node(cluster), 2)


def brought_back(cluster: CoreCluster, reports: int) -> bool:
    loads = {name: NodeLoad(name, one.incarnation, 0) for name, one in cluster.state.nodes.items()}
    view = View(cluster.now_ms, loads, {N1: reports})
    return any(isinstance(command, MarkNode) for command in plan(cluster.state, view, PlanPolicy()))


def test_each_loss_doubles_the_reports_that_bring_a_node_back(cluster: CoreCluster) -> None:
    found = []
    for _ in range(9):
        down(cluster)
        found.append(wanted(cluster))
        assert not brought_back(cluster, found[-1] - 1) and brought_back(cluster, found[-1])
        up(cluster)
    assert found == [2, 4, 8, 16, 32, 64, 128, 128, 128]


def test_what_is_long_ago_is_forgotten(cluster: CoreCluster) -> None:
    for _ in range(4):
        down(cluster)
        up(cluster)
    cluster.now_ms += MEMORY_MS
    down(cluster)
    assert (node(cluster).flaps, wanted(cluster)) == (1, 2)


def test_a_node_that_restarts_again_and_again_is_on_probation(cluster: CoreCluster) -> None:
    assert [restart(cluster) for _ in range(3)] == [NodeStatus.UP, NodeStatus.UP, NodeStatus.DOWN]
    assert node(cluster).reason == "on probation: lost 3 times lately"
    cluster.do(register_command("n1", node(cluster).incarnation))  # proposed twice
    assert node(cluster).status is NodeStatus.DOWN
    assert not brought_back(cluster, 7) and brought_back(cluster, 8)


def test_a_node_that_says_good_bye_pays_nothing(cluster: CoreCluster) -> None:
    for _ in range(6):
        down(cluster, STOPPING)
        assert restart(cluster) is NodeStatus.UP
    assert node(cluster).flaps == 0


def test_a_loss_that_was_seen_is_not_counted_again_at_the_restart(cluster: CoreCluster) -> None:
    down(cluster)
    restart(cluster)
    assert node(cluster).flaps == 1


def test_nobody_waits_while_too_few_others_work(cluster: CoreCluster) -> None:
    for _ in range(5):
        down(cluster)
        up(cluster)
    down(cluster)
    cluster.do(SetDrain(NodeId("n2"), True, 1_000))
    assert wanted(cluster) == 2
    assert restart(cluster) is NodeStatus.UP


def test_a_policy_without_memory_keeps_no_count(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c1", "test", Policy()))
    cluster.do(BeginLeadership(N1, 1))
    for _ in range(5):
        assert restart(cluster) is NodeStatus.UP
    assert node(cluster).flaps == 0
