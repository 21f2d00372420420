"""Snapshots in a group: they cut the log, bring lagging nodes up to date, and never take anything back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from coterie.raft import messages as m
from coterie.raft import replication
from coterie.raft import snapshot as form
from coterie.raft.entry import HEADER_BYTES
from coterie.raft.errors import DamagedFile
from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.messages import SnapshotStatus
from coterie.raft.snapshot import NAME, RECEIVING_NAME
from tests.raft.group import FIRST, Group
from tests.sim.raft.disk import Died

SMALL = {
    "snapshot_keep_entries": 2,
    "snapshot_chunk_bytes": 64,
    "snapshot_slice_bytes": 64,
    "snapshot_window": 2,
}


def body(number: int) -> bytes:
    return b"entry %04d" % number


def filled(group: Group, leader: str, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        group.committed(leader, body(number))


def snapshot(group: Group, node: str) -> int:
    """Let a node make a snapshot and cut its log; returns its index."""
    member = group.members[node]
    member.want_snapshot()
    group.run(node)
    index = member.ready_to_cut
    assert index == member.applied_index
    member.cut_log(index)
    group.run(node)
    return index


def test_a_snapshot_cuts_the_log_and_survives_a_restart() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 20)
    before = group.disks["n1"].size(JOURNAL)
    index = snapshot(group, "n1")
    assert group.members["n1"]._log.base.index == index - 2
    assert group.disks["n1"].size(JOURNAL) < before / 3
    filled(group, "n1", 3, first=20)
    group.crash("n1", power=True)
    group.start("n1")
    machine = group.machines["n1"]
    assert (machine.restored_at, machine.entries) == ([index], [body(n) for n in range(20)])
    group.elect("n2")
    group.settle()
    assert machine.entries == [body(n) for n in range(23)]


def test_the_log_is_cut_only_when_the_hook_has_agreed() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 5)
    member = group.members["n1"]
    member.want_snapshot()
    group.run("n1")
    assert member.ready_to_cut
    assert not group.disks["n1"].exists(NAME)
    filled(group, "n1", 5, first=5)
    assert member._log.base.index == 1
    member.cut_log(member.ready_to_cut + 1)  # of another one: ignored
    group.run("n1")
    assert not group.disks["n1"].exists(NAME)
    group.crash("n1")
    group.start("n1")
    assert group.machines["n1"].restored_at == []


def test_entries_go_on_while_a_snapshot_is_written() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 40)
    member = group.members["n1"]
    group.hold_disk.add("n1")
    member.want_snapshot()
    member.step()
    group.jobs["n1"].extend(member.take_jobs())
    slices = 0
    while not member.ready_to_cut:
        answer = group.propose("n1", body(100 + slices))
        group.run_jobs("n1")
        group.run("n1")
        group.settle()
        group.run_jobs("n1")
        group.run("n1")
        slices += 1
        assert answer.value is not None
    assert slices >= 3
    group.hold_disk.clear()
    index = member.ready_to_cut
    member.cut_log(index)
    group.run("n1")
    assert list(member._store.image()) == [body(number) for number in range(40)]


def test_snapshots_come_by_themselves_by_entries_and_by_bytes() -> None:
    for settings in ({"snapshot_every_entries": 11}, {"snapshot_every_bytes": 10 * (HEADER_BYTES + 10)}):
        group = Group(1, **settings)
        group.pass_ms(300)
        filled(group, "n1", 8)
        assert group.members["n1"].ready_to_cut == 0
        filled(group, "n1", 2, first=8)
        assert group.members["n1"].ready_to_cut > 0


def lagging(group: Group) -> str:
    """n3 misses so much that only a snapshot helps."""
    group.elect("n1")
    filled(group, "n1", 3)
    group.crash("n3")
    filled(group, "n1", 30, first=3)
    snapshot(group, "n1")
    filled(group, "n1", 5, first=33)
    return "n3"


def test_a_node_that_missed_too_much_gets_the_snapshot_and_then_the_rest() -> None:
    group = Group(3, **SMALL)
    node = lagging(group)
    group.start(node)
    group.pass_ms(50)
    assert group.machines[node].entries == [body(n) for n in range(38)]
    assert group.machines[node].restored_at == [FIRST + 32]
    assert group.disks[node].exists(NAME)
    group.crash(node, power=True)
    group.start(node)
    group.pass_ms(50)
    assert group.machines[node].entries == [body(n) for n in range(38)]


def test_the_transfer_keeps_its_window() -> None:
    group = Group(3, **SMALL)
    node = lagging(group)
    group.start(node)
    while not group.waiting("n1", node, m.SnapshotChunk):
        group.deliver(*next(way for way, queue in group.on_way.items() if queue))
    group.stop_between((node, "n1"))
    group.pass_ms(60)
    assert group.machines[node].entries == []
    chunks = group.members["n1"]._progress[group.members["n1"]._nodes[node]].snapshot
    assert chunks is not None
    assert (chunks.unanswered, chunks.offset) == (2, 128)


def test_a_transfer_that_breaks_begins_anew() -> None:
    group = Group(3, **SMALL)
    node = lagging(group)
    group.start(node)
    for _ in range(6):
        for way in (("n1", node), (node, "n1")):
            if group.on_way[way]:
                group.deliver(*way)
    group.disconnect("n1", node)
    group.pass_ms(10)
    group.connect("n1", node)
    group.pass_ms(50)
    assert group.machines[node].entries == [body(n) for n in range(38)]


def chunks_of(raw: bytes, index: int, term: int, size: int = 50) -> list[m.SnapshotChunk]:
    return [
        m.SnapshotChunk(9, at + 1, 1, index, term, len(raw), at, raw[at : at + size])
        for at in range(0, len(raw), size)
    ]


def image(index: int, term: int, entries: list[bytes]) -> bytes:
    parts = [form.header(form.Meta(index, term, 5), "coterie")]
    parts += [form.chunk(number, data) for number, data in enumerate(entries)]
    return b"".join(parts) + form.end(len(entries), sum(map(len, entries)))


def test_an_older_snapshot_is_not_installed() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 10)
    member = group.members["n2"]
    commit = member.commit_index
    for chunk in chunks_of(image(5, 1, [b"old"]), 5, 1):
        group.deliver("n3", "n2", chunk)
    answers = group.waiting("n2", "n3", m.SnapshotReply)
    assert {(answer.status, answer.offset) for answer in answers} == {(SnapshotStatus.DONE, commit)}
    assert group.machines["n2"].restored_at == []
    assert not group.disks["n2"].exists(NAME)


def test_a_snapshot_overtaken_by_the_log_is_not_installed() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    chunks = chunks_of(image(6, 1, [b"x"] * 5), 6, 1)
    for chunk in chunks[:-1]:
        group.deliver("n1", "n2", chunk)
    group.hold_disk.add("n2")
    group.deliver("n1", "n2", chunks[-1])
    member = group.members["n2"]
    member._SyncObj__raftCommitIndex = 6
    member._SyncObj__raftLastApplied = 6
    group.hold_disk.clear()
    group.run_jobs("n2")
    member._finish_jobs()
    group.run_jobs("n2")
    jobs = member.take_jobs()
    for job in jobs:
        job.work()
        member.job_done(job)
    member._finish_jobs()
    assert group.machines["n2"].restored_at == []


def test_a_damaged_transfer_is_thrown_away() -> None:
    group = Group(3, **SMALL)
    raw = bytearray(image(30, 1, [b"a" * 40, b"b" * 40]))
    raw[100] ^= 4
    for chunk in chunks_of(bytes(raw), 30, 1):
        group.deliver("n1", "n2", chunk)
    assert group.waiting("n2", "n1", m.SnapshotReply)[-1].status is SnapshotStatus.DAMAGED
    assert group.machines["n2"].restored_at == []
    assert not group.disks["n2"].exists(NAME)
    assert not group.disks["n2"].exists(RECEIVING_NAME)
    assert group.members["n2"].commit_index == 1


def test_a_leader_with_a_damaged_snapshot_stops() -> None:
    group = Group(3, **SMALL)
    node = lagging(group)
    disk = group.disks["n1"]
    disk.flip_bit(NAME, disk.size(NAME) // 2, 1)
    group.start(node)
    with pytest.raises(DamagedFile, match=NAME):
        group.pass_ms(100)
    assert group.machines[node].restored_at == []


def test_chunks_of_different_snapshots_do_not_mix() -> None:
    group = Group(3, **SMALL)
    one, two = chunks_of(image(30, 1, [b"a" * 90]), 30, 1), chunks_of(image(31, 1, [b"b" * 90]), 31, 1)
    group.deliver("n1", "n2", one[0])
    group.deliver("n1", "n2", two[1])
    assert group.waiting("n2", "n1", m.SnapshotReply)[-1].status is SnapshotStatus.RESTART
    for chunk in two:
        group.deliver("n1", "n2", chunk)
    assert group.machines["n2"].restored_at == [31]
    assert group.machines["n2"].entries == [b"b" * 90]


def test_the_end_of_the_log_that_agrees_with_the_snapshot_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "SMALL_APPEND_ENTRIES", 1)  # n2 gets entries although it does not answer
    group = Group(3, **SMALL)
    group.elect("n1")
    group.stop_between(("n2", "n1"), ("n3", "n1"))
    for number in range(6):
        group.propose("n1", body(number))
    group.settle()
    member = group.members["n2"]
    assert (member._log.last_index, member.commit_index) == (FIRST + 5, FIRST - 1)
    for chunk in chunks_of(image(5, 1, [body(n) for n in range(3)]), 5, 1):
        group.deliver("n3", "n2", chunk)
    assert group.log("n2") == [(6, 1), (7, 1), (8, 1), (9, 1)]
    assert group.machines["n2"].restored_at == [5]


def test_a_log_without_its_snapshot_is_refused() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 20)
    snapshot(group, "n1")
    group.crash("n1")
    group.disks["n1"].remove(NAME)
    with pytest.raises(DamagedFile, match="missing or older"):
        group.start("n1")


def test_a_snapshot_without_its_journal_is_refused() -> None:
    """The vote was in the journal: the node might vote twice in a term."""
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 5)
    snapshot(group, "n1")
    group.crash("n1")
    group.disks["n1"].remove(JOURNAL)
    with pytest.raises(DamagedFile, match="missing"):
        group.start("n1")


@pytest.mark.parametrize("power", [False, True])
def test_dying_at_any_operation_of_a_compaction_loses_nothing(power: bool) -> None:
    for fuse in range(30):
        group = Group(3, **SMALL)
        group.disks["n1"].rng = random.Random(fuse)
        group.elect("n1")
        filled(group, "n1", 12)
        group.disks["n1"].fuse = fuse
        try:
            snapshot(group, "n1")
        except Died:
            died = True
        else:
            died = False
        group.crash("n1", power=power)
        group.disks["n1"].fuse = None
        group.start("n1")
        assert group.members["n1"]._log.last_index == FIRST + 11
        group.elect("n1")
        group.settle()
        assert group.machines["n1"].entries == [body(n) for n in range(12)]
        if not died:
            return
    raise AssertionError("the compaction never came to its end")


@pytest.mark.parametrize("power", [False, True])
def test_dying_at_any_operation_of_an_install_loses_nothing(power: bool) -> None:
    for fuse in range(60):
        group = Group(3, **SMALL)
        node = lagging(group)
        group.disks[node].rng = random.Random(fuse)
        group.start(node)
        group.disks[node].fuse = fuse
        try:
            group.pass_ms(20)
        except Died:
            died = True
        else:
            died = False
        group.crash(node, power=power)
        group.disks[node].fuse = None
        group.start(node)
        assert not group.disks[node].exists(RECEIVING_NAME)
        group.pass_ms(50)
        assert group.machines[node].entries == [body(n) for n in range(38)]
        if not died:
            return
    raise AssertionError("the install never came to its end")


def test_options_are_checked() -> None:
    group = Group(1)
    good = group.options("n1")
    with pytest.raises(ValueError, match=r"heartbeat_ms 40 .* election_timeout_ms 100"):
        type(good)(node_id="n1", peers=("n1",), data_dir=Path("x"), election_timeout_ms=100, heartbeat_ms=40)
    with pytest.raises(ValueError) as caught:
        type(good)(node_id="a", peers=("b", "b", ""), data_dir=Path("x"), cluster_id="", reads_max=0)
    for word in ("node_id 'a'", "['b'] more than once", "empty id", "cluster_id", "reads_max is 0"):
        assert word in str(caught.value)


def test_a_turn_that_has_spent_its_time_on_freezing_encodes_one_piece() -> None:
    group = Group(1)
    group.elect("n1")
    for number in range(5):
        group.committed("n1", bytes([number]) * 50)
    member, machine = group.members["n1"], group.machines["n1"]
    freeze = machine.freeze

    def slow() -> Iterator[bytes]:
        group.clock.now_ms += 10
        return freeze()

    machine.freeze = slow  # type: ignore[method-assign]
    member.want_snapshot()
    member.step()
    making = member._making
    assert making is not None
    assert (making._chunks, making.complete) == (1, False)
