"""Replication: what is acknowledged stays, what conflicts goes, and nothing old counts as new."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.raft import messages as m
from coterie.raft.entry import NO_OP_ENTRY, seal
from coterie.raft.errors import FatalRaftError
from tests.raft.group import FIRST, Group, until


def body(number: int) -> bytes:
    return b"entry %d" % number


def command(number: int) -> bytes:
    return seal(1_700_000_000_000, number.to_bytes(16, "big"), body(number))


def append(term: int, prev: tuple[int, int], *entries: tuple[int, int], commit: int = 0) -> m.Append:
    """Entries as (term, number)."""
    terms, numbers = [entry[0] for entry in entries], [entry[1] for entry in entries]
    return m.Append(term, 1, 1, prev[0], prev[1], commit, terms, [command(number) for number in numbers])


def last_reply(group: Group, node: str, leader: str) -> m.AppendReply:
    reply = group.waiting(node, leader, m.AppendReply)[-1]
    assert isinstance(reply, m.AppendReply)
    return reply


def test_an_entry_is_committed_by_a_majority_and_applied_everywhere_at_once() -> None:
    group = Group(3)
    group.elect("n1")
    committed = group.committed("n1", b"x")
    assert (committed.index, committed.result) == (FIRST, 1)
    assert [machine.entries for machine in group.machines.values()] == [[b"x"]] * 3  # no heartbeat needed


def test_entry_times_never_go_back_even_when_the_clock_does() -> None:
    group = Group(3)
    group.elect("n1")
    first = group.committed("n1", b"a").at_ms
    group.clock.wall -= 3_600_000
    assert group.committed("n1", b"b").at_ms == first
    group.elect("n2")
    assert group.committed("n2", b"c").at_ms == first
    group.clock.wall += 7_200_000
    assert group.committed("n2", b"d").at_ms > first


def test_entry_times_go_on_after_the_clock_was_set_back() -> None:
    """Else a retry that is due in 50 ms would wait for an hour."""
    group = Group(3)
    group.elect("n1")
    first = group.committed("n1", b"a").at_ms
    group.clock.wall -= 3_600_000
    group.elect("n2")
    group.pass_ms(300)
    assert first + 300 <= group.committed("n2", b"b").at_ms <= first + 1_000
    for _ in range(40):
        group.clock.now_ms += 0.25
        last = group.committed("n2", b"c").at_ms
    assert last >= first + 309  # parts of a millisecond add up


def test_nothing_is_acknowledged_before_it_is_durable() -> None:
    group = Group(3)
    group.elect("n1")
    group.hold_disk |= {"n2", "n3"}
    answer = group.propose("n1", b"x")
    group.settle()
    assert answer.value is None
    group.hold_disk.clear()
    group.run_jobs("n2")
    group.run("n2")
    group.settle()
    assert answer.committed.result == 1


def test_the_leaders_own_copy_does_not_count_before_it_is_durable() -> None:
    """Entries travel while the leader's disk takes them; a majority needs the disk all the same."""
    group = Group(3)
    group.elect("n1")
    group.isolate("n3")
    group.hold_disk.add("n1")
    answer = group.propose("n1", b"x")
    assert [message.entries for message in group.waiting("n1", "n2", m.Append)] != []
    group.pass_ms(20)  # long enough for the leader to go on beside its write, and to hear n2's answer
    assert group.members["n2"]._log.last_index == FIRST, "n2 has it on its disk"
    assert group.members["n1"]._progress[group.members["n1"]._node("n2")].match_index == FIRST
    assert (answer.value, group.members["n1"].commit_index) == (None, FIRST - 1)
    group.hold_disk.clear()
    group.pass_ms(50)
    assert answer.committed.index == FIRST


def test_a_leader_that_loses_what_it_sent_early_cannot_write_there_again_in_its_term() -> None:
    """Its followers have the entry, its own disk does not: after the crash it must take theirs."""
    group = Group(3)
    group.elect("n1")
    group.hold_disk.add("n1")
    group.propose("n1", b"early")
    group.settle()
    assert group.members["n2"]._log.last_index == group.members["n3"]._log.last_index == FIRST
    group.hold_disk.clear()
    group.crash("n1", power=True)
    group.elect("n2")
    group.start("n1")
    group.pass_ms(2_000)
    assert [machine.entries for machine in group.machines.values()] == [[b"early"]] * 3


def test_an_acknowledgement_for_an_old_leadership_does_not_count() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.committed("n1", b"x")
    old_term = leader.term
    group.elect("n2")
    group.elect("n1")
    assert leader.term > old_term
    group.isolate("n1")
    answer = group.propose("n1", b"y")
    last = leader._log.last_index
    for other in ("n2", "n3"):
        group.deliver(other, "n1", m.AppendReply(old_term, leader._sequence, 1, True, last + 1))
    assert answer.value is None
    assert leader.commit_index < last
    group.deliver("n2", "n1", m.AppendReply(leader.term, leader._sequence, 1, True, last + 1))
    assert leader.commit_index == last


def test_an_acknowledgement_of_a_higher_term_deposes() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.deliver("n2", "n1", m.AppendReply(leader.term + 3, 1, 1, False, 0))
    assert not leader.is_leader
    assert leader.term >= 4


def test_a_deposed_leader_sends_nothing_in_the_new_term() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.isolate("n1")
    group.propose("n1", b"x")
    group.drop_all()
    new_term = leader.term + 1
    leader.receive("n2", group.wire.encode([m.AppendReply(new_term, 1, 1, False, 0)]))
    group.clock.now_ms += 25  # a heartbeat is due as well
    group.run("n1")
    sent = group.waiting("n1", "n2", m.Append) + group.waiting("n1", "n3", m.Append)
    assert [message for message in sent if message.term >= new_term] == []


def test_entries_of_an_older_term_are_not_committed_by_counting() -> None:
    """Figure 8 of the Raft paper: only an entry of the leader's own term commits what is before it."""
    group = Group(5)
    leader = group.elect("n1")
    group.isolate("n1")
    group.propose("n1", b"of the old term")
    old_index = leader._log.last_index
    group.heal()
    group.drop_all()
    group.isolate("n1")
    group.pass_silently(500)
    leader._adopt_term(leader.term)
    leader._elect_now, leader._SyncObj__raftElectionDeadline = True, 0.0
    group.run("n1")
    for voter in ("n2", "n3"):
        group.deliver(voter, "n1", m.VoteReply(leader.term))
    assert leader.is_leader
    assert leader._log.last_index == old_index + 1  # its no-op
    for node in ("n2", "n3", "n4"):
        group.deliver(node, "n1", m.AppendReply(leader.term, leader._sequence, 1, True, old_index + 1))
    assert leader.commit_index < old_index  # a majority has the old entry, and still it may be lost
    for node in ("n2", "n3"):
        group.deliver(node, "n1", m.AppendReply(leader.term, leader._sequence, 1, True, old_index + 2))
    assert leader.commit_index == old_index + 1


def test_what_matches_is_never_cut() -> None:
    group = Group(3)
    group.deliver("n1", "n2", append(2, (1, 0), (1, 10), (1, 11), (2, 12)))
    assert last_reply(group, "n2", "n1").next_index == 5
    before = group.log("n2")
    group.deliver("n1", "n2", append(2, (1, 0), (1, 10)))  # an older message arrives late
    assert group.log("n2") == before
    reply = last_reply(group, "n2", "n1")
    assert (reply.matched, reply.next_index) == (True, 3)


def test_only_a_real_conflict_cuts() -> None:
    group = Group(3)
    group.deliver("n1", "n2", append(2, (1, 0), (1, 10), (1, 11), (2, 12)))
    group.deliver("n3", "n2", append(3, (2, 1), (3, 20)))
    assert group.log("n2") == [(2, 1), (3, 3)]
    assert last_reply(group, "n2", "n3").next_index == 4


def test_a_follower_commits_only_what_it_was_shown_to_share() -> None:
    group = Group(3)
    group.deliver("n1", "n2", append(2, (1, 0), (1, 10), (1, 11), (2, 12)))
    group.deliver("n3", "n2", append(3, (2, 1), commit=4))  # 3 and 4 of the new leader are others
    member = group.members["n2"]
    assert member.commit_index == 2
    assert group.machines["n2"].entries == [body(10)]
    group.deliver("n3", "n2", append(3, (2, 1), (3, 20), (3, 21), commit=4))
    assert group.machines["n2"].entries == [body(10), body(20), body(21)]


def test_a_gap_is_refused_with_where_to_go_on() -> None:
    group = Group(3)
    group.deliver("n1", "n2", append(2, (9, 1), (2, 30), commit=10))
    reply = last_reply(group, "n2", "n1")
    assert (reply.matched, reply.next_index) == (False, 2)
    assert group.members["n2"].commit_index == 1


def test_a_conflict_is_skipped_a_term_at_a_time_but_not_below_the_commit_index() -> None:
    group = Group(3)
    numbers = [(1, number) for number in range(10, 20)]
    group.deliver("n1", "n2", append(1, (1, 0), *numbers, commit=4))
    group.deliver("n3", "n2", append(3, (11, 2)))
    assert last_reply(group, "n2", "n3").next_index == 5


@pytest.mark.parametrize(
    "message",
    [append(3, (2, 3)), append(3, (1, 0), (3, 99))],
    ids=["previous entry", "new entry"],
)
def test_a_conflict_below_the_commit_index_is_fatal(message: m.Append) -> None:
    group = Group(3)
    group.deliver("n1", "n2", append(2, (1, 0), (1, 10), (1, 11), commit=3))
    with pytest.raises(FatalRaftError, match="committed"):
        group.deliver("n3", "n2", message)


def test_two_leaders_in_one_term_are_fatal() -> None:
    group = Group(3)
    leader = group.elect("n1")
    with pytest.raises(FatalRaftError, match="too"):
        group.deliver("n2", "n1", append(leader.term, (1, 0)))


def test_an_old_leader_is_told_of_the_new_term() -> None:
    group = Group(3)
    group.elect("n1")
    old = append(1, (1, 0), (1, 5))
    group.elect("n2")
    term = group.members["n3"].term
    group.deliver("n1", "n3", old)
    assert last_reply(group, "n3", "n1") == m.AppendReply(term, 1, 1, False, 0)


def test_a_divergent_follower_is_brought_back_whatever_the_backlog() -> None:
    """Stock PySyncObj lives in a loop for ever here when the backlog is larger than one message."""
    group = Group(3, append_bytes_max=2_000, window_bytes_max=6_000)
    leader = group.elect("n1")
    group.isolate("n1")
    for number in range(5):
        group.propose("n1", b"lost %d" % number)
    group.pass_ms(300)
    until(lambda: bool(set(group.leaders()) - {"n1"}), lambda: group.pass_ms(20))
    new = group.leaders()[0]
    for number in range(60):
        group.committed(new, b"kept %d" % number + bytes(700))
    group.heal()
    group.connect("n1", "n2")
    group.connect("n1", "n3")
    group.pass_ms(200)
    assert leader.applied_index == group.members[new].applied_index
    assert group.machines["n1"].entries == group.machines[new].entries
    assert not any(entry.startswith(b"lost") for entry in group.machines["n1"].entries[:60])


def test_a_silent_follower_costs_a_bounded_amount() -> None:
    group = Group(3, append_bytes_max=2_000, window_bytes_max=6_000, window_messages_max=4)
    group.elect("n1")
    group.stop_between(("n1", "n3"))
    for _ in range(300):
        group.committed("n1", bytes(500))
    group.pass_ms(20_000, step_ms=20)
    waiting: list[Any] = group.waiting("n1", "n3", m.Append)
    assert sum(len(entry) for message in waiting for entry in message.entries) < 12_000
    assert len([message for message in waiting if message.sequence]) <= 256
    group.heal()
    group.pass_ms(100)
    assert group.machines["n3"].entries == group.machines["n1"].entries


def test_one_large_entry_travels_alone_and_the_limit_holds() -> None:
    group = Group(3, append_bytes_max=1_000, entry_bytes_max=5_000)
    group.elect("n1")
    assert group.committed("n2", bytes(5_000 - 25)).result == 1
    assert [len(machine.entries[0]) for machine in group.machines.values()] == [4_975] * 3


def test_a_link_that_comes_back_starts_from_what_the_follower_really_has() -> None:
    group = Group(3)
    group.elect("n1")
    group.committed("n1", b"a")
    group.disconnect("n1", "n3")
    group.committed("n1", b"b")
    group.connect("n1", "n3")
    group.settle()
    assert group.machines["n3"].entries == [b"a", b"b"]


def test_all_killed_at_once_lose_nothing() -> None:
    group = Group(3)
    group.elect("n1")
    for number in range(20):
        group.committed("n1", body(number))
    for node in group.ids:
        group.crash(node, power=True)
    for node in group.ids:
        group.start(node)
    until(lambda: bool(group.leaders()), lambda: group.pass_ms(20))
    group.pass_ms(100)
    assert all(machine.entries == [body(n) for n in range(20)] for machine in group.machines.values())


def test_an_apply_that_raises_stops_the_node_instead_of_trying_again() -> None:
    group = Group(1)
    group.pass_ms(300)

    def broken(index: int, at_ms: int, entry: bytes) -> object:
        raise ValueError("no")

    group.machines["n1"].apply = broken  # type: ignore[method-assign]
    with pytest.raises(FatalRaftError, match="total"):
        group.propose("n1", b"x")


def test_the_first_entry_of_a_leadership_is_a_no_op() -> None:
    group = Group(3)
    leader = group.elect("n1")
    assert leader._log[-1][0] == NO_OP_ENTRY
    assert leader.commit_index == leader._log.last_index


def test_small_appends_wait_for_the_answer_and_then_travel_together() -> None:
    group = Group(3)
    group.elect("n1")
    group.hold_disk |= {"n2", "n3"}
    answers = [group.propose("n1", body(number)) for number in range(5)]
    group.settle()
    assert group.members["n2"]._log.last_index == FIRST, "the others wait while the first is unanswered"
    group.hold_disk.clear()
    group.pass_ms(200)
    assert [answer.committed.index for answer in answers] == [FIRST + number for number in range(5)]
    assert {machine.digest() for machine in group.machines.values()} == {group.machines["n1"].digest()}


def test_many_waiting_entries_do_not_wait_for_an_answer() -> None:
    group = Group(3)
    group.elect("n1")
    group.hold_disk |= {"n2", "n3"}
    for number in range(80):
        group.propose("n1", body(number))
    group.settle()
    assert group.members["n1"]._progress[group.members["n1"]._nodes["n2"]].next_index > 60
