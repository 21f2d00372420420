"""A node that may open no more files, for a while, goes on without new ones."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from coterie.core.ports import Committed
from coterie.raft import snapshot as form
from coterie.raft.disk import LOCK_NAME, RealDisk
from coterie.raft.engine import RaftEngine
from coterie.raft.errors import DiskFailed, DiskFull, FatalRaftError
from coterie.raft.installing import Installing
from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.journal import Journal
from coterie.raft.seam import Node
from coterie.raft.snapshot import Meta, SnapshotStore
from tests.raft.inprocess import Cluster, ListMachine
from tests.raft.test_journal import ME, rng

TIMEOUT_S = 20.0


class Descriptors:
    """While `gone`, nothing can be opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gone = False
        self._open = os.open
        monkeypatch.setattr(os, "open", self.open)

    def open(self, path: str | Path, flags: int, mode: int = 0o777) -> int:
        if self.gone:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return self._open(path, flags, mode)


@pytest.fixture
def descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Descriptors]:
    descriptors = Descriptors(monkeypatch)
    yield descriptors
    descriptors.gone = False


def test_a_directory_that_is_held_is_synced_without_a_new_descriptor(
    tmp_path: Path, descriptors: Descriptors
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    disk = RealDisk(tmp_path / "data")
    disk.lock()
    descriptors.gone = True
    disk.sync_dir()
    disk.close()
    with pytest.raises(DiskFailed, match="Too many open files"):
        disk.sync_dir()
    descriptors.gone = False
    disk.sync_dir()
    assert os.listdir(tmp_path / "data") == [LOCK_NAME]
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_missing_is_said_with_a_remedy(tmp_path: Path, descriptors: Descriptors) -> None:
    descriptors.gone = True
    with pytest.raises(DiskFull, match=f"opening {tmp_path}/x failed: .*Too many open files.*ulimit -n"):
        RealDisk(tmp_path).create("x")


class Alone:
    """A group of one, that can open nothing from its next cut on when `cut_breaks`."""

    def __init__(self, root: Path, descriptors: Descriptors) -> None:
        self.machine, self.fatal, self.cut_breaks = ListMachine(), list[FatalRaftError](), False
        self.options = Cluster(root, 1, snapshot_keep_entries=1).options("n1")
        self.engine = RaftEngine(
            self.options, self.machine, on_fatal=self.fatal.append, before_compaction=self.hook
        )
        self.descriptors = descriptors

    async def hook(self, index: int) -> None:
        self.descriptors.gone = self.cut_breaks

    @property
    def base(self) -> int:
        assert self.engine._member is not None
        return self.engine._member._log.base.index

    async def propose(self, count: int) -> None:
        for number in range(count):
            assert isinstance(await self.engine.propose(b"%d" % number, TIMEOUT_S), Committed)

    async def until_cut(self) -> None:
        before = self.base
        self.engine.request_snapshot()
        async with asyncio.timeout(TIMEOUT_S):
            while self.base == before:  # noqa: ASYNC110 - no bell rings at a cut
                await asyncio.sleep(0.01)


async def test_a_snapshot_waits_for_descriptors(
    tmp_path: Path,
    descriptors: Descriptors,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("coterie.raft.snapshots.NO_ROOM_RETRY_S", 0.05)
    alone = Alone(tmp_path, descriptors)
    await alone.engine.start()
    try:
        await alone.propose(5)
        descriptors.gone = True
        with caplog.at_level(logging.WARNING, logger="coterie.raft"):
            alone.engine.request_snapshot()
            async with asyncio.timeout(TIMEOUT_S):
                while not caplog.records:  # noqa: ASYNC110 - no bell rings at a warning
                    await asyncio.sleep(0.01)
        await alone.propose(5)
        assert (alone.fatal, alone.base) == ([], 1)
        assert "Too many open files" in str(caplog.records[0].__dict__["error"])
        descriptors.gone = False
        await alone.until_cut()
    finally:
        await alone.engine.stop()


async def test_a_log_is_not_cut_without_descriptors(tmp_path: Path, descriptors: Descriptors) -> None:
    alone = Alone(tmp_path, descriptors)
    await alone.engine.start()
    try:
        await alone.propose(5)
        size, alone.cut_breaks = (alone.options.data_dir / JOURNAL).stat().st_size, True
        await alone.until_cut()
        await alone.propose(5)
        assert alone.fatal == []
        assert (alone.options.data_dir / form.NAME).exists()
        assert (alone.options.data_dir / JOURNAL).stat().st_size > size, "it is the old file still"
        alone.cut_breaks = descriptors.gone = False
        await alone.until_cut()
    finally:
        await alone.engine.stop()
    again = RaftEngine(alone.options, ListMachine(), on_fatal=alone.fatal.append)
    await again.start()
    await again.stop()


def test_a_snapshot_that_cannot_be_opened_is_installed_later_and_whole(
    tmp_path: Path, descriptors: Descriptors
) -> None:
    disk, meta = RealDisk(tmp_path), Meta(7, 1, 0)
    file = disk.create(form.RECEIVING_NAME)
    file.append(form.header(meta, "blue") + form.chunk(0, b"all") + form.end(1, 3))
    store, machine = SnapshotStore.__new__(SnapshotStore), ListMachine()
    store._disk, store._cluster_id = disk, "blue"
    installing = Installing(machine, store, form.RECEIVING_NAME, meta, (Node("n2"), None))  # type: ignore[arg-type]
    descriptors.gone = True
    with pytest.raises(DiskFull):
        installing.read()
    descriptors.gone = False
    installing.read()
    while not installing.work(lambda: True, 1 << 20):
        installing.read()
    installing.restoring.adopt(7)
    assert machine.entries == [b"all"]
    disk.close()


def test_a_start_without_descriptors_says_so(tmp_path: Path, descriptors: Descriptors) -> None:
    disk = RealDisk(tmp_path)
    disk.lock()
    Journal(disk, ME, rng())._destroy()
    descriptors.gone = True
    with pytest.raises((DiskFailed, DiskFull), match="Too many open files"):
        Journal(disk, ME, rng())
    disk.close()
