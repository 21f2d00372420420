"""The log is cut by a copy in slices, between which it goes on: whatever it is then, the copy becomes."""

from __future__ import annotations

import random

import pytest

from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.journal import NEW_NAME, Base, Journal
from coterie.raft.journal_format import Identity
from coterie.raft.storing import WRITE_LOG
from tests.raft.group import Answer, Group
from tests.raft.test_snapshots import chunks_of, image
from tests.sim.raft.disk import Died, SimDisk

SLICES = {"snapshot_keep_entries": 20, "snapshot_slice_bytes": 64, "election_timeout_ms": 100_000}
ME = Identity("coterie", "n1")
A_WHILE_MS = 5  # longer than a member waits for a write before it goes on beside it
HEAD = b"\x00" + bytes(24)


def body(number: int) -> bytes:
    return b"entry %04d" % number


def one_job(group: Group, node: str) -> str:
    """The disk does one thing, then the node takes its steps; the name of the job."""
    job = group.jobs[node].popleft()
    job.work()
    group.members[node].job_done(job)
    group.clock.now_ms += A_WHILE_MS
    group.run(node)
    return job.name


def cutting(count: int = 30) -> Group:
    """A group of one whose disk waits, and whose log is about to be cut."""
    group = Group(1, **SLICES)
    group.elect("n1")
    for number in range(count):
        group.committed("n1", body(number))
    member = group.members["n1"]
    member.want_snapshot()
    group.run("n1")
    group.hold_disk.add("n1")
    member.cut_log(member.ready_to_cut)
    group.run("n1")
    return group


def restarted(group: Group, *, power: bool) -> list[bytes]:
    """What the machine of n1 holds when it is back."""
    group.hold_disk.clear()
    group.crash("n1", power=power)
    group.disks["n1"].fuse = None
    group.start("n1")
    assert not group.disks["n1"].exists(NEW_NAME)
    group.elect("n1")
    group.settle()
    return group.machines["n1"].entries


def test_a_write_waits_for_one_slice_of_the_copy_at_most() -> None:
    group = cutting()
    names, number = [], 30
    while "replace log" not in names:
        answer = group.propose("n1", body(number))
        number += 1
        while answer.value is None:
            names.append(one_job(group, "n1"))
        jobs = [name for name in names if name != "look at disk"]
    copies = [at for at, name in enumerate(jobs) if name == "copy log"]
    assert len(copies) >= 5
    assert all(jobs[at + 1] != "copy log" for at in copies)
    assert jobs.count(WRITE_LOG) == number - 30
    assert restarted(group, power=True) == [body(n) for n in range(number)]


@pytest.mark.parametrize("power", [False, True])
def test_dying_at_any_operation_of_a_cut_loses_nothing_that_came_meanwhile(power: bool) -> None:
    for fuse in range(300):
        group = cutting(12)
        group.disks["n1"].rng = random.Random(fuse)
        group.disks["n1"].fuse = fuse
        answers: list[Answer] = []
        replaced = False
        try:
            while not replaced or group.members["n1"]._log._dropped:
                answers.append(group.propose("n1", body(12 + len(answers))))
                while answers[-1].value is None:
                    replaced |= one_job(group, "n1") == "replace log"
        except Died:
            died = True
        else:
            died = False
        acked = 12 + sum(answer.value is not None for answer in answers)
        entries = restarted(group, power=power)
        assert entries == [body(n) for n in range(len(entries))]
        assert len(entries) >= acked
        if not died:
            assert fuse > 40
            return
    raise AssertionError("the cut never came to its end")


def test_the_new_file_takes_the_name_when_the_old_one_holds_all_that_memory_holds() -> None:
    group = cutting()
    member, number = group.members["n1"], 30
    while not member._copy_ends:
        one_job(group, "n1")
        if group.jobs["n1"] and group.jobs["n1"][0].name == "copy log":
            late = group.propose("n1", body(number))
            number += 1
    assert [job.name for job in group.jobs["n1"]] == [WRITE_LOG], "it is written where it belongs first"
    assert one_job(group, "n1") == WRITE_LOG
    assert [job.name for job in group.jobs["n1"]] == ["replace log"]
    assert member.is_blocked
    one_job(group, "n1")
    assert late.value is not None
    assert restarted(group, power=True) == [body(n) for n in range(number)]


def synced(journal: Journal) -> None:
    if journal.is_dirty:
        journal.write(journal.take_block())
        journal.block_written()


def test_a_copy_follows_the_log_where_it_is_cut_off_and_grows_again() -> None:
    """Whatever happens between its slices, in whatever order."""
    for seed in range(300):
        rng, disk = random.Random(seed), SimDisk(random.Random(seed))
        journal = Journal(disk, ME, rng)
        for index in range(2, 14):
            journal.add(HEAD + bytes([index]), index, 1)
        synced(journal)
        journal.begin_copy(Base(4, 1, 0))
        for step in range(12):
            match rng.randrange(3):
                case 0 if journal.uncopied_bytes:
                    journal.next_slice(rng.randint(1, 90))()
                case 1 if journal.last_index > 6:
                    journal.deleteEntriesFrom(rng.randint(6, journal.last_index) - journal.base.index)
                case _:
                    journal.add(HEAD + bytes([100 + step]), journal.last_index + 1, 2 + step)
            journal.setCurrentTerm(2 + step, f"n{step}")
            synced(journal)
        journal.end_copy()()
        journal.add(HEAD, journal.last_index + 1, 50)
        synced(journal)
        disk.lose_power()
        again = Journal(disk, ME, random.Random(0))
        assert again[:] == journal[:]
        assert (again.base.index, again.getCurrentTerm(), again.getVotedForNodeId()) == (4, 13, "n11")


def test_a_snapshot_that_is_installed_takes_the_place_of_a_copy_under_way() -> None:
    group = Group(3, **SLICES)
    group.elect("n1")
    for number in range(30):
        group.committed("n1", body(number))
    group.pass_ms(50)
    member = group.members["n2"]
    member.want_snapshot()
    group.run("n2")
    group.hold_disk.add("n2")
    member.cut_log(member.ready_to_cut)
    group.run("n2")
    for chunk in chunks_of(image(100, 1, [b"x"] * 5), 100, 1, size=1_000):
        group.deliver("n3", "n2", chunk)
    names = [one_job(group, "n2") for _ in range(14)]
    assert names.index("copy log") < names.index("drop copy") < names.index("replace log")
    assert "copy log" not in names[names.index("drop copy") :]
    group.hold_disk.clear()
    group.run_jobs("n2")
    group.run("n2")
    assert not member._is_cutting and not group.disks["n2"].exists(NEW_NAME)
    assert (member._log.base.index, group.machines["n2"].restored_at) == (100, [100])


def test_a_copy_without_room_is_given_up_and_the_log_goes_on_where_it_is() -> None:
    group = cutting()
    disk, member = group.disks["n1"], group.members["n1"]
    size, group.settings = disk.size(JOURNAL), group.settings
    while not disk.exists(NEW_NAME):
        one_job(group, "n1")
    disk.taken_bytes = disk.size_bytes
    while member._is_cutting or group.jobs["n1"]:
        one_job(group, "n1")
    assert not disk.exists(NEW_NAME)
    assert disk.size(JOURNAL) == size
    assert member._log.base.index > 1, "memory is given back all the same"
    disk.taken_bytes = 0
    assert restarted(group, power=True) == [body(n) for n in range(30)]


def test_the_copy_is_quicker_than_what_is_appended_meanwhile() -> None:
    group = cutting()
    number, slices = 30, 0
    while group.members["n1"]._log.base.index == 1 or group.members["n1"]._is_cutting:
        for _ in range(6):  # more than a slice holds
            group.propose("n1", body(number))
            number += 1
        slices += one_job(group, "n1") == "copy log"
        assert slices < 60
    assert slices >= 3
