"""Members on disks that are full or slow: nothing is lost, new work is refused, leadership goes elsewhere."""

from __future__ import annotations

import pytest

from coterie.core.ports import NotCommitted
from coterie.raft import messages as m
from coterie.raft.errors import NoSpace
from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.room import Room
from coterie.raft.snapshot import MAKING_NAME
from coterie.raft.snapshot import NAME as SNAPSHOT
from tests.raft.group import Group
from tests.sim.raft.disk import SimDisk, SimFile

SMALL = {"disk_low_bytes": 4_000, "disk_reserve_bytes": 4_000}
BACK_MS = 1_500


def fill(group: Group, *nodes: str) -> None:
    """Other programs take all the room, and the nodes have looked."""
    for node in nodes:
        group.disks[node].taken_bytes = group.disks[node].size_bytes
    group.pass_ms(1_100)


def empty(group: Group, *nodes: str) -> None:
    for node in nodes:
        group.disks[node].taken_bytes = 0


def test_full_disks_refuse_new_work_and_take_what_ends_work_and_come_back() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    group.committed("n1", b"before")
    fill(group, *group.ids)
    leader = group.leaders()[0]
    assert {member.room for member in group.members.values()} == {Room.LOW}
    for node in group.ids:
        with pytest.raises(NoSpace, match="too little room"):
            group.propose(node, b"new work")
    ended = group.propose(leader, b"an end", vital=True)
    group.settle()
    assert ended.committed.result == 2
    read = group.read(leader)
    group.settle()
    assert read.value == group.members[leader].applied_index
    empty(group, *group.ids)
    group.pass_ms(BACK_MS)
    assert group.committed(leader, b"new work").result == 3


def test_a_leader_without_room_hands_over_to_a_node_that_has_some() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    fill(group, "n1", "n3")
    group.pass_ms(100)
    assert group.leaders() == ["n2"]


def test_a_majority_without_room_refuses_new_work_on_every_node() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    fill(group, "n2", "n3")
    group.pass_ms(100)
    assert group.leaders() == ["n1"]
    for node in group.ids:
        with pytest.raises(NoSpace):
            group.propose(node, b"new work")
    empty(group, "n2")
    group.pass_ms(BACK_MS)
    assert group.committed("n1", b"new work").result == 1


def test_the_leader_refuses_what_is_forwarded() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    member = group.members["n1"]
    member._refuses = lambda vital: not vital  # type: ignore[method-assign]
    refused, taken = group.propose("n2", b"new work"), group.propose("n2", b"an end", vital=True)
    group.settle()
    assert isinstance(refused.value, NoSpace)
    assert taken.committed.result == 1
    assert group.machines["n1"].entries == [b"an end"]


def test_a_full_follower_does_not_ack_and_catches_up_when_there_is_room() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    group.disks["n3"].drop_reserves()
    fill(group, "n3")
    assert group.members["n3"].room is Room.FULL
    before = group.log("n3")
    for number in range(5):
        group.committed("n1", b"%d" % number)
    assert group.log("n3") == before
    group.isolate("n2")
    alone = group.propose("n1", b"alone", 0.5)
    group.settle()
    group.pass_ms(200)
    assert alone.value is None or isinstance(alone.value, NotCommitted)  # the full disk acks nothing
    group.heal()
    empty(group, "n3")
    group.pass_ms(BACK_MS)
    assert group.machines["n3"].entries == group.machines["n2"].entries
    assert group.machines["n3"].entries[:5] == [b"%d" % number for number in range(5)]


def test_a_write_without_room_waits_and_is_made_when_there_is_some() -> None:
    group = Group(1, **SMALL)
    group.pass_ms(300)
    group.committed("n1", b"before")
    disk = group.disks["n1"]
    disk.drop_reserves()
    disk.taken_bytes = disk.size_bytes
    size = disk.size(JOURNAL)
    answer = group.propose("n1", bytes(500))
    late = group.propose("n1", b"late", 0.1, vital=True)
    assert (group.members["n1"].room, answer.value) == (Room.FULL, None)
    group.clock.now_ms += 200
    group.members["n1"].expire()
    assert isinstance(late.value, NotCommitted)
    assert disk.size(JOURNAL) == size
    empty(group, "n1")
    group.run("n1")
    assert answer.committed.result == 2
    assert group.members["n1"].room is Room.OK
    group.crash("n1", power=True)
    group.start("n1")
    group.pass_ms(300)
    assert group.machines["n1"].entries[:2] == [b"before", bytes(500)]


def test_a_snapshot_without_room_is_given_up_and_made_later() -> None:
    group = Group(1, **SMALL, snapshot_slice_bytes=1_000)
    group.pass_ms(300)
    for number in range(20):
        group.committed("n1", b"%d" % number + bytes(500))
    disk, member = group.disks["n1"], group.members["n1"]
    fill(group, "n1")
    member._free_bytes = 1e9  # it believes that there is room
    member.want_snapshot()
    group.run("n1")
    assert (member.ready_to_cut, member._making, disk.exists(SNAPSHOT)) == (0, None, False)
    ended = group.propose("n1", b"an end", vital=True)
    assert ended.committed.result == 21
    empty(group, "n1")
    group.pass_ms(3_000)
    assert member.ready_to_cut


def test_a_snapshot_that_had_no_room_is_not_tried_again_where_there_is_no_more() -> None:
    """Each try would fill the disk to its last byte, also for all other programs, every two seconds."""
    group = Group(1, **SMALL, snapshot_slice_bytes=1_000)
    group.pass_ms(300)
    for number in range(20):
        group.committed("n1", b"%d" % number + bytes(500))
    disk, member = group.disks["n1"], group.members["n1"]
    member.want_snapshot()
    disk.taken_bytes += disk.free - 5_500  # more than the last snapshot had, which there was none of
    group.pass_ms(1_000)
    assert member.ready_to_cut == 0 and member._needed_bytes > 5_000
    created = spied(disk)
    group.pass_ms(10_000)
    assert MAKING_NAME not in created
    empty(group, "n1")
    group.pass_ms(3_000)
    assert member.ready_to_cut and member._needed_bytes == 0


def test_a_snapshot_is_not_taken_in_where_it_has_no_room() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    disk, member = group.disks["n2"], group.members["n2"]
    created = spied(disk)
    chunk = m.SnapshotChunk(9, 1, 1, 30, 1, 1 << 40, 0, b"the first of very many")
    group.deliver("n1", "n2", chunk)
    assert created == [] and member._room_to_tell() is Room.FULL
    group.pass_ms(3_000)
    assert member._room_to_tell() is Room.OK


def spied(disk: SimDisk) -> list[str]:
    """The names of the files that are created from now on."""
    created: list[str] = []
    create = disk.create

    def watched(name: str) -> SimFile:
        created.append(name)
        return create(name)

    disk.create = watched  # type: ignore[method-assign]
    return created


def test_a_log_that_cannot_be_rewritten_stays_as_it_is() -> None:
    group = Group(1, **SMALL, snapshot_keep_entries=10)
    group.pass_ms(300)
    for number in range(40):
        group.committed("n1", b"%d" % number + bytes(100))
    disk, member = group.disks["n1"], group.members["n1"]
    member.want_snapshot()
    group.run("n1")
    size = disk.size(JOURNAL)
    disk.taken_bytes = disk.size_bytes
    member.cut_log(member.ready_to_cut)
    group.run("n1")
    assert disk.exists(SNAPSHOT) and disk.size(JOURNAL) == size and member._log.base.index > 1
    empty(group, "n1")
    group.pass_ms(BACK_MS)
    group.committed("n1", b"after")
    for power in (False, True):
        group.crash("n1", power=power)
        group.start("n1")
        group.pass_ms(300)
        assert group.machines["n1"].entries[-1] == b"after"
        assert len(group.machines["n1"].entries) == 41


@pytest.mark.parametrize("has_room", [True, False])
def test_a_follower_without_room_for_a_snapshot_gets_it_later(has_room: bool) -> None:
    group = Group(3, **SMALL, snapshot_keep_entries=2, snapshot_chunk_bytes=400)
    group.elect("n1")
    group.crash("n3")
    for number in range(30):
        group.committed("n1", b"%d" % number + bytes(300))
    leader = group.members["n1"]
    leader.want_snapshot()
    group.run("n1")
    leader.cut_log(leader.ready_to_cut)
    group.run("n1")
    disk = group.disks["n3"]
    disk.taken_bytes = 0 if has_room else disk.size_bytes - disk.free
    if not has_room:
        disk.taken_bytes = disk.free - 3_000  # enough to begin with
    group.start("n3")
    group.pass_ms(500)
    assert bool(group.machines["n3"].restored_at) is has_room
    empty(group, "n3")
    group.pass_ms(6_000)
    group.committed("n1", b"after")
    group.pass_ms(100)
    assert group.machines["n3"].entries == group.machines["n1"].entries


def test_a_leader_with_a_slow_disk_hands_over_once() -> None:
    group = Group(3, slow_disk_ms=50)
    group.sync_s = {"n1": 0.001, "n2": 0.002, "n3": 0.2}
    group.elect("n3")
    for number in range(40):
        leader = group.leaders()[0]
        group.propose(leader, b"%d" % number)
        group.settle()
        group.pass_ms(100)
    assert group.leaders()[0] in ("n1", "n2")
    term = group.members["n1"].term
    for number in range(150):
        group.propose("n1", b"more %d" % number)
        group.settle()
        group.pass_ms(100)
    assert group.members["n1"].term == term


def test_a_slow_leader_that_alone_hears_a_majority_does_not_give_way_again_and_again() -> None:
    group = Group(5, slow_disk_ms=50)
    group.sync_s = {"n1": 0.2, "n2": 0.002, "n3": 0.1}
    leader = group.elect("n1")
    others = [node for node in group.ids if node != "n1"]
    group.stop_between(*((a, b) for a in others for b in others if a != b))
    group.crash("n4")
    group.crash("n5")
    term = leader.term
    for number in range(60):
        group.propose("n1", b"%d" % number)
        group.pass_ms(100)
    assert leader.is_leader
    assert term < leader.term <= term + 3, "one try, and the election after it"


def test_where_all_disks_are_slow_nobody_hands_over() -> None:
    group = Group(3, slow_disk_ms=50)
    group.sync_s = {"n1": 0.2, "n2": 0.12, "n3": 0.15}
    group.elect("n1")
    term = group.members["n1"].term
    for number in range(100):
        group.propose("n1", b"%d" % number)
        group.settle()
        group.pass_ms(100)
    assert (group.leaders(), group.members["n1"].term) == (["n1"], term)


def test_one_hiccup_is_no_slow_disk() -> None:
    group = Group(3, slow_disk_ms=50)
    group.sync_s = {"n1": 0.001, "n2": 0.001, "n3": 0.001}
    group.elect("n1")
    for number in range(60):
        group.sync_s["n1"] = 0.8 if number in (10, 11) else 0.001
        group.propose("n1", b"%d" % number)
        group.settle()
        group.pass_ms(100)
    assert group.leaders() == ["n1"]
