"""A member beside its own disk: what it says, counts and does while a write is under way."""

from __future__ import annotations

import random

import pytest

from coterie.raft import messages as m
from coterie.raft.journal import Journal
from coterie.raft.journal_format import Identity
from coterie.raft.outbox import Outbox
from coterie.raft.replication import SMALL_APPEND_ENTRIES
from coterie.raft.writing import FREE, GATHER_S
from tests.raft.group import ELECTION_MS, FIRST, Group
from tests.sim.raft.disk import SimDisk

A_WHILE_MS = 1_000 * GATHER_S + 2
WIDE = {"election_timeout_ms": 20 * ELECTION_MS}


def slow_leader(**settings: int) -> Group:
    """n1 leads, and its disk does not end a write until it is told to."""
    group = Group(3, **settings)
    group.elect("n1")
    group.hold_disk.add("n1")
    return group


def end_write(group: Group, node: str) -> None:
    """The disk is quick again."""
    group.hold_disk.discard(node)
    group.run_jobs(node)
    group.run(node)
    group.settle()


def test_entries_of_one_moment_are_taken_in_together() -> None:
    group = slow_leader()
    group.propose("n1", b"a")
    assert group.members["n1"].is_blocked
    group.propose("n1", b"b")
    assert group.members["n1"]._log.last_index == FIRST
    group.pass_ms(A_WHILE_MS, step_ms=1)
    assert group.members["n1"]._log.last_index == FIRST + 1


def test_the_others_commit_while_the_leaders_disk_writes() -> None:
    group = slow_leader(**WIDE)
    answers = [group.propose("n1", body) for body in (b"a", b"b", b"c")]
    group.pass_ms(A_WHILE_MS, step_ms=1)
    assert [answer.committed.index for answer in answers] == [FIRST, FIRST + 1, FIRST + 2]
    assert group.members["n1"]._log.durable_index == FIRST - 1
    assert group.machines["n2"].entries == [b"a", b"b", b"c"], "the followers hear of it too"
    group.crash("n1", power=True)
    group.pass_silently(2 * WIDE["election_timeout_ms"])
    group.elect("n2")
    group.hold_disk.clear()
    group.start("n1")
    group.pass_ms(50)
    assert group.machines["n1"].entries == [b"a", b"b", b"c"]


def test_one_write_at_a_time_takes_all_that_came_up() -> None:
    group = slow_leader(**WIDE)
    for body in (b"a", b"b", b"c"):
        group.propose("n1", body)
        group.pass_ms(A_WHILE_MS, step_ms=1)
    assert [job.name for job in group.jobs["n1"]].count("write log") == 1
    end_write(group, "n1")
    member = group.members["n1"]
    assert member._log.durable_index == FIRST + 2
    assert member._writes_done == member._writes_begun


def test_a_slow_follower_answers_early_and_promises_nothing() -> None:
    group = Group(3, **WIDE)
    group.elect("n1")
    group.isolate("n3")
    group.committed("n1", b"a")
    group.hold_disk.add("n2")
    answer = group.propose("n1", b"b")
    group.settle()
    contact = group.members["n1"].quorum_contact_at()
    group.pass_ms(100)
    assert group.members["n1"].quorum_contact_at() > contact, "by its early answers"
    more = [group.propose("n1", b"%d" % number) for number in range(2 * SMALL_APPEND_ENTRIES)]
    group.pass_ms(100)
    assert group.members["n2"]._log.last_index == FIRST + 1 + len(more), "they come while it writes"
    assert [each.value for each in (answer, *more)] == [None] * (1 + len(more)), "none is for entries"
    read = group.read("n1")
    group.pass_ms(50)
    assert read.value == FIRST, "a read needs no disk"
    end_write(group, "n2")
    assert answer.committed.index == FIRST + 1


def test_early_answers_are_of_a_term_that_is_durable() -> None:
    group = Group(3, **WIDE)
    group.elect("n1")
    group.committed("n1", b"a")
    group.hold_disk.add("n2")
    group.pass_silently(2 * WIDE["election_timeout_ms"])
    group.elect("n3")  # n2 hears of the new term, and cannot write it down
    group.pass_ms(100)
    assert group.members["n2"].term == group.members["n3"].term
    assert group.members["n3"]._progress[group.members["n3"]._node("n2")].acked_sequence == 0


@pytest.mark.parametrize("leads", [True, False])
def test_behind_a_disk_that_stands_still_a_member_falls_silent(leads: bool) -> None:
    group = Group(3)
    group.elect("n1")
    node = "n1" if leads else "n2"
    group.hold_disk.add(node)
    group.propose("n1", b"a")
    group.pass_ms(ELECTION_MS + 50)
    assert group.members[node].is_blocked
    group.pass_ms(4 * ELECTION_MS)
    assert group.members["n3"].leader in ({"n2", "n3"} if leads else {"n1"})


def test_a_vote_waits_for_the_write_that_holds_it_and_not_only_for_the_one_under_way() -> None:
    group = Group(3, **WIDE)
    group.elect("n1")
    group.hold_disk.add("n2")
    group.propose("n1", b"a")
    group.deliver("n1", "n2")
    group.pass_silently(2 * WIDE["election_timeout_ms"])
    group.members["n2"]._write_began_at = group.clock.monotonic() - 2 * GATHER_S
    disk_id = group.members["n2"].disk_id
    request = m.VoteRequest(9, FIRST + 5, 9, False, disk_id)
    group.deliver("n3", "n2", request)
    group.jobs["n2"][0].work()
    group.members["n2"].job_done(group.jobs["n2"].popleft())
    group.collect("n2")
    assert group.waiting("n2", "n3", m.VoteReply) == [], "the first write knows nothing of it"
    end_write(group, "n2")
    assert group.members["n2"].term == 9
    assert group.members["n2"]._log.getVotedForNodeId() == "n3"


def test_the_journal_is_replaced_when_it_holds_all_that_memory_holds() -> None:
    group = slow_leader(snapshot_keep_entries=1, **WIDE)
    group.hold_disk.clear()
    for number in range(8):
        group.committed("n1", b"%d" % number)
    member = group.members["n1"]
    member.want_snapshot()
    group.run("n1")
    group.hold_disk.add("n1")
    group.propose("n1", b"late")
    group.pass_ms(A_WHILE_MS, step_ms=1)
    group.propose("n1", b"later")
    assert member._log.is_dirty
    member.cut_log(member.ready_to_cut)
    group.pass_ms(A_WHILE_MS, step_ms=1)
    assert member.is_blocked, "it writes what memory holds first"
    assert "switch snapshot" not in [job.name for job in group.jobs["n1"]]
    first = group.jobs["n1"].popleft()
    first.work()
    member.job_done(first)
    group.run("n1")
    assert [job.name for job in group.jobs["n1"]] == [first.name], "what came up meanwhile is written too"
    end_write(group, "n1")
    group.pass_ms(50)
    assert member._log.base.index > FIRST
    group.crash("n1", power=True)
    group.start("n1")
    assert group.members["n1"]._log.last_index == FIRST + 9


def test_what_was_cut_while_it_was_written_is_not_durable() -> None:
    journal = Journal(SimDisk(random.Random(1)), Identity("coterie", "n1"), random.Random(1))
    for index in (2, 3, 4):
        journal.add(b"\x00" + bytes(24), index, 1)
    journal.take_block()
    journal.deleteEntriesFrom(2)
    journal.add(b"\x00" + bytes(24), 3, 2)
    journal.add(b"\x00" + bytes(24), 4, 2)
    journal.block_written()
    assert (journal.durable_index, journal.last_index) == (2, 4)


def test_messages_keep_their_order_but_for_those_that_promise_nothing() -> None:
    outbox = Outbox()
    vote, request, later = m.VoteReply(1), m.ReadRequest(1, 1), m.VoteReply(2)
    outbox.post("n2", vote)
    outbox.post("n2", request)
    assert outbox.take(0, 1, FREE) == {"n2": [request]}
    outbox.post("n2", later)
    assert outbox.take(0, 2, FREE) == {}
    assert outbox.take(1, 2, FREE) == {"n2": [vote]}
    outbox.post("n3", vote)
    outbox.drop("n3")
    assert outbox.take(2, 2, FREE) == {"n2": [later]}
    assert outbox.take(2, 2, FREE) == {}
