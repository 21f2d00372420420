"""Who leads, who leaves and who is forgotten: what the log says about it holds against late copies."""

from __future__ import annotations

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import Accepted, BeginLeadership, ForgetNode, MarkNode, SetDrain
from coterie.core.nouns import STOPPING, NodeStatus, TaskState, evolve
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, register_command
from tests.core.test_nodes import N1, N2, code, loads


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1").with_node("n2")


def test_of_two_drains_at_once_one_is_refused(cluster: CoreCluster) -> None:
    """Each was decided when the other node still took work."""
    assert cluster.do(SetDrain(N1, True, 50, number=1)) == Accepted()
    assert code(cluster.do(SetDrain(N2, True, 50, number=1))) == "LAST_NODE"
    cluster.do(SetDrain(N1, False, number=2))
    assert cluster.do(SetDrain(N2, True, 50, number=1)) == Accepted()


def test_a_node_that_is_down_counts_for_nothing_when_another_is_drained(cluster: CoreCluster) -> None:
    cluster.do(MarkNode(N2, 1, NodeStatus.DOWN))
    assert code(cluster.do(SetDrain(N1, True, 50, number=1))) == "LAST_NODE"
    assert cluster.do(SetDrain(N2, True, 50, number=1)) == Accepted()


def test_a_drain_proposed_again_after_an_undrain_is_refused(cluster: CoreCluster) -> None:
    drain = SetDrain(N1, True, 50, number=1)
    assert cluster.do(drain) == Accepted()
    assert cluster.do(drain) == Accepted(duplicate=True)
    undrain = SetDrain(N1, False, number=2)
    assert (cluster.do(undrain), cluster.do(undrain)) == (Accepted(), Accepted(duplicate=True))
    assert code(cluster.do(drain)) == "STALE_DRAIN"
    assert not cluster.state.nodes[N1].draining


def test_a_node_told_to_leave_drains_until_it_is_undrained(cluster: CoreCluster) -> None:
    cluster.do(SetDrain(N1, True, 50, number=1))
    first = cluster.state.nodes[N1].drain_deadline_at_ms
    assert cluster.do(SetDrain(N1, True, 90, number=2, leaving=True)) == Accepted()
    cluster.do(register_command("n1", incarnation=2))
    node = cluster.state.nodes[N1]
    assert (node.leaving, node.drain_deadline_at_ms, node.drain_number) == (True, first, 2)
    assert cluster.do(SetDrain(N1, True, 90, number=3)) == Accepted(duplicate=True), "it still leaves"
    cluster.do(SetDrain(N1, False, number=3))
    assert not cluster.state.nodes[N1].leaving


def test_drains_of_the_first_version_replay_as_they_were(cluster: CoreCluster) -> None:
    assert cluster.do(SetDrain(N1, True, 50)) == cluster.do(SetDrain(N2, True, 50)) == Accepted()


def test_verdicts_of_an_earlier_leadership_are_refused(cluster: CoreCluster) -> None:
    assert cluster.do(BeginLeadership(N1, 5)) == Accepted()
    assert cluster.do(BeginLeadership(N1, 5)) == Accepted(duplicate=True)
    assert code(cluster.do(BeginLeadership(N2, 4))) == "STALE_LEADER"
    assert code(cluster.do(MarkNode(N1, 1, NodeStatus.DOWN, term=4))) == "STALE_LEADER"
    assert cluster.state.nodes[N1].status is NodeStatus.UP
    assert cluster.do(MarkNode(N1, 1, NodeStatus.DOWN, STOPPING)) == Accepted(), "a node speaks for itself"
    assert cluster.do(MarkNode(N2, 1, NodeStatus.DOWN, term=5)) == Accepted()


def test_verdicts_carry_the_term_they_were_made_in(cluster: CoreCluster) -> None:
    view = View(cluster.now_ms, loads(cluster, n1=60_000), term=9)
    [verdict] = plan(cluster.state, view, PlanPolicy())
    assert isinstance(verdict, MarkNode) and verdict.term == 9


def test_a_forgotten_node_gives_its_tasks_back_and_may_register_again(cluster: CoreCluster) -> None:
    cluster.running()
    assert cluster.do(ForgetNode(N1, 1)) == Accepted()
    assert cluster.do(ForgetNode(N1, 1)) == Accepted(duplicate=True)
    assert (cluster.task().state, N1 in cluster.state.nodes) == (TaskState.PENDING, False)
    cluster.do(register_command("n1", incarnation=2))
    assert code(cluster.do(ForgetNode(N1, 1))) == "STALE_NODE"
    assert N1 in cluster.state.nodes


def test_fields_that_are_not_used_do_not_change_the_hash_of_a_state(cluster: CoreCluster) -> None:
    """A node of the version before them computes the same hash."""
    before = state_hash(cluster.state)
    cluster.state.meta = evolve(cluster.state.meta, lead_term=0)
    assert state_hash(cluster.state) == before
    cluster.do(BeginLeadership(N1, 1))
    assert state_hash(cluster.state) != before
