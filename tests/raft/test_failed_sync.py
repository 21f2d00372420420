"""A disk that fails a sync and then says that all is well: the next process must not believe it."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.raft.engine import RaftEngine
from coterie.raft.errors import DiskFailed
from coterie.raft.journal import MARK_NAME, Journal
from tests.chaos.tools import needs
from tests.raft.inprocess import Cluster, ListMachine
from tests.raft.test_journal import ME, entry, filled, rng, synced
from tests.sim.raft.disk import Inode, SimDisk, SimFile

ROOT = Path(__file__).resolve().parents[2]


class ForgivingDisk(SimDisk):
    """As ext4 does: a sync that fails marks what it could not write as written, and its content stays to be
    read. Later syncs succeed, and leave out what was not written again."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.fails = False  # the next sync of a file
        self.missing: dict[Inode, set[int]] = {}  # bytes that are in the cache alone

    def open(self, name: str) -> SimFile:
        return ForgivingFile(self, self._names[name])

    def create(self, name: str) -> SimFile:
        super().create(name)
        return self.open(name)

    def truncate(self, name: str, size: int) -> None:
        super().truncate(name, size)
        self.leave_out(self._names[name])

    def leave_out(self, inode: Inode) -> None:
        kept = bytearray(inode.durable)
        for position in self.missing.get(inode, set()):
            kept[position : position + 1] = b"\0"
        inode.durable = bytes(kept)


class ForgivingFile(SimFile):
    _disk: ForgivingDisk

    def sync(self) -> None:
        disk, inode = self._disk, self._inode
        if disk.fails:
            disk.fails = False
            disk.missing[inode] = set(range(len(inode.durable), len(inode.data)))
            raise DiskFailed("fsync failed: planted")
        super().sync()
        disk.leave_out(inode)

    def rewrite(self, offset: int, data: bytes) -> None:
        super().rewrite(offset, data)
        missing = self._disk.missing.get(self._inode, set())
        missing.difference_update(range(offset, offset + len(data)))


def after_a_failed_sync(seed: int) -> ForgivingDisk:
    """Entries 2 to 4 are on the disk, 5 is in the cache alone, and the node has stopped."""
    disk = ForgivingDisk(random.Random(seed))
    journal = filled(disk, 3)
    journal.add(entry(5, 900), 5, 1)
    disk.fails = True
    with pytest.raises(DiskFailed):
        journal.write(journal.take_block())
    disk.kill()
    return disk


@pytest.mark.parametrize("knows_mark", [True, False])
def test_what_is_durable_after_a_restart_outlives_the_power(knows_mark: bool) -> None:
    for seed in range(20):
        disk = after_a_failed_sync(seed)
        if not knows_mark:
            disk.remove(MARK_NAME)
        again = Journal(disk, ME, rng())
        promised = again.durable_index
        disk.lose_power()
        assert Journal(disk, ME, rng()).last_index >= promised


def test_what_follows_what_a_failed_sync_left_is_not_lost_with_it() -> None:
    for seed in range(20):
        disk = after_a_failed_sync(seed)
        again = Journal(disk, ME, rng())
        again.add(entry(9), again.last_index + 1, 2)
        synced(again)
        promised = again.last_index
        disk.lose_power()
        assert Journal(disk, ME, rng()).last_index == promised


def test_a_sync_that_fails_twice_is_still_no_promise() -> None:
    disk = after_a_failed_sync(1)
    disk.fails = True
    with pytest.raises(DiskFailed):
        Journal(disk, ME, rng())
    disk.kill()
    promised = Journal(disk, ME, rng()).durable_index
    disk.lose_power()
    assert Journal(disk, ME, rng()).last_index >= promised == 5


async def test_a_node_without_room_for_what_a_failed_sync_left_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is written in place, writing the same once more needs room."""
    options = Cluster(tmp_path, 1).options("n1")
    engine = RaftEngine(options, ListMachine(), on_fatal=lambda error: None)
    await engine.start()
    await engine.propose(b"x", 20.0)
    await engine.stop()
    (options.data_dir / MARK_NAME).unlink()

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        monkeypatch.context() as patch,
        pytest.raises(DiskFailed, match=r"No space left.* when that is mended"),
    ):
        patch.setattr(os, "pwrite", full)
        await RaftEngine(options, ListMachine(), on_fatal=lambda error: None).start()
    machine = ListMachine()
    engine = RaftEngine(options, machine, on_fatal=lambda error: None)
    await engine.start()
    await engine.read_barrier(20.0)
    assert machine.entries == [b"x"]
    await engine.stop()


_EXT4 = """
import sys
from pathlib import Path
from coterie.raft.disk import RealDisk
from coterie.raft.errors import DiskFailed
from coterie.raft.journal import NAME, Journal
from tests.chaos.tools.disks import ThinExt4
from tests.raft.test_journal import ME, entry, rng, synced

def fresh():
    return Journal(RealDisk(ext4.mount_point), ME, rng())

def append(journal, size):
    journal.add(entry(1, size), journal.last_index + 1, 1)
    synced(journal)
    return RealDisk(ext4.mount_point).size(NAME)

ext4 = ThinExt4(Path(sys.argv[1]))
journal = fresh()
empty = append(journal, 0)
added = append(journal, 0) - empty
end = append(journal, 2 * 4096 - empty - 2 * added)
assert end == 2 * 4096, "a write over the end of a page would be cut short there, and be no failure"
journal._destroy()

ext4.starve()
journal = fresh()
if sys.argv[2] == "reserved":
    journal._file.reserve(1 << 20)
try:
    append(journal, 20_000)
except DiskFailed:
    pass
else:
    raise SystemExit("a disk without room took a write")
journal._destroy()

ext4.feed()
journal = fresh()
promised = journal.durable_index
append(journal, 100)
journal._destroy()
ext4.power_off()
ext4.unmount()
ext4.mount()
journal = fresh()
journal._destroy()
ext4.unmount()
assert (promised, journal.last_index) == (5, 6), (promised, journal.last_index)
"""


@pytest.mark.parametrize("room", ["reserved", "found when it is written"])
def test_an_ext4_that_could_not_write_for_a_while_keeps_what_is_promised(tmp_path: Path, room: str) -> None:
    if lacks := needs.missing(*needs.THIN_DISKS):
        pytest.skip(f"this machine lacks {lacks}")
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", _EXT4]
    done = subprocess.run(
        [*command, str(tmp_path), room], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
