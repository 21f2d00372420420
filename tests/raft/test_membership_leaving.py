"""Leaders and voters that leave: who counts until the change is committed, and who leads then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coterie.core.ports import DemoteMember, MembershipChange, PromoteMember, RemoveMember, Role
from coterie.raft import messages as m
from tests.raft.group import ELECTION_MS, Group
from tests.raft.test_membership import with_learner

VOTER, LEARNER = Role.VOTER, Role.LEARNER


def test_a_leader_that_removes_itself_leads_until_that_is_committed_without_counting_itself() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.isolate("n3")
    answer = group.change("n2", RemoveMember("n1"))
    group.settle()
    assert group.roles("n2") == {"n2": VOTER, "n3": VOTER}
    group.pass_ms(40)
    assert leader.is_leader
    assert leader.commit_index < leader._configuration_index, "n1 and n2 are no majority of n2 and n3"
    assert leader._hand_over is None, "it must see the change through"
    group.heal()
    group.pass_ms(50)
    assert {member.node_id for member in answer.value} == {"n2", "n3"}
    group.pass_ms(ELECTION_MS * 2)
    assert len(group.leaders()) == 1
    assert group.leaders() != ["n1"]
    assert "n1" in group.gone
    assert "was removed" in str(group.gone["n1"])
    assert group.committed(group.leaders()[0], b"after").result == 1


def test_a_leader_that_removes_itself_is_followed_at_once_by_one_that_was_told_to() -> None:
    group = Group(3)
    term = group.elect("n1").term
    group.changed("n1", RemoveMember("n1"))
    group.pass_ms(20)
    assert len([node for node in group.leaders() if node != "n1"]) == 1, "no election timeout went by"
    assert group.members["n2"].term == term + 1


def test_a_demoted_leader_goes_on_as_a_learner() -> None:
    group = Group(3)
    group.elect("n1")
    assert group.changed("n1", DemoteMember("n1")) == {"n1": LEARNER, "n2": VOTER, "n3": VOTER}
    group.pass_ms(3 * ELECTION_MS)
    assert group.leaders() in (["n2"], ["n3"])
    assert group.gone == {}
    assert group.committed("n1", b"x").result == 1
    group.changed("n1", PromoteMember("n1"))
    assert set(group.roles("n1").values()) == {VOTER}


def test_two_voters_become_one_and_two_again() -> None:
    group = Group(2)
    group.elect("n1")
    group.changed("n1", DemoteMember("n2"))
    group.isolate("n2")
    assert group.committed("n1", b"alone").result == 1
    group.heal()
    group.connect_all()
    group.pass_ms(100)
    group.changed("n2", PromoteMember("n2"))
    group.isolate("n2")
    answer = group.propose("n1", b"not alone")
    group.pass_ms(40)
    assert answer.value is None


def test_a_single_voters_entries_reach_its_learner_only_when_they_are_durable() -> None:
    group, leader = with_learner(1)
    group.hold_disk.add("n1")
    group.propose("n2", b"x")  # it is appended while a step is under way, not after it
    group.settle()
    assert leader._log.last_index > leader.commit_index
    assert group.machines["n1"].entries == group.machines["n2"].entries == []
    group.pass_ms(20)
    assert leader.commit_index < leader._log.last_index
    group.crash("n1", power=True)
    group.hold_disk.clear()
    group.start("n1")
    group.pass_ms(5 * ELECTION_MS)
    assert group.committed("n2", b"y").result == 2, "n2 has asked for the other one again"
    assert group.machines["n2"].entries == group.machines["n1"].entries == [b"x", b"y"]


@pytest.mark.parametrize("change", [RemoveMember("n1"), DemoteMember("n1")])
def test_a_leader_that_left_by_an_entry_nobody_else_has_can_still_be_elected(
    change: MembershipChange,
) -> None:
    """The log of n2 is too short to win: n1 has to, or nobody ever does (thesis, 4.2.2, figure 4.6)."""
    group = Group(2)
    group.elect("n1")
    group.committed("n1", b"x")
    group.isolate("n1")
    group.change("n1", change)
    group.pass_ms(5 * ELECTION_MS)
    assert group.leaders() == []
    group.drop_all()
    group.heal()
    group.connect_all()
    group.pass_ms(20 * ELECTION_MS)
    assert group.leaders() == ["n2"]
    assert group.roles("n2")["n2"] is VOTER
    assert group.roles("n2").get("n1", LEARNER) is LEARNER
    assert group.committed("n2", b"y").result == 2


def test_the_vote_of_a_candidate_that_is_no_voter_does_not_count() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.isolate("n1")
    group.change("n1", RemoveMember("n1"))
    group.pass_ms(5 * ELECTION_MS)
    assert not leader.is_leader
    group.crash("n3")  # n2 and n3 are to be its voters
    group.drop_all()
    group.heal()
    group.stop_between(("n2", "n1"))
    for _ in range(3):
        term = leader.term + 1
        leader._SyncObj__raftElectionDeadline = 0.0
        group.run("n1")
        if group.waiting("n1", "n2", m.PreVote):
            group.deliver("n2", "n1", m.PreVoteReply(term, True, term - 1))
            assert leader.term == term - 1, "one pre-vote of two voters is no majority"
        leader._elect_now = True
        leader._SyncObj__raftElectionDeadline = 0.0
        group.run("n1")
        group.deliver("n2", "n1", m.VoteReply(leader.term))
        assert not leader.is_leader, "one vote of two voters is no majority"


def test_a_promotion_that_would_leave_no_live_quorum_waits_and_stops_nobody() -> None:
    """The voters fell silent between the look at the quorum and the promotion, in one step."""
    group, leader = with_learner(3)
    now = leader._configuration
    wanted = replace(now, promote=frozenset({"n4"}))
    for node, progress in leader._progress.items():
        is_learner = node.id == "n4"
        progress.contact_at = group.clock.monotonic() if is_learner else -1.0
        progress.catching_up.done, progress.probing = is_learner, False
    assert leader._facts().caught_up == {"n4"}
    assert leader._promoted(wanted) == wanted


@pytest.mark.parametrize("change", [RemoveMember("n1"), DemoteMember("n1")])
def test_a_leader_that_is_no_voter_steps_down_also_when_its_target_cannot_lead(
    change: MembershipChange,
) -> None:
    """n4 has most of the log, and a link to n1 only: asked to lead, it finds nobody to ask for votes. While
    n1 asked it again and again nothing was appended, though n2 and n3 could lead."""
    group = Group(4)
    group.elect("n1")
    group.committed("n1", b"x")
    group.pass_ms(ELECTION_MS)
    group.disconnect("n4", "n2")
    group.disconnect("n4", "n3")
    group.change("n1", change)
    for _ in range(5):
        for way in (("n1", "n4"), ("n4", "n1")):
            while group.on_way[way]:
                group.deliver(*way)
    group.settle()
    answer = group.propose("n2", b"y")
    group.pass_ms(10 * ELECTION_MS)
    assert answer.committed.result == 2
    assert group.leaders() != ["n1"]
