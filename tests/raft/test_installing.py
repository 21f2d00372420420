"""A large snapshot goes into the machine bit by bit, while the member goes on."""

from __future__ import annotations

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import SubmitTask
from coterie.core.nouns import Data, RetryPolicy, TaskId
from coterie.raft import codec
from coterie.raft.replica import Replica
from tests.raft.group import Group
from tests.raft.inprocess import ListMachine

SMALL = {"snapshot_keep_entries": 2, "snapshot_chunk_bytes": 200, "snapshot_slice_bytes": 50}


class SlicedList(ListMachine):
    """Takes its image chunk by chunk."""

    def begin_restore(self) -> SlicedList:
        self.fresh: list[bytes] = []
        self.settled = self.tidied = 3
        return self

    def feed(self, chunk: bytes) -> None:
        self.fresh.append(chunk)

    def settle(self) -> bool:
        self.settled -= 1
        return self.settled > 0

    def adopt(self, index: int) -> None:
        assert self.settled == 0
        self.restore(self.fresh, index)

    def tidy(self) -> bool:
        self.tidied -= 1
        return self.tidied > 0


class SlicedGroup(Group):
    machine_type = SlicedList


def behind(group: Group) -> str:
    """n3 has missed so much that it needs a snapshot; returns the last body."""
    group.elect("n1")
    group.crash("n3")
    for number in range(40):
        group.committed("n1", b"entry %04d" % number)
    leader = group.members["n1"]
    leader.want_snapshot()
    group.run("n1")
    leader.cut_log(leader.ready_to_cut)
    group.run("n1")
    return "n3"


@pytest.mark.parametrize("group_type", [Group, SlicedGroup])
def test_a_snapshot_is_installed_and_what_follows_is_applied(group_type: type[Group]) -> None:
    group = group_type(3, **SMALL)
    late = behind(group)
    group.start(late)
    group.pass_ms(300)
    group.committed("n1", b"after")
    group.pass_ms(100)
    machine = group.machines[late]
    assert machine.entries == group.machines["n1"].entries
    assert len(machine.restored_at) == 1
    if isinstance(machine, SlicedList):
        assert machine.tidied == 0


def test_the_old_state_serves_until_the_new_one_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.raft.installing.READ_BYTES", 1)
    group = SlicedGroup(3, **SMALL)
    late = behind(group)
    group.hold_disk.add(late)
    group.start(late)
    member, machine = group.members[late], group.machines[late]
    assert isinstance(machine, SlicedList)
    seen_partly = answered_meanwhile = False
    for _ in range(500):
        if machine.restored_at:
            break
        group.clock.now_ms += 1
        group.settle()
        group.run(late)
        installing = member._installing
        if installing is not None and machine.fresh and len(machine.fresh) < 40:
            seen_partly = True
            assert machine.entries == []
            answered_meanwhile |= not member.is_blocked
        group.run_jobs(late)
    assert machine.entries == group.machines["n1"].entries[:40]
    assert seen_partly and answered_meanwhile


def test_a_second_asker_for_the_same_snapshot_waits_for_the_first_one() -> None:
    group = SlicedGroup(3, **SMALL)
    late = behind(group)
    group.hold_disk.add(late)
    group.start(late)
    member, machine = group.members[late], group.machines[late]
    broken = False
    for _ in range(800):
        if machine.restored_at:
            break
        group.clock.now_ms += 1
        group.settle()
        group.run(late)
        if member._installing is not None and not broken:
            broken = True
            group.disconnect("n1", late)
            group.connect("n1", late)
        group.run_jobs(late)
    assert broken and len(machine.restored_at) == 1
    group.hold_disk.clear()
    group.run(late)
    group.pass_ms(200)
    group.committed("n1", b"after")
    group.pass_ms(200)
    assert machine.entries == group.machines["n1"].entries


def test_the_replica_restores_in_slices_to_the_same_state() -> None:
    restored: list[int] = []
    replica = Replica(lambda index, events: None, restored.append)
    for number in range(300):
        command = SubmitTask(
            TaskId(f"t{number}"), "default", "echo", Data(b"x" * number), 1 + number % 3, RetryPolicy()
        )
        replica.apply(number + 2, 1_000, codec.encode_batch([command]))
    other = Replica(lambda index, events: None, restored.append)
    old_task = SubmitTask(TaskId("old"), "default", "echo", Data(b""), 1, RetryPolicy())
    other.apply(2, 1_000, codec.encode_batch([old_task]))
    restoring = other.begin_restore()
    for chunk in replica.freeze():
        restoring.feed(chunk)
        assert list(other.state.tasks) == ["old"]
    old = other.state
    while restoring.settle():
        assert other.state is old
    restoring.adopt(301)
    assert restored == [301]
    assert state_hash(other.state) == state_hash(replica.state)
    assert other.state.indexes.image() == replica.state.indexes.image()
    assert old.tasks
    while restoring.tidy():
        pass
    assert not old.tasks
