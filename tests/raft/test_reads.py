"""Read barriers: nothing acknowledged before the call is missing after it, or there is an error."""

from __future__ import annotations

import math

from coterie.core.ports import NoQuorum
from coterie.raft import messages as m
from coterie.raft.room import Room
from tests.raft.group import ELECTION_MS, Group, until


def test_a_read_on_the_leader_waits_for_one_round() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.committed("n1", b"x")
    answer = group.read("n1")
    assert answer.value is None
    group.settle()
    assert answer.value == leader.commit_index


def test_a_read_on_a_follower_sees_what_was_acknowledged_elsewhere() -> None:
    group = Group(3)
    group.elect("n1")
    group.stop_between(("n1", "n3"))
    committed = group.committed("n1", b"x")
    assert group.machines["n3"].entries == []
    answer = group.read("n3")
    group.settle()
    assert answer.values == []
    group.heal()
    group.settle()
    assert answer.value >= committed.index
    assert group.machines["n3"].entries == [b"x"]


def test_a_follower_waits_until_it_has_applied_what_the_leader_named() -> None:
    group = Group(3)
    group.elect("n1")
    answer = group.read("n3")
    request = group.on_way["n3", "n1"].popleft()
    assert isinstance(request, m.ReadRequest)
    member = group.members["n3"]
    group.deliver("n1", "n3", m.ReadReply(member.term, request.id, True, member.applied_index + 1))
    assert answer.value is None
    committed = group.committed("n1", b"x")
    assert answer.value == committed.index


def test_many_reads_are_one_question() -> None:
    group = Group(3)
    group.elect("n1")
    got: list[object] = []
    for _ in range(100):
        group.members["n2"].read(1, got.append)
    group.run("n2")
    assert len(group.waiting("n2", "n1", m.ReadRequest)) == 1
    group.settle()
    assert len(got) == 100
    assert all(isinstance(index, int) for index in got)


def test_an_isolated_leader_does_not_answer() -> None:
    group = Group(3)
    group.elect("n1")
    group.isolate("n1")
    answer = group.read("n1", timeout_s=0.05)
    group.pass_ms(40)
    assert answer.value is None
    group.pass_ms(40)
    assert isinstance(answer.value, NoQuorum)


def test_answers_to_older_messages_prove_nothing() -> None:
    """A leader that slept may find old answers in its inbox while another one leads."""
    group = Group(3)
    leader = group.elect("n1")
    group.stop_between(("n2", "n1"), ("n3", "n1"))
    leader._kick(leader._sequence)
    group.collect("n1")
    group.settle()  # the others have answered; the answers wait
    answer = group.read("n1")
    group.heal()
    for other in ("n2", "n3"):
        old = group.waiting(other, "n1", m.AppendReply)[0]
        group.deliver(other, "n1", old)
    assert answer.value is None
    group.settle()
    assert isinstance(answer.value, int)


def test_a_new_leader_first_commits_an_entry_of_its_term() -> None:
    group = Group(3)
    group.elect("n1")
    committed = group.committed("n1", b"x")
    group.pass_silently(2 * ELECTION_MS)
    member = group.members["n2"]
    member._elect_now, member._SyncObj__raftElectionDeadline = True, 0.0
    group.run("n2")
    group.deliver("n2", "n3")
    while not member.is_leader:
        group.deliver("n3", "n2")
    answer = group.read("n2")
    group.drop_all()
    group.deliver("n3", "n2", m.AppendReply(member.term, member._sequence, 1, True, 2))
    assert answer.values == []  # the majority is proved, but what is committed is not yet known
    group.pass_ms(50)
    assert answer.value > committed.index


def test_a_read_survives_a_change_of_leader() -> None:
    group = Group(3)
    group.elect("n1")
    group.stop_between(("n2", "n1"))
    answer = group.read("n2")
    group.crash("n1")
    group.heal()
    until(lambda: answer.value is not None, lambda: group.pass_ms(10))
    assert isinstance(answer.value, int)


def test_a_deposed_leader_refuses_questions_and_asks_itself() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.stop_between(("n1", "n2"), ("n1", "n3"))
    own, far = group.read("n1"), group.read("n2")
    group.settle()
    assert (own.value, far.value) == (None, None)
    group.deliver("n3", "n1", m.AppendReply(leader.term + 1, 1, 1, False, 0))
    assert not leader.is_leader
    group.heal()
    until(lambda: own.value is not None and far.value is not None, lambda: group.pass_ms(10))
    assert isinstance(own.value, int)
    assert isinstance(far.value, int)


def test_a_restarted_node_is_not_answered_what_its_former_process_asked() -> None:
    """Else the new process, which numbers its questions anew, takes the index of an older moment for its own:
    a stale read."""
    group = Group(3)
    leader = group.elect("n1")
    group.stop_between(("n2", "n1"), ("n3", "n1"))
    group.read("n2")
    group.deliver("n2", "n1")
    assert leader._reads.rounds[-1].asked_by
    group.crash("n2")
    group.start("n2")
    group.drop_all()
    group.stopped = {("n1", "n2")}
    group.propose("n1", b"x")
    group.settle()
    assert leader.commit_index == leader._log.last_index
    assert not leader._reads.rounds, "the older round is proved by now"
    assert group.waiting("n1", "n2", m.ReadReply) == []


def test_an_answer_to_a_former_process_fits_no_question_of_the_present_one() -> None:
    group = Group(3)
    group.elect("n1")
    group.read("n2")
    (before,) = group.waiting("n2", "n1", m.ReadRequest)
    group.crash("n2")
    member = group.start("n2")
    until(lambda: member.leader == "n1", lambda: group.pass_ms(5))
    group.stop_between(("n2", "n1"))
    answer = group.read("n2")
    group.deliver("n1", "n2", m.ReadReply(member.term, before.id, True, member.applied_index))
    assert answer.value is None


def test_a_single_node_answers_at_once() -> None:
    group = Group(1)
    group.pass_ms(300)
    group.committed("n1", b"x")
    assert group.read("n1").value == group.members["n1"].applied_index


def test_too_many_reads_are_refused() -> None:
    group = Group(3, reads_max=3)
    group.isolate("n1")
    waiting = [group.read("n1", timeout_s=0.1) for _ in range(3)]
    refused = None
    try:
        group.read("n1")
    except NoQuorum as error:
        refused = error
    assert "3 reads wait" in str(refused)
    group.pass_ms(120)
    assert all(isinstance(answer.value, NoQuorum) for answer in waiting)
    assert group.read("n1").value is None


def test_reads_whose_time_is_over_do_not_pile_up_where_nothing_is_applied() -> None:
    group = Group(3, reads_max=50)
    group.elect("n1")
    group.committed("n1", b"x")
    follower = group.members["n2"]
    follower._room, follower._look_at = Room.FULL, math.inf  # it still follows, and asks
    group.pass_ms(ELECTION_MS)
    group.committed("n1", b"y")
    for _ in range(200):
        group.read("n2", 0.03)
        group.pass_ms(40, 20)
    assert follower.applied_index < group.members["n1"].commit_index
    assert len(follower._reads._known) <= 51


def test_reads_whose_time_is_over_do_not_pile_up_while_nobody_leads() -> None:
    group = Group(3, reads_max=50)
    group.elect("n1")
    group.isolate("n2")
    group.pass_ms(5 * ELECTION_MS)
    for _ in range(200):
        group.read("n2", 0.005)
        group.pass_ms(6, 6)
    assert len(group.members["n2"]._reads.fresh) <= 51
