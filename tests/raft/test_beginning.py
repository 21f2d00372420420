"""A group begins once: blank nodes begin nothing beside others that hold data."""

from __future__ import annotations

from itertools import combinations

import pytest

from coterie.raft import messages as m
from coterie.raft.beginning import WAIT_TIMEOUTS
from coterie.raft.errors import Why
from tests.raft.group import ELECTION_MS, Group

WAIT_MS = WAIT_TIMEOUTS * ELECTION_MS


def lost(group: Group, *nodes: str) -> None:
    """The disks of these nodes are gone; they are started again as the founders they once were."""
    for node in nodes:
        group.crash(node)
        group.wipe(node)
    group.pass_ms(2 * ELECTION_MS)  # as long as there is a leader, their links are refused
    for node in nodes:
        group.start(node)
    group.connect_all()


@pytest.mark.parametrize("nodes", list(combinations(["n1", "n2", "n3", "n4", "n5"], 3)))
def test_a_majority_of_blank_nodes_begins_nothing_beside_others_that_hold_data(
    nodes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(5)
    group.elect("n1")
    group.committed("n1", b"acked")
    group.pass_ms(50)
    lost(group, *nodes)
    for _ in range(40):
        group.pass_ms(100)
        assert group.leaders() == []
    assert {group.members[node]._log.last_index for node in nodes} == {1}
    kept = set(group.ids) - set(nodes)
    assert all(group.machines[node].entries == [b"acked"] for node in kept)
    said = [record for record in caplog.records if "nothing is begun anew" in record.message]
    assert 1 <= len(said) <= 2 * len(nodes), "each says it once for those it has heard of"
    assert "Remedy" in said[0].message
    assert set(said[-1].__dict__["peers"]) == kept


def test_one_blank_node_that_knows_better_is_enough() -> None:
    """Two of the three cannot reach those who hold something, the third one can."""
    group = Group(5)
    group.elect("n1")
    group.committed("n1", b"acked")
    group.stop_between(*((a, b) for a in ("n1", "n2") for b in ("n4", "n5")))
    lost(group, "n3", "n4", "n5")
    for a in ("n1", "n2"):
        for b in ("n4", "n5"):
            group.disconnect(a, b)
    group.members["n4"]._holds.clear()
    group.members["n5"]._holds.clear()
    for _ in range(30):
        group.pass_ms(100)
        assert group.leaders() == []


@pytest.mark.parametrize("why", [Why.WRONG_DISK, Why.STRANGER])
def test_whoever_refuses_this_node_holds_something(why: Why) -> None:
    """A stranger is one to a group that has a leader: the founders may all have been replaced."""
    group = Group(3)
    group.members["n2"].link_refused("n1", why)
    assert group.members["n2"]._holders == ["n1"]


def test_but_not_one_that_was_given_the_same_id() -> None:
    group = Group(3)
    group.members["n2"].link_refused("n2", Why.STRANGER)
    assert group.members["n2"]._holders == []


def test_whoever_asks_with_a_log_holds_something() -> None:
    group = Group(3)
    for message in (m.PreVote(1, 2, 1), m.VoteRequest(1, 2, 1)):
        group.members["n2"]._holds.clear()
        group.deliver("n1", "n2", message)
        assert group.members["n2"]._holders == ["n1"]


def test_all_that_are_blank_begin_as_soon_as_they_have_heard_of_each_other() -> None:
    group = Group(5)
    group.pass_ms(3 * ELECTION_MS)
    assert len(group.leaders()) == 1
    assert WAIT_MS > 3 * ELECTION_MS


def test_a_majority_that_is_blank_begins_without_the_others_after_a_while() -> None:
    group = Group(5)
    for node in ("n4", "n5"):
        group.crash(node)
    for node in ("n1", "n2", "n3"):
        group.crash(node)
    for node in ("n1", "n2", "n3"):
        group.start(node)
    group.pass_ms(WAIT_MS - ELECTION_MS)
    assert group.leaders() == []
    group.pass_ms(6 * ELECTION_MS)
    assert len(group.leaders()) == 1


def test_a_blank_node_may_begin_when_those_who_held_something_come_back_empty() -> None:
    """To begin anew is the operator's decision."""
    group = Group(3)
    group.elect("n1")
    group.committed("n1", b"acked")
    lost(group, "n2", "n3")
    group.pass_ms(WAIT_MS)
    assert group.leaders() == []
    assert group.members["n2"]._holders == ["n1"]
    lost(group, "n1")
    group.pass_ms(WAIT_MS)
    assert len(group.leaders()) == 1
    assert group.committed(group.leaders()[0], b"anew").result == 1


def test_the_first_leader_that_died_before_anybody_had_its_entry_is_elected_when_it_is_back() -> None:
    """It holds something that nobody else has, and the blank ones wait for it."""
    group = Group(3)
    group.isolate("n1")
    group.heal()
    group.pass_silently(500)
    leader = group.members["n1"]
    leader._SyncObj__raftElectionDeadline = 0.0
    group.run("n1")
    while not leader.is_leader:
        way = next(way for way, queue in group.on_way.items() if queue)
        group.deliver(*way)
    group.crash("n1")
    group.drop_all()
    assert all(member._is_blank() for member in group.members.values())
    group.start("n1")
    assert not group.members["n1"]._is_blank()
    group.pass_silently(1)
    for member in group.members.values():
        member._restart_election_timer()
    for _ in range(20):
        group.pass_ms(50)
    assert len(group.leaders()) == 1
    assert {group.members[node]._log.last_index > 1 for node in group.ids} == {True}
