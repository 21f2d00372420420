"""Elections: durable votes, one leader per term, and no needless ones."""

from __future__ import annotations

import pytest

from coterie.raft import messages as m
from coterie.raft.seam import CANDIDATE, FOLLOWER
from tests.raft.group import ELECTION_MS, Group, until


def vote_request(
    term: int, *, transfer: bool = False, last: tuple[int, int] = (100, 100), disk_id: str = ""
) -> m.VoteRequest:
    return m.VoteRequest(term, last[0], last[1], transfer, disk_id)


def test_a_single_node_leads_at_once_and_commits() -> None:
    group = Group(1)
    group.pass_ms(2 * ELECTION_MS)
    assert group.members["n1"].is_leader
    assert group.committed("n1", b"x").result == 1


def test_a_single_node_commits_only_what_is_durable() -> None:
    group = Group(1)
    group.pass_ms(2 * ELECTION_MS)
    group.hold_disk.add("n1")
    answer = group.propose("n1", b"x")
    assert answer.value is None
    group.hold_disk.clear()
    group.run_jobs("n1")
    group.run("n1")
    assert answer.committed.result == 1


def test_three_nodes_elect_one_leader_by_themselves() -> None:
    group = Group(3)
    until(lambda: len(group.leaders()) == 1, lambda: group.pass_ms(10))
    leader = group.leaders()[0]
    group.pass_ms(50)
    assert {member.leader for member in group.members.values()} == {leader}
    assert all(member.has_quorum for member in group.members.values())


def test_a_vote_leaves_the_node_only_when_it_is_durable() -> None:
    group = Group(3)
    group.hold_disk.add("n2")
    group.deliver("n1", "n2", vote_request(5, disk_id=group.members["n2"].disk_id))
    assert group.waiting("n2", "n1", m.VoteReply) == []
    group.run_jobs("n2")
    assert group.waiting("n2", "n1", m.VoteReply) == [m.VoteReply(5)]


@pytest.mark.parametrize("power", [False, True])
def test_a_vote_is_remembered_over_a_crash(power: bool) -> None:
    group = Group(3)
    group.deliver("n1", "n2", vote_request(5, disk_id=group.members["n2"].disk_id))
    assert group.waiting("n2", "n1", m.VoteReply) == [m.VoteReply(5)]
    group.crash("n2", power=power)
    group.start("n2")
    group.pass_silently(2 * ELECTION_MS)
    group.deliver("n3", "n2", vote_request(5, disk_id=group.members["n2"].disk_id))
    assert group.waiting("n2", "n3", m.VoteReply) == []
    group.deliver("n3", "n2", vote_request(6, disk_id=group.members["n2"].disk_id))
    assert group.waiting("n2", "n3", m.VoteReply) == [m.VoteReply(6)]


def test_a_vote_that_was_never_synced_was_never_given() -> None:
    group = Group(3)
    group.hold_disk.add("n2")
    group.deliver("n1", "n2", vote_request(5, disk_id=group.members["n2"].disk_id))
    group.crash("n2", power=True)
    group.hold_disk.clear()
    group.start("n2")
    assert group.waiting("n2", "n1", m.VoteReply) == []


def test_a_voter_counts_once() -> None:
    group = Group(5)
    group.pass_silently(500)
    candidate = group.members["n1"]
    candidate._elect_now, candidate._SyncObj__raftElectionDeadline = True, 0.0
    group.run("n1")
    assert candidate._SyncObj__raftState == CANDIDATE
    for _ in range(4):
        group.deliver("n2", "n1", m.VoteReply(candidate.term))
    assert not candidate.is_leader
    group.deliver("n3", "n1", m.VoteReply(candidate.term))
    assert candidate.is_leader


def test_a_vote_of_another_term_does_not_count() -> None:
    group = Group(3)
    group.pass_silently(500)
    candidate = group.members["n1"]
    for _ in range(2):
        candidate._elect_now, candidate._SyncObj__raftElectionDeadline = True, 0.0
        group.run("n1")
    assert candidate.term == 2
    group.deliver("n2", "n1", m.VoteReply(1))
    group.deliver("n3", "n1", m.VoteReply(3))
    assert not candidate.is_leader


def test_no_vote_for_a_shorter_log() -> None:
    group = Group(3)
    group.elect("n1")
    group.committed("n1", b"x")
    group.pass_silently(2 * ELECTION_MS)
    term = group.members["n2"].term
    group.deliver("n3", "n2", vote_request(term + 1, last=(2, term)))
    assert group.waiting("n2", "n3", m.VoteReply) == []
    group.deliver("n3", "n2", m.PreVote(term + 2, 2, term))
    assert group.waiting("n2", "n3", m.PreVoteReply)[-1].granted is False


@pytest.mark.parametrize("seconds", [30])
def test_a_node_that_is_not_heard_or_cannot_hear_raises_no_terms(seconds: int) -> None:
    group = Group(3)
    group.elect("n1")
    term = group.members["n1"].term
    group.stop_between(("n1", "n3"), ("n2", "n3"))  # n3 hears nothing, and is heard
    for _ in range(seconds * 10):
        group.pass_ms(100, step_ms=10)
        group.on_way["n1", "n3"].clear()
        group.on_way["n2", "n3"].clear()
    assert group.leaders() == ["n1"]
    assert group.members["n1"].term == term
    group.heal()
    group.connect("n1", "n3")
    group.connect("n2", "n3")
    group.pass_ms(3 * ELECTION_MS)
    assert [member.term for member in group.members.values()] == [term] * 3


def test_two_nodes_that_lose_each_other_do_not_fight_over_the_third() -> None:
    group = Group(3)
    group.elect("n1")
    term = group.members["n1"].term
    group.stop_between(("n1", "n3"), ("n3", "n1"))
    for _ in range(50):
        group.pass_ms(100, step_ms=10)
        group.on_way["n1", "n3"].clear()
        group.on_way["n3", "n1"].clear()
    assert (group.leaders(), group.members["n1"].term) == (["n1"], term)


def test_a_follower_of_a_live_leader_ignores_candidates() -> None:
    group = Group(3)
    group.elect("n1")
    term = group.members["n2"].term
    group.deliver("n3", "n2", vote_request(term + 5))
    assert group.members["n2"].term == term
    group.deliver("n3", "n1", vote_request(term + 5))
    assert group.leaders() == ["n1"]
    group.deliver("n3", "n2", vote_request(term + 5, transfer=True))
    assert group.members["n2"].term == term + 5


def test_a_hand_over_that_comes_to_nothing_leaves_voters_loyal_to_the_old_leader() -> None:
    """Who was told to take over may not stand again, unasked, while that leader still counts on answers."""
    group = Group(3)
    group.elect("n1")
    group.pass_ms(20)
    term = group.members["n3"].term
    group.isolate("n3")
    group.drop_all()
    disk_id = group.members["n3"].disk_id
    group.deliver("n2", "n3", vote_request(term + 1, transfer=True, disk_id=disk_id))
    assert group.waiting("n3", "n2", m.VoteReply) == [m.VoteReply(term + 1)]
    group.deliver("n2", "n3", m.PreVote(term + 2, 100, 100, disk_id))
    group.deliver("n2", "n3", vote_request(term + 2, disk_id=disk_id))
    assert group.waiting("n3", "n2", m.PreVoteReply)[-1].granted is False
    assert group.members["n3"].term == term + 1
    group.pass_silently(ELECTION_MS + 1)
    group.deliver("n2", "n3", m.PreVote(term + 2, 100, 100, disk_id))
    assert group.waiting("n3", "n2", m.PreVoteReply)[-1].granted is True


def test_a_restarted_follower_stays_loyal_for_an_election_timeout() -> None:
    """A leader counts on the answers of the node's former life."""
    group = Group(3)
    group.elect("n1")
    group.crash("n2")
    group.start("n2")
    group.drop_all()
    term = group.members["n2"].term
    group.deliver("n3", "n2", m.PreVote(term + 1, 100, 100))
    group.deliver("n3", "n2", vote_request(term + 1))
    assert group.waiting("n2", "n3", m.PreVoteReply)[-1].granted is False
    assert group.waiting("n2", "n3", m.VoteReply) == []
    group.pass_silently(ELECTION_MS + 1)
    group.deliver("n3", "n2", m.PreVote(term + 1, 100, 100))
    assert group.waiting("n2", "n3", m.PreVoteReply)[-1].granted is True


def test_a_leader_without_answers_steps_down_within_an_election_timeout() -> None:
    group = Group(3)
    group.elect("n1")
    group.pass_ms(50)
    group.isolate("n1")
    group.pass_ms(ELECTION_MS + 10)
    assert group.leaders() == []
    assert group.members["n1"]._SyncObj__raftState == FOLLOWER
    assert not group.members["n1"].has_quorum
    until(lambda: bool(group.leaders()), lambda: group.pass_ms(10))
    assert group.leaders() != ["n1"]


def test_answers_drained_after_a_pause_do_not_keep_a_leader_alive() -> None:
    """The contact counts from when the leader asked, not from when it heard."""
    group = Group(3)
    leader = group.elect("n1")
    group.stop_between(("n2", "n1"), ("n3", "n1"))
    group.pass_ms(40)
    contact = leader.quorum_contact_at()
    group.pass_silently(10 * ELECTION_MS)
    group.heal()
    for other in ("n2", "n3"):
        while group.on_way[other, "n1"]:
            leader.receive(other, group.wire.encode([group.on_way[other, "n1"].popleft()]))
    group.run("n1")
    assert not leader.is_leader
    assert leader.quorum_contact_at() == float("-inf")
    assert contact < group.clock.monotonic() - 9 * ELECTION_MS / 1_000


def test_quorum_contact_is_the_sending_time_the_majority_answered() -> None:
    group = Group(5)
    leader = group.elect("n1")
    group.pass_ms(40)
    group.stop_between(("n4", "n1"), ("n5", "n1"))
    group.pass_ms(40)
    sent_at = group.clock.monotonic()
    leader._kick(leader._sequence)
    group.collect("n1")
    group.clock.now_ms += 7
    group.settle()
    assert leader.quorum_contact_at() == pytest.approx(sent_at, abs=1e-6)
    assert group.members["n2"].quorum_contact_at() == float("-inf")


def test_leadership_is_handed_over_to_the_wanted_node() -> None:
    group = Group(3)
    group.elect("n1")
    group.committed("n1", b"x")
    told: list[object] = []
    group.members["n1"].transfer("n3", 1.0, told.append)
    group.run("n1")
    group.settle()
    group.pass_ms(10)
    assert (group.leaders(), told) == (["n3"], ["n3"])


def test_a_follower_can_ask_for_the_hand_over() -> None:
    group = Group(3)
    group.elect("n1")
    told: list[object] = []
    group.members["n2"].transfer("n2", 1.0, told.append)
    group.run("n2")
    group.settle()
    group.pass_ms(10)
    assert (group.leaders(), told) == (["n2"], ["n2"])


def test_a_hand_over_waits_for_the_target_to_have_everything() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.stop_between(("n1", "n2"))
    first = group.propose("n1", b"x")
    told: list[object] = []
    leader.transfer("n2", 1.0, told.append)
    group.run("n1")
    held = group.propose("n1", b"held back")
    group.settle()
    assert group.waiting("n1", "n2", m.TimeoutNow) == []
    assert first.committed.result == 1
    group.heal()
    group.settle()
    group.pass_ms(10)
    assert (group.leaders(), told) == (["n2"], ["n2"])
    group.pass_ms(50)
    assert held.committed.result == 2


def test_a_hand_over_to_a_dead_node_is_given_up_and_work_goes_on() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.crash("n3")
    told: list[object] = []
    leader.transfer("n3", 0.5, told.append)
    group.pass_ms(50)
    held = group.propose("n1", b"x")
    group.pass_ms(600)
    assert held.committed.result == 1
    assert group.leaders() == ["n1"]
    assert "did not move" in str(told[0])
    assert group.committed("n1", b"y").result


def test_a_hand_over_to_nobody_is_refused() -> None:
    group = Group(3)
    told: list[object] = []
    group.members["n1"].transfer("n9", 0.5, told.append)
    assert "n9" in str(told[0])
    alone: list[object] = []
    Group(1).members["n1"].transfer("", 0.5, alone.append)
    assert "nobody" in str(alone[0])


def test_a_hand_over_of_an_older_term_entitles_to_nothing() -> None:
    """n2 stands still while it is told to stand, then while n3 is: it wakes to both, and votes for n3."""
    group = Group(5)
    term = group.elect("n1").term
    group.committed("n1", b"x")
    group.pass_ms(ELECTION_MS)
    asleep = group.members.pop("n2")
    group.stop_between(*[(other, "n2") for other in group.ids if other != "n2"])
    told: list[object] = []
    asleep.receive("n1", group.wire.encode([m.TimeoutNow(term)]))
    group.members["n1"].transfer("n3", 5, told.append)
    until(lambda: group.members["n3"].is_leader, lambda: group.pass_ms(5))
    (asked,) = group.waiting("n3", "n2", m.VoteRequest)
    asleep.receive("n3", group.wire.encode([asked]))
    group.members["n2"] = asleep
    group.run("n2")
    assert asleep.term == term + 1
    group.heal()
    group.on_way["n1", "n2"].clear()
    group.pass_ms(5 * ELECTION_MS)
    assert group.leaders() == ["n3"] and group.members["n3"].term == term + 1
