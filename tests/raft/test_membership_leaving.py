"""Leaders and voters that leave: who counts until the change is committed, and who leads then."""

from __future__ import annotations

from coterie.core.ports import DemoteMember, PromoteMember, RemoveMember, Role
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
