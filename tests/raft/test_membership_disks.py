"""Disks that were wiped, replaced or removed: told apart, refused, and no help in losing an entry."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coterie.core.ports import AddMember, DemoteMember, RemoveMember, Role
from coterie.raft import messages as m
from coterie.raft.beginning import WAIT_TIMEOUTS
from coterie.raft.errors import LinkRefused, RemovedFromCluster, Why
from coterie.raft.member import Member
from coterie.raft.options import RaftOptions
from tests.raft.group import ELECTION_MS, Group, until

VOTER, LEARNER = Role.VOTER, Role.LEARNER


def fresh(group: Group, node: str) -> None:
    """The node comes back under its old id with an empty disk."""
    group.crash(node)
    group.wipe(node)
    group.start(node)


def run_for(group: Group, rounds: int) -> None:
    for _ in range(rounds):
        group.pass_ms(20)


class Late(Group):
    """Five voters, of which n4 and n5 have not been started yet. Who was wiped comes back by joining."""

    late: tuple[str, ...] = ("n4", "n5")

    def start(self, node: str) -> Member | None:  # type: ignore[override]
        return None if node in self.late else super().start(node)

    def options(self, node: str) -> RaftOptions:
        options = super().options(node)
        return replace(options, peers=(), join=True) if node in self.wipes else options


# --- the first moments of a group ---


def test_without_a_majority_of_bound_disks_nobody_leads_and_the_lost_disk_heals_it() -> None:
    """Three of five are bound, and the disk of one of them is lost. For all that the others know, the two
    that were never bound have been bound since, have acknowledged more, and were wiped: their votes could
    elect a leader that lacks it (seed 1600787 of the simulator)."""
    group = Late(5)
    group.pass_silently(WAIT_TIMEOUTS * ELECTION_MS)
    group.elect("n1")
    group.committed("n1", b"acked")
    assert group.members["n1"]._configuration.disk_of("n4") == ""
    lost = group.disks["n3"]
    group.crash("n3")
    run_for(group, 30)
    group.late = ()
    group.wipe("n3")
    for node in ("n3", "n4", "n5"):
        group.start(node)
    group.connect_all()
    for _ in range(60):
        run_for(group, 1)
        assert group.leaders() == []
    assert group.machines["n1"].entries == group.machines["n2"].entries == [b"acked"]
    group.crash("n3")
    group.disks["n3"] = lost
    group.wipes.clear()
    group.start("n3")
    group.connect_all()
    run_for(group, 30)
    assert len(group.leaders()) == 1
    assert {tuple(machine.entries) for machine in group.machines.values()} == {(b"acked",)}
    assert group.members["n5"]._configuration.is_complete, "now the loss of one disk is nothing"


# --- a wiped voter ---


def test_a_wiped_voter_cannot_vote_away_what_it_had_acknowledged() -> None:
    """Committed by n1 and n3; then n3's disk is wiped, n1 is down, and n2 never had the entry."""
    group = Group(3)
    group.elect("n1")
    group.isolate("n2")
    acked = group.committed("n1", b"acked")
    group.heal()
    group.crash("n1")
    fresh(group, "n3")
    group.connect_all()
    run_for(group, 100)
    assert group.members["n2"]._log.last_index < acked.index
    assert group.leaders() == [], (
        "a majority of disks that know the entry is gone: waiting is all that is left"
    )
    group.start("n1")
    group.connect_all()
    run_for(group, 20)
    assert group.leaders() == ["n1"]
    assert group.machines["n2"].entries == [b"acked"]


def test_a_wiped_voter_does_not_vote_even_when_it_is_asked_straight_away() -> None:
    group = Group(3)
    group.elect("n1")
    group.committed("n1", b"acked")
    old_disk, term = group.members["n3"].disk_id, group.members["n1"].term + 5
    group.crash("n1")
    group.pass_silently(5 * ELECTION_MS)
    fresh(group, "n3")
    group.deliver("n2", "n3", m.PreVote(term, 100, term - 1, old_disk))
    group.deliver("n2", "n3", m.VoteRequest(term, 100, term - 1, True, old_disk))
    assert [reply.granted for reply in group.waiting("n3", "n2", m.PreVoteReply)] == [False]
    assert group.waiting("n3", "n2", m.VoteReply) == []
    assert group.members["n3"].term == 0, "nor does it keep the term: it has no say in it"


def test_a_wiped_voter_is_refused_by_all_that_have_a_leader() -> None:
    group = Group(3)
    group.elect("n1")
    group.committed("n1", b"acked")
    group.pass_ms(30)
    fresh(group, "n3")
    assert group.refusals == {("n1", "n3"): Why.WRONG_DISK, ("n2", "n3"): Why.WRONG_DISK}
    with pytest.raises(LinkRefused, match=r"wiped or replaced.*Remedy: remove the node") as caught:
        group.members["n1"].link_up("n3", group.members["n3"].disk_id)
    assert group.members["n3"].disk_id in str(caught.value)
    run_for(group, 50)
    assert group.machines["n3"].entries == []
    assert group.committed("n2", b"goes on").result == 2


def test_the_answers_of_a_wrong_disk_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """n3 comes back empty to a leader whose term it has forgotten: two leaders could commit with one id."""
    group = Group(3)
    leader = group.elect("n1")
    group.isolate("n2")
    group.crash("n3")
    group.wipe("n3")
    monkeypatch.setattr(leader, "check_link", lambda peer, disk_id: None)  # as if it had been let in
    group.start("n3")
    answer, read = group.propose("n1", b"x"), group.read("n1")
    group.settle()
    assert group.members["n3"]._log.last_index == leader._log.last_index
    group.pass_ms(50)
    assert (answer.value, read.value) == (None, None)
    group.pass_ms(3 * ELECTION_MS)
    assert not leader.is_leader


def test_the_votes_of_a_wrong_disk_do_not_count() -> None:
    """Also when a broken or older program gives them."""
    group = Group(3)
    group.elect("n1")
    group.committed("n1", b"acked")
    group.crash("n1")
    group.pass_silently(5 * ELECTION_MS)
    fresh(group, "n3")
    member = group.members["n2"]
    assert "n3" in member._up, "without a leader it is let in"
    term = member.term
    member._SyncObj__raftElectionDeadline = 0.0
    group.run("n2")
    group.deliver("n3", "n2", m.PreVoteReply(term + 1, True, 0))
    assert member.term == term
    member._elect_now, member._SyncObj__raftElectionDeadline = True, 0.0
    group.run("n2")
    assert member.term == term + 1
    group.deliver("n3", "n2", m.VoteReply(term + 1))
    assert group.leaders() == []


def test_a_wiped_voter_neither_campaigns_nor_helps_an_empty_candidate_against_a_log() -> None:
    group = Group(3)
    group.elect("n1")
    group.committed("n1", b"acked")
    group.crash("n2")
    fresh(group, "n3")
    group.connect_all()
    group.crash("n1")
    group.wipe("n2")
    group.wipe("n1")
    group.start("n1")
    run_for(group, 80)
    assert group.leaders() == ["n1"] or group.leaders() == ["n3"], "two empty disks begin a new group"


def test_the_same_id_comes_back_with_a_new_disk_and_its_vote() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.committed("n1", b"acked")
    old_disk = group.members["n3"].disk_id
    group.crash("n3")
    group.wipe("n3")
    group.voters = ("n1", "n2")  # n3 joins from now on
    assert group.changed("n1", RemoveMember("n3")) == {"n1": VOTER, "n2": VOTER}
    assert group.changed("n1", AddMember("n3", "h:3")) == {"n1": VOTER, "n2": VOTER, "n3": LEARNER}
    group.start("n3")
    run_for(group, 10)
    assert group.roles("n3") == dict.fromkeys(group.ids, VOTER)
    assert leader._configuration.disk_of("n3") == group.members["n3"].disk_id != old_disk
    group.isolate("n2")
    assert group.committed("n1", b"with n3").result == 2
    with pytest.raises(LinkRefused, match="was removed") as caught:
        leader.link_up("n3", old_disk)
    assert caught.value.why is Why.REMOVED
    group.heal()
    group.crash("n1")
    group.pass_ms(5 * ELECTION_MS)
    assert len(group.leaders()) == 1, "n3 votes again"


def test_an_empty_voter_grants_to_the_leader_that_has_bound_its_disk() -> None:
    """Else a first leader that died before its first entry arrived could never be elected again."""
    group = Group(3)
    group.crash("n2")
    group.pass_silently(2 * ELECTION_MS)
    group.members["n1"]._SyncObj__raftElectionDeadline = 0.0
    group.run("n1")
    until(
        lambda: group.members["n1"].is_leader,
        lambda: group.deliver(*next(way for way, queue in group.on_way.items() if queue)),
    )
    group.crash("n1")
    group.start("n1")
    assert (group.members["n1"]._is_blank(), group.members["n3"]._is_blank()) == (False, True)
    run_for(group, 50)
    assert group.leaders() == ["n1"]


# --- a removed node ---


def test_a_removed_node_learns_it_from_the_log_and_stops() -> None:
    group = Group(3)
    group.elect("n1")
    group.changed("n1", RemoveMember("n3"))
    group.pass_ms(3 * ELECTION_MS)
    assert list(group.gone) == ["n3"]
    assert isinstance(group.gone["n3"], RemovedFromCluster)
    assert group.leaders() == ["n1"]


def test_a_removed_node_that_was_away_is_told_by_refusals_and_disturbs_nobody() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.isolate("n3")
    group.changed("n1", RemoveMember("n3"))
    group.pass_ms(5 * ELECTION_MS)
    group.drop_all()
    group.heal()
    term = leader.term
    run_for(group, 30)
    assert (leader.is_leader, leader.term) == (True, term), "its old links are of no use to it"
    group.connect_all()
    assert group.refusals["n1", "n3"] is Why.REMOVED
    run_for(group, 30)
    assert (leader.is_leader, leader.term) == (True, term)
    with pytest.raises(RemovedFromCluster, match=r"n1 says.*Remedy"):
        group.members["n3"].link_refused("n1", Why.REMOVED)


def test_only_members_and_only_the_word_removed_stop_a_node() -> None:
    group = Group(3)
    member = group.members["n1"]
    group.elect("n1")
    member.link_refused("n9", Why.REMOVED)
    member.link_refused("n2", Why.WRONG_DISK)
    member.link_refused("n2", Why.STRANGER)
    with pytest.raises(RemovedFromCluster):
        member.link_refused("n2", Why.REMOVED)


def test_a_node_whose_disk_was_removed_before_it_joined_says_so_and_stops() -> None:
    """It has no members that it could believe. Else it knocks for ever, while its id is a member again."""
    group = Group(3)
    leader = group.elect("n1")
    group.join("n4")
    assert group.refusals["n1", "n4"] is Why.STRANGER
    group.changed("n1", AddMember("n4", "h:4"))
    group.stop_between(("n1", "n4"))  # it hears nothing of its membership
    group.connect("n1", "n4")
    group.pass_ms(20)
    group.changed("n1", RemoveMember("n4"))
    group.changed("n1", AddMember("n4", "h:4"))
    group.heal()
    group.connect("n1", "n4")
    assert group.members["n4"].members == ()
    assert (group.refusals["n1", "n4"], leader.is_leader) == (Why.REMOVED, True)
    with pytest.raises(RemovedFromCluster, match="add it again with an empty data directory"):
        group.members["n4"].link_refused("n1", Why.REMOVED)


def test_a_removed_node_is_refused_also_without_a_leader_and_after_a_restart() -> None:
    group = Group(3)
    group.elect("n1")
    group.crash("n3")
    group.changed("n1", RemoveMember("n3"))
    group.pass_ms(50)
    group.crash("n1")
    group.pass_ms(3 * ELECTION_MS)
    group.start("n3")
    assert group.refusals == {("n2", "n3"): Why.REMOVED}
    group.crash("n2")
    group.start("n2")
    group.start("n1")
    group.pass_ms(3 * ELECTION_MS)
    group.connect_all()
    assert Why.REMOVED in group.refusals.values()
    assert len(group.leaders()) == 1


def test_a_removal_that_is_not_committed_removes_nobody() -> None:
    """It may be rolled back: the node must not be told that it is gone."""
    group = Group(3)
    leader = group.elect("n1")
    group.isolate("n1")
    group.change("n1", RemoveMember("n3"), timeout_s=0.05)
    leader.check_link("n2", group.members["n2"].disk_id)
    with pytest.raises(LinkRefused) as caught:
        leader.link_up("n3", group.members["n3"].disk_id)
    assert caught.value.why is Why.STRANGER
    assert group.gone == {}


def test_a_node_whose_removal_is_not_committed_goes_on() -> None:
    group = Group(3)
    group.elect("n1")
    group.stop_between(("n1", "n2"), ("n2", "n1"), ("n3", "n1"))
    group.change("n1", RemoveMember("n3"), timeout_s=0.05)
    group.settle()
    assert group.roles("n3") == {"n1": VOTER, "n2": VOTER}, "it has the entry"
    group.isolate("n1")
    group.pass_ms(5 * ELECTION_MS)
    assert group.gone == {}


def test_removing_takes_effect_while_a_disk_returns_as_a_learner() -> None:
    group = Group(3)
    group.elect("n1")
    group.changed("n1", DemoteMember("n3"))
    group.changed("n1", RemoveMember("n3"))
    group.pass_ms(3 * ELECTION_MS)
    assert "n3" in group.gone


# --- strangers ---


def test_a_stranger_is_refused_by_a_group_that_has_a_leader_until_it_is_added() -> None:
    group = Group(3)
    group.elect("n1")
    group.pass_ms(30)
    group.join("n4")
    assert set(group.refusals.values()) == {Why.STRANGER}
    assert group.members["n4"].members == ()
    group.changed("n2", AddMember("n4", "h:4"))
    group.connect_all()
    group.pass_ms(200)
    assert group.roles("n4") == dict.fromkeys(group.ids, VOTER)


def test_a_node_that_is_behind_lets_a_leader_in_that_it_does_not_know() -> None:
    """n3 slept while the others were replaced, one by one; only strangers lead now."""
    group = Group(3)
    group.elect("n1")
    group.crash("n3")
    for old, new in (("n1", "n4"), ("n2", "n5")):
        leader = group.leaders()[0]
        group.changed(leader, AddMember(new, ""))
        group.join(new)
        until(lambda new=new: group.roles(group.leaders()[0])[new] is VOTER, lambda: group.pass_ms(20), 200)  # type: ignore[misc]
        group.changed(group.leaders()[0], RemoveMember(old))
        until(lambda old=old: old in group.gone and bool(group.leaders()), lambda: group.pass_ms(20), 200)  # type: ignore[misc]
        group.connect_all()
    group.committed(group.leaders()[0], b"new times")
    assert group.leaders()[0] in ("n4", "n5")
    group.start("n3")
    run_for(group, 30)
    assert group.machines["n3"].entries == [b"new times"]
    assert group.roles("n3") == {"n3": VOTER, "n4": VOTER, "n5": VOTER}


def test_a_node_does_not_talk_to_itself() -> None:
    group = Group(3)
    with pytest.raises(LinkRefused, match="itself"):
        group.members["n1"].link_up("n1", "other")
