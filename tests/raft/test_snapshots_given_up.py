"""Snapshots that come to nothing: their room is given back, and nobody waits for them for ever."""

from __future__ import annotations

import pytest

from coterie.raft import messages as m
from coterie.raft.errors import DamagedFile
from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.snapshot import MAKING_NAME, NAME, RECEIVING_NAME
from tests.raft.group import Group
from tests.raft.test_snapshots import SMALL, chunks_of, filled, image, lagging, snapshot


def test_what_has_come_of_a_snapshot_is_given_back_when_the_log_brings_the_rest() -> None:
    """Its leader is gone, and the next one still has all the entries: nobody would write over the file."""
    group = Group(3, **SMALL)
    for chunk in chunks_of(image(30, 1, [b"a" * 40, b"b" * 40]), 30, 1)[:-1]:
        group.deliver("n1", "n2", chunk)
    assert group.disks["n2"].exists(RECEIVING_NAME)
    group.deliver("n1", "n2", m.Append(10, 1, 1, 1, 0, 1, [], []))
    group.run("n2")
    assert not group.disks["n2"].exists(RECEIVING_NAME)


def test_a_snapshot_that_another_one_overtakes_is_given_back() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 10)
    member, disk = group.members["n2"], group.disks["n2"]
    member.want_snapshot()
    group.run("n2")
    assert member.ready_to_cut and disk.exists(MAKING_NAME)
    for chunk in chunks_of(image(30, 1, [b"a" * 40]), 30, 1):
        group.deliver("n1", "n2", chunk)
    group.run("n2")
    assert group.machines["n2"].restored_at == [30]
    assert disk.exists(NAME) and not disk.exists(MAKING_NAME) and not disk.exists(RECEIVING_NAME)


def test_a_leader_hears_of_chunks_that_were_not_taken_however_late() -> None:
    """The follower had no room, and stood still until it would take some again: it must say that it took
    none, or its leader waits for an answer for ever."""
    group = Group(3, **SMALL)
    node = lagging(group)
    group.start(node)
    for _ in range(200):
        for way, queue in group.on_way.items():
            if queue and not isinstance(queue[0], m.SnapshotReply):
                group.deliver(*way)
    follower = group.members[node]
    receiving = follower._receiving
    assert receiving is not None
    receiving.spool.failed = True
    for way in ((node, "n1"), ("n1", node)):
        while group.on_way[way]:
            group.deliver(*way)
    while group.waiting("n1", node, m.SnapshotChunk):
        group.deliver("n1", node)
    group.drop_all()
    asleep = group.members.pop(node)
    group.stop_between(*[(other, node) for other in group.ids if other != node])
    group.pass_ms(2_100)
    group.members[node] = asleep
    group.heal()
    group.pass_ms(5_000)
    assert asleep.applied_index == group.members["n1"].commit_index


def test_a_journal_of_an_earlier_time_than_its_snapshot_is_refused() -> None:
    """Somebody has put back an old copy of the file: the votes and promises since then are not in it."""
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 5)
    old = group.disks["n2"].read(JOURNAL)
    group.elect("n3")
    filled(group, "n3", 20, first=5)
    snapshot(group, "n2")
    group.crash("n2")
    file = group.disks["n2"].create(JOURNAL)
    file.append(old)
    file.sync()
    with pytest.raises(DamagedFile, match=f"{JOURNAL}.*earlier time"):
        group.start("n2")
