"""The journal: what was synced is found again, what was torn is cut off, what is damaged is refused."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from coterie.raft import journal_format as form
from coterie.raft.disk import RealDisk
from coterie.raft.entry import HEADER_BYTES, seal
from coterie.raft.errors import DamagedFile, DiskFailed, UnknownFormat, WrongDataDir
from coterie.raft.journal import MARK_NAME, NAME, NEW_NAME, Base, Journal
from coterie.raft.journal_format import Identity
from tests.sim.raft.disk import Died, SimDisk

ME = Identity("blue", "n1")


def rng() -> random.Random:
    return random.Random(7)


def entry(number: int, size: int = 5) -> bytes:
    return seal(1_000 + number, number.to_bytes(16, "big"), bytes([number % 256]) * size)


def synced(journal: Journal) -> None:
    journal.write(journal.take_block())


def filled(disk: SimDisk, count: int) -> Journal:
    """One entry per block, each synced."""
    journal = Journal(disk, ME, rng())
    for number in range(2, count + 2):
        journal.add(entry(number), number, 1)
        synced(journal)
    return journal


def copy_of(disk: SimDisk, data: bytes) -> SimDisk:
    other = SimDisk(random.Random(1))
    file = other.create(NAME)
    file.append(data)
    file.sync()
    other.sync_dir()
    return other


def test_a_header_of_zeros_is_damage() -> None:
    """A sector that never reached the disk reads as zeros, and so does the checksum of nothing."""
    disk = SimDisk(rng())
    filled(disk, 3)
    raw = bytearray(disk.read(NAME))
    raw[12:20] = bytes(8)
    with pytest.raises(DamagedFile, match="header's checksum"):
        Journal(copy_of(disk, bytes(raw)), ME, rng())


def test_entries_terms_and_votes_are_found_again() -> None:
    disk = SimDisk(rng())
    journal = filled(disk, 3)
    journal.setCurrentTerm(4, "n2")
    journal.deleteEntriesFrom(3)
    journal.add(entry(9), 4, 4)
    synced(journal)
    again = Journal(disk, ME, rng())
    assert again[:] == journal[:]
    assert [item[1:] for item in again[:]] == [(1, 0), (2, 1), (3, 1), (4, 4)]
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (4, "n2")
    assert again.last_at_ms == 1_009


def test_what_was_not_synced_is_not_there_after_power_loss() -> None:
    for seed in range(40):
        disk = SimDisk(random.Random(seed))
        journal = filled(disk, 3)
        for number in range(5, 9):
            journal.add(entry(number, 700), number, 1)
        journal._file.append(journal.take_block())
        disk.lose_power()
        assert Journal(disk, ME, rng()).last_index in (4, 8)  # a block is there as a whole, or not at all


def test_a_torn_tail_is_cut_off_at_every_length() -> None:
    disk = SimDisk(rng())
    filled(disk, 3)
    before = disk.size(NAME)
    whole = disk.read(NAME)
    journal = Journal(disk, ME, rng())
    journal.add(entry(5), 5, 1)
    journal.setCurrentTerm(2, "n3")
    synced(journal)
    full = disk.read(NAME)
    assert full[:before] == whole
    for length in range(before, len(full)):
        torn = copy_of(disk, full[:length])
        again = Journal(torn, ME, rng())
        assert (again.last_index, again.getCurrentTerm()) == (4, 0)
        again.add(entry(6), 5, 3)
        synced(again)
        assert Journal(torn, ME, rng())[-1] == (entry(6), 5, 3)


@pytest.mark.parametrize("garbage", [b"\0" * 300, b"\xff" * 300, form.MARKER * 50, bytes(range(256))])
def test_garbage_behind_the_end_is_cut_off(garbage: bytes) -> None:
    disk = SimDisk(rng())
    filled(disk, 2)
    again = copy_of(disk, disk.read(NAME) + garbage)
    assert Journal(again, ME, rng()).last_index == 3
    assert again.read(NAME) == disk.read(NAME)


def test_a_flipped_bit_before_the_last_block_is_refused_with_file_and_place() -> None:
    disk = SimDisk(rng())
    filled(disk, 3)
    raw = disk.read(NAME)
    last_block = raw.rindex(form.MARKER)
    for position in range(last_block):
        damaged = copy_of(disk, raw)
        damaged.flip_bit(NAME, position, position % 8)
        with pytest.raises((DamagedFile, UnknownFormat)) as caught:
            Journal(damaged, ME, rng())
        assert NAME in str(caught.value)
        assert "at byte" in str(caught.value)
        assert "Remedy" in str(caught.value)
        assert "coterie node resync" in str(caught.value)
        if isinstance(caught.value, DamagedFile):
            assert caught.value.offset <= position


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (form.entry_record(entry(9), 9, 1), "entry 9 follows entry 3"),
        (form.truncate_record(7), "a cut at 7 is outside the log"),
    ],
)
def test_a_record_that_cannot_follow_is_damage_at_its_block(record: bytes, problem: str) -> None:
    disk = SimDisk(rng())
    filled(disk, 2)
    raw = disk.read(NAME)
    _, salt, _ = form.read_header(raw, NAME, ME)
    bad = copy_of(disk, raw + form.block([record], salt, len(raw)))
    with pytest.raises(DamagedFile, match=problem) as caught:
        Journal(bad, ME, rng())
    assert caught.value.offset == len(raw)


def test_a_journal_inside_an_entry_is_no_block_of_this_one() -> None:
    """A task may carry anything, also a copy of this very file, and its write may be torn."""
    disk = SimDisk(rng())
    journal = filled(disk, 2)
    journal.add(seal(1, bytes(16), disk.read(NAME) * 3), 4, 1)
    synced(journal)
    raw = disk.read(NAME)
    torn = copy_of(disk, raw[:-4])
    assert Journal(torn, ME, rng()).last_index == 3


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (Identity("red", "n1"), ["cluster 'blue'", "'red'"]),
        (Identity("blue", "n2"), ["node 'n1'", "node 'n2'"]),
    ],
)
def test_the_data_of_others_is_refused(identity: Identity, words: list[str]) -> None:
    disk = SimDisk(rng())
    filled(disk, 1)
    with pytest.raises(WrongDataDir, match="Remedy") as caught:
        Journal(disk, identity, rng())
    assert all(word in str(caught.value) for word in words)


def test_a_newer_format_is_refused() -> None:
    disk = SimDisk(rng())
    filled(disk, 1)
    raw = bytearray(disk.read(NAME))
    raw[8] = form.FORMAT + 1
    with pytest.raises(WrongDataDir, match=f"format {form.FORMAT + 1}"):
        Journal(copy_of(disk, bytes(raw)), ME, rng())


@pytest.mark.parametrize("size", [0, 3, 19, 30])
def test_a_headless_file_is_refused(size: int) -> None:
    disk = SimDisk(rng())
    filled(disk, 1)
    with pytest.raises(DamagedFile):
        Journal(copy_of(disk, disk.read(NAME)[:size]), ME, rng())


@pytest.mark.parametrize("base", [2, 4, 6])
def test_a_rewrite_keeps_what_follows_the_base(base: int) -> None:
    disk = SimDisk(rng())
    journal = filled(disk, 5)
    journal.setCurrentTerm(3, None)
    journal.rewrite(Base(base, 1, 1_000 + base))()
    again = Journal(disk, ME, rng())
    assert again[:] == journal[:]
    assert [item[1] for item in again[:]] == list(range(base, 7))
    assert again.getCurrentTerm() == 3
    again.add(entry(7), 7, 3)
    synced(again)
    assert Journal(disk, ME, rng()).last_index == 7


@pytest.mark.parametrize("base", [Base(9, 2, 50), Base(4, 2, 50)])
def test_a_rewrite_to_a_base_the_log_does_not_pass_keeps_nothing(base: Base) -> None:
    disk = SimDisk(rng())
    journal = filled(disk, 5)
    journal.rewrite(base)()
    assert [item[1:] for item in Journal(disk, ME, rng())[:]] == [(base.index, base.term)]


def test_a_rewrite_that_dies_at_any_step_leaves_the_old_log_or_the_new_one() -> None:
    for fuse in range(12):
        for power in (False, True):
            disk = SimDisk(random.Random(fuse))
            journal = filled(disk, 5)
            work = journal.rewrite(Base(4, 1, 0))
            disk.fuse = fuse
            try:
                work()
            except Died:
                pass
            else:
                assert fuse >= 5
            if power:
                disk.lose_power()
            else:
                disk.kill()
            again = Journal(disk, ME, rng())
            assert again.base.index in (1, 4)
            assert again.last_index == 6
            assert not disk.exists(NEW_NAME)


def test_sizes_are_known_without_looking_at_the_entries() -> None:
    journal = filled(SimDisk(rng()), 4)
    each = HEADER_BYTES + 5
    assert journal.bytes_between(2, 4) == 2 * each
    assert journal.bytes_between(0, 5) == 4 * each
    assert journal.index_with_bytes_behind(5, 2 * each) == 3
    assert journal.index_with_bytes_behind(5, 2 * each - 1) == 4
    assert journal.index_with_bytes_behind(5, 10**9) == 1


def test_a_directory_serves_one_process(tmp_path: Path) -> None:
    first, second = RealDisk(tmp_path / "data"), RealDisk(tmp_path / "data")
    first.lock()
    with pytest.raises(WrongDataDir, match="in use"):
        second.lock()
    first.close()
    second.lock()
    second.close()


def test_a_directory_is_held_until_it_was_let_go_as_often_as_taken(tmp_path: Path) -> None:
    first, second = RealDisk(tmp_path / "data"), RealDisk(tmp_path / "data")
    first.lock()
    first.lock()
    first.close()
    with pytest.raises(WrongDataDir, match="in use"):
        second.lock()
    first.close()
    second.lock()
    second.close()
    second.close()
    first.lock()
    first.close()


def test_a_disk_that_cannot_be_read_is_said_to_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).mkdir()
    disk = RealDisk(tmp_path)
    with pytest.raises(DiskFailed, match=f"reading {tmp_path / NAME} failed.*coterie node resync"):
        disk.read(NAME)
    file = disk.create("bad")

    def bad_sector(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", bad_sector)
        with pytest.raises(DiskFailed, match=rf"reading {tmp_path}/bad failed: .*Remedy: .*resync"):
            file.read_at(0, 1)
    with pytest.raises(DiskFailed, match=f"removing {tmp_path / NAME} failed"):
        disk.remove(NAME)
    with pytest.raises(DiskFailed, match=r"looking at .*missing failed"):
        disk.size("missing")


def test_the_same_on_a_real_disk(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "data")
    disk.lock()
    journal = Journal(disk, ME, rng())
    for number in range(2, 6):
        journal.add(entry(number), number, 1)
        synced(journal)
    journal._destroy()
    path = tmp_path / "data" / NAME
    path.write_bytes(path.read_bytes() + b"torn")
    again = Journal(disk, ME, rng())
    assert again.last_index == 5
    again._destroy()
    raw = bytearray(path.read_bytes())
    raw[raw.index(form.MARKER) + 14] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(DamagedFile, match=str(path)):
        Journal(disk, ME, rng())
    disk.close()


def test_damage_to_the_last_block_is_no_torn_write_once_it_was_synced() -> None:
    for position in range(-60, 0):
        disk = SimDisk(random.Random(3))
        journal = Journal(disk, ME, rng())
        for number in range(2, 6):
            journal.add(entry(number), number, 1)
            synced(journal)
        disk.kill()
        raw = disk.read(NAME)
        disk.flip_bit(NAME, len(raw) + position, 3)
        with pytest.raises(DamagedFile, match="had been synced"):
            Journal(disk, ME, rng())


def test_a_journal_that_became_shorter_is_damaged() -> None:
    disk = SimDisk(random.Random(3))
    journal = Journal(disk, ME, rng())
    starts = []
    for number in range(2, 6):
        starts.append(disk.size(NAME))
        journal.add(entry(number), number, 1)
        synced(journal)
    disk.kill()
    disk.truncate(NAME, starts[-1])  # a whole block less: nothing looks broken
    with pytest.raises(DamagedFile, match="had been synced"):
        Journal(disk, ME, rng())


def test_a_mark_that_is_old_damaged_or_of_another_file_says_nothing() -> None:
    disk = SimDisk(random.Random(3))
    journal = Journal(disk, ME, rng())
    journal.add(entry(2), 2, 1)
    synced(journal)
    old = disk.read(MARK_NAME)
    journal.rewrite(journal.base)()
    journal.add(entry(3), 3, 1)
    block = journal.take_block()
    journal._file.append(block[:-1])  # torn, and never synced
    for mark in (old, disk.read(MARK_NAME), b"", bytes(len(old))):
        again = copy_of(disk, disk.read(NAME))
        again.create(MARK_NAME).append(mark)
        assert Journal(again, ME, rng()).last_index == 2


def test_a_rewrite_without_room_gives_its_blocks_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk(tmp_path)
    disk.lock()
    journal = Journal(disk, ME, rng())
    before = len(os.listdir("/proc/self/fd"))

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        journal.rewrite(Base(1, 0, 0))()
    assert not disk.exists(NEW_NAME)
    assert len(os.listdir("/proc/self/fd")) == before, "the removed file is still open and takes room"
    journal._destroy()
    disk.close()


def test_what_a_cut_drops_is_freed_by_jobs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """To give back 100 MB in one go is a pause, so that is done off the loop, and bit by bit."""
    monkeypatch.setattr("coterie.raft.journal.FREE_ENTRIES", 400)
    journal = filled(SimDisk(rng()), 1_000)
    entries = journal._log
    work = journal.rewrite(Base(900, 1, 1_900))
    assert len(entries) == 1_001
    assert len(journal) == 102
    work()
    assert len(entries) == 1_001
    pieces = 1
    while journal.tidy():
        pieces += 1
    assert (entries, pieces) == ([], 4)
    assert journal[1:] == [(entry(number), number, 1) for number in range(901, 1_002)]
