"""Changes of the members: who counts when, one change at a time, and what a crash in the middle leaves."""

from __future__ import annotations

import pytest

from coterie.core.ports import (
    AddMember,
    ChangeRefused,
    MoveMember,
    NoQuorum,
    NotCommitted,
    PromoteMember,
    RemoveMember,
    Role,
)
from coterie.raft import messages as m
from coterie.raft.beginning import WAIT_TIMEOUTS
from coterie.raft.errors import TransferFailed
from coterie.raft.member import Member
from coterie.raft.progress import CatchUp
from tests.raft.group import ELECTION_MS, Group, until

VOTER, LEARNER = Role.VOTER, Role.LEARNER


def with_learner(count: int = 3, **settings: object) -> tuple[Group, Member]:
    """n1 leads `count` voters, and the last node is a learner that has everything."""
    group = Group(count, **settings)
    leader = group.elect("n1")
    node = f"n{count + 1}"
    group.changed("n1", AddMember(node, "", LEARNER))
    group.join(node)
    group.pass_ms(100)
    assert group.members[node].leader == "n1"
    assert group.members[node].applied_index == leader.applied_index
    return group, leader


def with_fourth_voter() -> Group:
    group, _ = with_learner()
    group.changed("n1", PromoteMember("n4"))
    group.pass_ms(100)
    return group


# --- the beginning ---


def test_the_first_leader_binds_every_disk_before_anything_else_is_in_the_log() -> None:
    group = Group(3)
    leader = group.elect("n1")
    assert leader._log.configurations[0][0] == 2
    for member in group.members.values():
        assert [(item.node_id, item.role) for item in member.members] == [(node, VOTER) for node in group.ids]
        assert [item.disk_id for item in member.members] == [group.members[n].disk_id for n in group.ids]


def test_a_voter_that_comes_later_is_bound_when_it_comes() -> None:
    group = Group(3)
    for node in group.ids:
        group.crash(node)
    group.start("n1")
    group.start("n2")
    group.pass_silently(WAIT_TIMEOUTS * ELECTION_MS)  # n3 had its time to be heard of
    leader = group.elect("n1")
    assert leader.members[2].disk_id == ""
    group.start("n3")
    group.pass_ms(100)
    assert leader.members[2].disk_id == group.members["n3"].disk_id
    assert group.members["n3"].members == leader.members


def test_bound_or_not_a_group_whose_first_leader_died_early_gets_another() -> None:
    """Whatever the first leader's first messages did, and whoever has seen them, somebody can be elected."""
    for delivered in range(12):
        group = Group(3)
        group.pass_silently(2 * ELECTION_MS)
        group.members["n1"]._SyncObj__raftElectionDeadline = 0.0
        group.run("n1")
        for _ in range(delivered):
            way = next((way for way, queue in group.on_way.items() if queue), None)
            if way is not None:
                group.deliver(*way)
        group.drop_all()
        group.crash("n1", power=delivered % 2 == 0)
        group.start("n1")
        for _ in range(100):
            group.pass_ms(20)
        assert len(group.leaders()) == 1, f"after {delivered} messages"
        assert group.committed(group.leaders()[0], b"x").result == 1


def test_addresses_of_the_beginning_are_those_of_the_options() -> None:
    group = Group(2, addresses={"n1": "one:1", "n2": "two:2"})
    leader = group.elect("n1")
    assert [member.address for member in leader.members] == ["one:1", "two:2"]
    group.changed("n2", MoveMember("n2", "new:3"))
    group.settle()
    assert [member.address for member in group.members["n2"].members] == ["one:1", "new:3"]


# --- learners ---


def test_a_learner_gets_everything_and_does_not_count() -> None:
    group, leader = with_learner()
    assert group.committed("n4", b"forwarded").result == 1
    group.isolate("n2")
    group.isolate("n3")
    contact = leader.quorum_contact_at()
    answer, read = group.propose("n1", b"x"), group.read("n1")
    group.settle()
    assert group.members["n4"]._log.last_index == leader._log.last_index, "the learner has it"
    assert (answer.value, read.value) == (None, None)
    group.pass_ms(40)
    assert leader.quorum_contact_at() <= contact + 0.001, "its answers are no contact with a majority"
    group.pass_ms(3 * ELECTION_MS)
    assert not leader.is_leader, "nor do they keep a leader in office"


def test_a_learner_neither_campaigns_nor_is_asked_for_a_vote() -> None:
    group, _ = with_learner()
    term = group.members["n4"].term
    group.crash("n1")
    group.isolate("n4")
    group.pass_ms(5 * ELECTION_MS)
    assert group.members["n4"].term == term
    assert not any(group.waiting("n4", other, m.PreVote) for other in ("n2", "n3"))
    assert not any(group.waiting(other, "n4", m.PreVote) for other in ("n2", "n3"))
    assert len(group.leaders()) == 1


def test_leadership_is_never_handed_to_a_learner() -> None:
    group, leader = with_learner()
    answers: list[str | Exception] = []
    leader.transfer("n4", 10, answers.append)
    assert isinstance(answers[0], TransferFailed)
    group.deliver("n2", "n1", m.TransferRequest(leader.term, "n4"))
    group.pass_ms(200)
    assert group.leaders() == ["n1"]
    group.crash("n2")
    group.crash("n3")
    leader._begin_hand_over("")
    assert leader._hand_over is None, "of all that are left it is the only one, and no candidate"


# --- joining ---


def test_a_node_becomes_a_voter_when_it_has_caught_up_and_not_before() -> None:
    group = Group(3)
    leader = group.elect("n1")
    for number in range(20):
        group.propose("n1", bytes([number]))
    assert group.changed("n1", AddMember("n4", "h:4")) == dict.fromkeys(group.ids, VOTER) | {"n4": LEARNER}
    group.pass_ms(100)
    with pytest.raises(ChangeRefused, match="not been in touch"):
        raise group.change("n1", PromoteMember("n4")).value
    assert group.committed("n1", b"meanwhile"), "three of three count, the absent one does not"
    group.join("n4")
    group.stop_between(("n4", "n1"))
    group.pass_ms(100)
    assert group.roles("n1")["n4"] is LEARNER, "nobody knows yet that it has everything"
    with pytest.raises(ChangeRefused, match="not caught up"):
        raise group.change("n1", PromoteMember("n4")).value
    group.heal()
    group.pass_ms(200)
    assert group.roles("n1") == group.roles("n4") == dict.fromkeys(group.ids, VOTER)
    assert group.machines["n4"].entries == group.machines["n1"].entries
    assert (leader._majority, group.members["n4"]._majority) == (3, 3)


def test_a_learner_that_needs_longer_than_an_election_timeout_for_a_round_is_not_ready() -> None:
    catching_up = CatchUp(target=100, began_at=10.0)
    catching_up.reached(99, 150, 10.05, 0.1)
    assert not catching_up.done
    catching_up.reached(100, 150, 10.2, 0.1)
    assert (catching_up.done, catching_up.target) == (False, 150)
    catching_up.reached(150, 160, 10.25, 0.1)
    assert catching_up.done, "the second round was quick"
    catching_up.reached(160, 170, 10.5, 0.1)
    assert not catching_up.done, "and then it fell behind"


def test_only_a_learner_that_has_caught_up_is_promoted_by_hand() -> None:
    group, leader = with_learner()
    leader._progress[leader._nodes["n4"]].catching_up.done = False
    with pytest.raises(ChangeRefused, match="not caught up"):
        raise group.change("n1", PromoteMember("n4")).value
    group.pass_ms(40)
    assert group.changed("n1", PromoteMember("n4"))["n4"] is VOTER


def test_a_configuration_does_not_travel_before_it_is_durable() -> None:
    """Unlike other entries: whoever holds it may vote by it, so its leader must hold it too."""
    group = Group(3)
    group.elect("n1")
    group.hold_disk.add("n1")
    group.change("n1", AddMember("n4", "h:4"))
    assert group.waiting("n1", "n2", m.Append) == []
    group.run_jobs("n1")
    assert len(group.waiting("n1", "n2", m.Append)) == 1


def test_a_fourth_voter_counts() -> None:
    group = with_fourth_voter()
    group.isolate("n3")
    assert group.committed("n1", b"three of four").result == 1
    group.isolate("n2")
    answer = group.propose("n1", b"two of four")
    group.pass_ms(40)
    assert answer.value is None


def test_a_joining_node_waits_without_campaigning() -> None:
    group = Group(3)
    group.elect("n1")
    group.join("n4")
    group.pass_ms(10 * ELECTION_MS)
    assert group.members["n4"].members == ()
    assert (group.members["n4"].term, group.members["n4"].leader) == (0, "")
    assert group.change("n4", RemoveMember("n1"), timeout_s=0.1).value is None
    group.pass_ms(200)


# --- one at a time ---


def test_a_second_change_is_refused_while_the_first_is_not_committed() -> None:
    group = Group(5)
    group.elect("n1")
    group.stop_between(*((node, "n1") for node in group.ids[1:]))
    first = group.change("n1", AddMember("n6", "h:6"))
    second = group.change("n1", RemoveMember("n5"))
    group.settle()
    assert first.value is None
    assert isinstance(second.value, ChangeRefused)
    assert "another change" in str(second.value)
    again = group.change("n1", AddMember("n6", "h:6"))
    assert again.value is None, "the same change waits with the first"
    group.heal()
    group.pass_ms(50)
    assert first.value == again.value
    assert group.changed("n1", RemoveMember("n5")) == dict.fromkeys(group.ids[:4], VOTER) | {"n6": LEARNER}


def test_a_leader_changes_nothing_before_an_entry_of_its_term_is_committed() -> None:
    """The correction of the single-server change: else two leaders' changes could have two majorities."""
    group = Group(3)
    group.elect("n1")
    group.stop_between(("n2", "n1"), ("n3", "n1"))
    leader = group.members["n2"]
    group.pass_silently(2 * ELECTION_MS)
    group.isolate("n1")
    leader._SyncObj__raftElectionDeadline = 0.0
    group.run("n2")
    ways = [("n2", "n3"), ("n3", "n2")]
    until(lambda: leader.is_leader, lambda: group.deliver(*next(way for way in ways if group.on_way[way])))
    before = leader._configuration_index
    doubtful = group.change("n2", RemoveMember("n9"))
    answer = group.change("n2", AddMember("n4", "h:4"))
    assert (answer.value, leader._configuration_index) == (None, before)
    assert doubtful.value is None, "an older leader's change could make n9 a member yet"
    group.settle()
    group.pass_ms(20)
    assert isinstance(doubtful.value, ChangeRefused)
    assert answer.value is not None
    assert leader._configuration_index > before


def test_a_change_that_no_majority_took_is_rolled_back() -> None:
    group = Group(3)
    group.elect("n1")
    group.isolate("n1")
    answer = group.change("n1", RemoveMember("n3"), timeout_s=0.05)
    assert group.roles("n1") == {"n1": VOTER, "n2": VOTER}, "it holds from the moment it is appended"
    group.elect("n2")
    group.committed("n2", b"x")
    group.heal()
    group.connect_all()
    group.pass_ms(100)
    assert group.roles("n1") == dict.fromkeys(group.ids, VOTER)
    assert group.members["n1"]._majority == 2
    assert type(answer.value) is NotCommitted, "it might have been committed"
    assert group.gone == {}


def test_who_asks_is_answered_truthfully_when_the_leader_changes() -> None:
    """The wish is carried to the next leader, as it asks for a state and not for a step."""
    group = Group(3)
    group.elect("n1")
    group.isolate("n1")
    group.stopped -= {("n3", "n1")}
    answer = group.change("n3", AddMember("n4", "h:4"), timeout_s=5)
    group.settle()
    assert "n4" in group.roles("n1")
    assert len(group.members["n1"]._waiters) == 1
    group.elect("n2")
    group.pass_ms(300)
    assert group.members["n1"]._waiters == [], "what it appended may be gone"
    assert {member.node_id for member in answer.value} == {"n1", "n2", "n3", "n4"}
    assert "n4" in group.roles("n2")


def test_a_restarted_node_is_not_told_of_the_change_that_its_former_process_asked_for() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.stop_between(("n2", "n1"), ("n3", "n1"))
    before = group.change("n2", AddMember("n4", "h:4"))
    group.deliver("n2", "n1")
    assert len(leader._waiters) == 1
    group.crash("n2")
    group.start("n2")
    group.stopped = {("n1", "n2")}
    group.pass_ms(20)
    assert leader.commit_index == leader._log.last_index
    assert group.waiting("n1", "n2", m.ChangeReply) == []
    group.heal()
    assert group.changed("n2", RemoveMember("n3")) == {"n1": VOTER, "n2": VOTER, "n4": Role.LEARNER}
    assert before.value is None


def test_who_asks_for_a_change_asks_again_over_the_next_link() -> None:
    group = Group(3)
    group.elect("n1")
    group.stop_between(("n2", "n1"))
    answer = group.change("n2", AddMember("n4", "h:4"))
    group.heal()
    group.connect("n1", "n2")
    group.settle()
    assert answer.value is not None


def test_without_a_majority_nobody_is_told_that_a_change_was_made() -> None:
    group = Group(3)
    group.elect("n1")
    group.isolate("n1")
    begun = group.change("n1", RemoveMember("n3"), timeout_s=0.05)
    asked = group.change("n1", RemoveMember("n2"), timeout_s=0.05)
    group.pass_ms(60)
    assert type(begun.value) is NotCommitted
    assert isinstance(asked.value, ChangeRefused)
    group.crash("n2")
    group.crash("n3")
    group.pass_ms(3 * ELECTION_MS)
    nobody = group.change("n1", RemoveMember("n2"), timeout_s=0.05)
    group.pass_ms(60)
    assert type(nobody.value) is NoQuorum


@pytest.mark.parametrize("node", ["n1", "n2", "n4"])
def test_any_node_takes_a_change_and_hears_a_refusal(node: str) -> None:
    group, _ = with_learner()
    answer = group.change(node, RemoveMember("n9"))
    group.settle()
    assert "'n9' is no member" in str(answer.value)
    assert group.changed(node, PromoteMember("n4")) == dict.fromkeys(group.ids, VOTER)
    assert group.changed(node, PromoteMember("n4")) == dict.fromkeys(group.ids, VOTER), "asked again"


def test_a_wish_that_is_given_up_is_not_answered() -> None:
    group = Group(3)
    answers: list[object] = []
    group.members["n1"].change(RemoveMember("n2"), 0.05, answers.append)()
    group.pass_ms(100)
    assert answers == []
