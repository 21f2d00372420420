"""Proposals: answered once, and truthfully, on whatever node and through whatever trouble."""

from __future__ import annotations

import math
from typing import Any

import pytest

from coterie.core.ports import Committed, NoQuorum, NotCommitted
from coterie.raft import messages as m
from coterie.raft import proposing
from coterie.raft.entry import CONFIGURATION, HEADER_BYTES, id_of
from coterie.raft.errors import EntryTooLarge, FatalRaftError, NewerVersion, TooManyProposals
from coterie.raft.proposals import Proposals
from coterie.raft.room import Room
from tests.raft.group import ELECTION_MS, FIRST, Answer, Group, until


def everywhere(group: Group, node: str, body: bytes) -> int:
    return group.machines[node].entries.count(body)


def test_a_follower_forwards_and_answers_when_it_has_applied() -> None:
    group = Group(3)
    group.elect("n1")
    answer = group.propose("n2", b"x")
    assert len(group.waiting("n2", "n1", m.Forward)) == 1
    group.settle()
    assert answer.committed.result == 1
    assert group.machines["n2"].entries == [b"x"]
    assert group.machines["n2"].times == [answer.committed.at_ms]


def test_a_follower_hears_of_the_commit_before_the_leader_applies() -> None:
    """It waits for nothing else, and to apply takes longer than all the rest."""
    group = Group(3)
    group.elect("n1")
    told: list[int] = []
    apply = group.machines["n1"].apply

    def watched(index: int, at_ms: int, entry: bytes) -> object:
        told.extend(said.commit_index for said in group.waiting("n1", "n2", m.Append))
        return apply(index, at_ms, entry)

    group.machines["n1"].apply = watched  # type: ignore[method-assign]
    index = group.committed("n2", b"x").index
    assert told == [index]


def test_what_waits_goes_in_one_message() -> None:
    group = Group(3)
    group.elect("n1")
    member = group.members["n2"]
    got: list[Any] = []
    for number in range(50):
        member.propose(b"%d" % number, 60, got.append)
    group.run("n2")
    assert [len(message.ids) for message in group.waiting("n2", "n1", m.Forward)] == [50]
    group.settle()
    assert [answer.result for answer in got] == list(range(1, 51))


def test_without_a_leader_it_waits_and_then_says_so() -> None:
    group = Group(3)
    group.isolate("n1")
    answer = group.propose("n1", b"x", timeout_s=0.5)
    group.pass_ms(490)
    assert answer.values == []
    group.pass_ms(30)
    assert type(answer.value) is NoQuorum


def test_what_was_proposed_before_the_election_is_committed_after_it() -> None:
    group = Group(3)
    answers = [group.propose(node, node.encode()) for node in group.ids]
    until(lambda: all(answer.value for answer in answers), lambda: group.pass_ms(10))
    assert sorted(str(answer.committed.result) for answer in answers) == ["1", "2", "3"]


def test_a_proposal_survives_the_death_of_the_leader_it_was_sent_to() -> None:
    """The forward is lost with the leader; an entry of the next term proves that it is not in the log."""
    group = Group(3)
    group.elect("n1")
    group.stop_between(("n2", "n1"))
    answer = group.propose("n2", b"x")
    group.crash("n1")
    group.heal()
    until(lambda: answer.value is not None, lambda: group.pass_ms(10))
    assert answer.committed.term > 1
    assert group.machines["n2"].entries == [b"x"]


def test_an_entry_a_dead_leader_had_appended_is_not_proposed_again() -> None:
    group = Group(3)
    group.elect("n1")
    answer = group.propose("n2", b"x")
    group.deliver("n2", "n1")
    group.deliver("n1", "n3")  # the entry is in n3's log, and n2 does not know
    group.crash("n1")
    until(lambda: answer.value is not None, lambda: group.pass_ms(10))
    assert answer.committed.term == 1
    group.pass_ms(100)
    assert group.machines["n3"].entries == [b"x"]


def test_a_deposed_leaders_own_proposal_is_committed_by_the_next() -> None:
    group = Group(3)
    group.elect("n1")
    group.isolate("n1")
    answer = group.propose("n1", b"x")
    until(lambda: bool(set(group.leaders()) - {"n1"}), lambda: group.pass_ms(10))
    assert answer.value is None
    group.heal()
    for other in ("n2", "n3"):
        group.connect("n1", other)
    until(lambda: answer.value is not None, lambda: group.pass_ms(10))
    assert answer.committed.term > 1
    assert [everywhere(group, node, b"x") for node in ("n1",)] == [1]


def test_a_lost_link_makes_the_leader_look_before_it_appends() -> None:
    group = Group(3)
    group.elect("n1")
    group.stop_between(("n1", "n2"), ("n1", "n3"))
    answer = group.propose("n2", b"x")
    group.settle()  # appended by the leader; nobody was told
    group.heal()
    group.disconnect("n1", "n2")
    group.connect("n1", "n2")
    again = group.waiting("n2", "n1", m.Forward)
    assert [message.again for message in again] == [True]
    group.settle()
    assert answer.committed.result == 1
    assert [len(machine.entries) for machine in group.machines.values()] == [1, 1, 1]


def test_a_forward_lost_with_its_link_is_appended_from_the_next() -> None:
    group = Group(3)
    group.elect("n1")
    group.stop_between(("n2", "n1"))
    answer = group.propose("n2", b"x")
    group.disconnect("n1", "n2")
    group.heal()
    group.connect("n1", "n2")
    group.settle()
    assert answer.committed.result == 1


def test_a_leader_that_cannot_remember_says_so_and_nothing_is_appended_twice() -> None:
    group = Group(3)
    leader = group.elect("n1")
    leader._remembers_all = False
    body, entry_id = b"x", b"i" * 16
    group.deliver("n2", "n1", m.Forward(leader.term, True, [entry_id], [body]))
    replies = group.waiting("n1", "n2", m.ForwardReply)
    assert replies == [m.ForwardReply(leader.term, leader.term, [entry_id], m.Refusal.UNKNOWN)]
    assert leader._log.last_index == FIRST - 1


def test_an_old_refusal_says_nothing_about_a_later_try() -> None:
    group = Group(3)
    leader = group.elect("n1")
    answer = group.propose("n2", b"x")
    forward = group.waiting("n2", "n1", m.Forward)[0]
    group.deliver("n1", "n2", m.ForwardReply(leader.term, leader.term - 1, forward.ids, m.Refusal.NOT_LEADER))
    group.deliver("n3", "n2", m.ForwardReply(leader.term, leader.term, forward.ids, m.Refusal.NOT_LEADER))
    group.clock.now_ms += 60
    group.run("n2")
    assert len(group.waiting("n2", "n1", m.Forward)) == 1
    group.settle()
    assert answer.committed.result == 1


def test_a_forward_of_another_term_is_refused() -> None:
    group = Group(3)
    leader = group.elect("n1")
    last = leader._log.last_index
    group.deliver("n2", "n1", m.Forward(leader.term - 1, False, [b"i" * 16], [b"x"]))
    assert leader._log.last_index == last
    assert group.waiting("n1", "n2", m.ForwardReply)[-1].reason is m.Refusal.NOT_LEADER
    group.deliver("n2", "n3", m.Forward(leader.term, True, [b"i" * 16], [b"x"]))
    assert group.waiting("n3", "n2", m.ForwardReply)[-1].reason is m.Refusal.UNKNOWN


def test_a_leader_that_cannot_commit_takes_a_bounded_amount() -> None:
    group = Group(3, uncommitted_max=5)
    leader = group.elect("n1")
    group.stop_between(("n2", "n1"), ("n3", "n1"))
    own = [group.propose("n1", b"own %d" % number) for number in range(4)]
    forwarded = [group.propose("n2", b"far %d" % number) for number in range(4)]
    group.heal()
    group.stop_between(("n3", "n1"))
    while group.on_way["n2", "n1"]:
        message = group.on_way["n2", "n1"].popleft()
        if isinstance(message, m.Forward):
            group.deliver("n2", "n1", message)
    assert leader._log.last_index - leader.commit_index == 5
    assert group.waiting("n1", "n2", m.ForwardReply)[-1].reason is m.Refusal.BUSY
    group.heal()
    group.pass_ms(300)
    assert all(isinstance(answer.value, Committed) for answer in own + forwarded)
    assert len(set(group.machines["n3"].entries)) == len(group.machines["n3"].entries) == 8


def test_a_late_answer_is_not_committed_and_comes_once() -> None:
    group = Group(3)
    group.elect("n1")
    group.stop_between(("n2", "n1"), ("n3", "n1"))
    answer = group.propose("n1", b"x", timeout_s=0.05)
    group.pass_ms(60)
    assert type(answer.value) is NotCommitted
    group.heal()
    group.pass_ms(50)
    assert type(answer.value) is NotCommitted
    assert group.machines["n1"].entries == [b"x"]  # which is why nobody may take it for a no


def test_a_snapshot_that_jumps_over_entries_leaves_the_outcome_open() -> None:
    group = Group(3, snapshot_keep_entries=1)
    group.elect("n1")
    answer = group.propose("n3", b"mine", timeout_s=0.8)
    group.deliver("n3", "n1")
    group.isolate("n3")
    group.settle()
    for number in range(10):
        group.committed("n1", b"%d" % number)
    group.pass_ms(200)  # for somebody in touch the entries would be kept
    member = group.members["n1"]
    member.want_snapshot()
    group.run("n1")
    member.cut_log(member.ready_to_cut)
    group.run("n1")
    group.heal()
    group.drop_all()
    group.connect("n1", "n3")
    group.connect("n2", "n3")
    group.pass_ms(100)
    assert group.machines["n3"].restored_at
    group.elect("n2")  # an entry of a higher term is applied, and proves nothing now
    group.pass_ms(900)
    assert type(answer.value) is NotCommitted
    assert [machine.entries.count(b"mine") for machine in group.machines.values()] == [1, 1, 1]


def test_limits_are_told_at_the_door() -> None:
    group = Group(1, outstanding_max=2, entry_bytes_max=100)
    member = group.members["n1"]
    with pytest.raises(EntryTooLarge, match="limit is 75"):
        member.propose(bytes(101 - HEADER_BYTES), 1, lambda answer: None)
    for _ in range(2):
        member.propose(bytes(100 - HEADER_BYTES), 1, lambda answer: None)
    with pytest.raises(TooManyProposals, match="try again later"):
        member.propose(b"x", 1, lambda answer: None)


def test_the_bytes_that_wait_are_limited_and_given_back() -> None:
    table = Proposals(1, 100, 10)
    kept = table.add(b"12345678", 1.0, lambda answer: None)
    with pytest.raises(TooManyProposals):
        table.add(b"123", 1.0, lambda answer: None)
    table.drop(kept)
    table.add(b"1234567890", 1.0, lambda answer: None)


def test_who_gives_up_is_not_answered() -> None:
    group = Group(3)
    group.elect("n1")
    told: list[Any] = []
    give_up = group.members["n2"].propose(b"x", 5, told.append)
    give_up()
    group.run("n2")
    group.settle()
    group.pass_ms(10 * ELECTION_MS)
    assert told == []


def test_everybody_is_answered_when_the_node_stops() -> None:
    group = Group(3)
    group.isolate("n1")
    waiting = [group.propose("n1", b"x"), group.read("n1")]
    group.members["n1"].fail_all("the node is stopping")
    assert [type(answer.value) for answer in waiting] == [NotCommitted, NotCommitted]


def test_an_entry_of_a_newer_version_stops_the_node_and_says_so() -> None:
    group = Group(3)
    group.elect("n1")

    def apply(index: int, at_ms: int, entry: bytes) -> object:
        raise NewerVersion("an entry with a command that is not known here")

    group.machines["n2"].apply = apply  # type: ignore[method-assign]
    with pytest.raises(FatalRaftError, match=r"entry \d+: .* newer version .* Remedy: install the version"):
        group.committed("n1", b"x")


def test_an_entry_of_an_unknown_type_is_kept_and_stops_the_node_that_would_apply_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newer = bytes([CONFIGURATION + 1]) + b"who knows"
    monkeypatch.setattr(proposing, "seal", lambda at_ms, entry_id, body: newer)
    group = Group(3)
    group.elect("n1")
    applied = group.members["n1"].applied_index
    with pytest.raises(
        NewerVersion, match=rf"entry {applied + 1}, of type 9, .* Remedy: install the version"
    ):
        group.committed("n1", b"x")
    assert group.members["n1"].applied_index == applied


def replace_link_while_it_waits(group: Group, body: bytes) -> Answer:
    """n2 forwards to n1, which has it in its inbox when the link is replaced on both sides."""
    leader, follower = group.members["n1"], group.members["n2"]
    answer = group.propose("n2", body)
    (asked,) = group.waiting("n2", "n1", m.Forward)
    leader.receive("n2", group.wire.encode([asked]))
    for way in (("n1", "n2"), ("n2", "n1")):
        group.on_way[way].clear()
    follower.link_up("n1", leader.disk_id)
    leader.link_up("n2", follower.disk_id)
    group.run("n2")
    group.run("n1")
    return answer


def test_an_answer_to_what_came_over_a_former_link_is_not_given_over_the_next_one() -> None:
    """It would be taken for the answer to the second try: "no room", while that try is committed."""
    group = Group(3)
    leader = group.elect("n1")
    group.committed("n1", b"x")
    group.pass_ms(60)
    leader._look_at = leader._give_way_at = math.inf
    group.stop_between(("n2", "n1"), ("n1", "n2"))
    leader._room = Room.LOW
    group.run("n1")
    answer = replace_link_while_it_waits(group, b"y")
    leader._room = Room.OK
    group.heal()
    group.settle()
    group.pass_ms(60)
    assert answer.committed.result == 2
    assert everywhere(group, "n3", b"y") == 1


def test_a_busy_answer_to_a_former_try_does_not_make_an_entry_happen_twice() -> None:
    group = Group(3, uncommitted_max=2)
    leader = group.elect("n1")
    group.committed("n1", b"x")
    group.pass_ms(60)
    group.isolate("n1")
    for body in (b"a", b"b"):
        group.propose("n1", body)  # there is no room for more
    answer = replace_link_while_it_waits(group, b"y")
    group.stopped -= {("n3", "n1"), ("n1", "n3")}
    group.settle()  # and now there is
    while group.waiting("n2", "n1", m.Forward):
        group.deliver("n2", "n1")
    assert leader._log[-1][0][HEADER_BYTES:] == b"y"
    while group.waiting("n1", "n2", m.ForwardReply):
        group.deliver("n1", "n2")
    group.settle()
    group.crash("n1")
    group.heal()
    group.pass_ms(20 * ELECTION_MS)
    assert answer.value is not None
    assert everywhere(group, "n3", b"y") == 1


def test_proposals_whose_time_is_over_do_not_pile_up_while_nobody_leads() -> None:
    group = Group(3)
    group.elect("n1")
    for other in ("n1", "n3"):
        group.disconnect("n2", other)
    group.pass_ms(5 * ELECTION_MS)
    for _ in range(500):
        group.propose("n2", bytes(100), 0.005)
        group.pass_ms(6, 6)
    proposals = group.members["n2"]._proposals
    assert len(proposals) == 0
    assert len(proposals._to_send) < 100


def test_the_latest_forwarded_entries_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposing, "REMEMBERED_MAX", 3)
    group = Group(3)
    leader = group.elect("n1")
    for number in range(5):
        group.committed("n2", b"%d" % number)
    remembered = list(leader._remembered)
    assert remembered == [id_of(leader._log[at][0]) for at in (-3, -2, -1)]
    assert not leader._remembers_all
