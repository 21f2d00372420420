"""The engine when disks, files and links fail it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from pathlib import Path

import pytest

from coterie.core.ports import Committed, NoQuorum, NotCommitted
from coterie.raft.disk import RealDisk, RealFile
from coterie.raft.engine import RaftEngine
from coterie.raft.errors import (
    BadFrame,
    DamagedFile,
    DiskFailed,
    FatalRaftError,
    NoSpace,
    TransferFailed,
    WrongDataDir,
)
from coterie.raft.jobs import Job, nothing
from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.room import Room
from coterie.raft.storing import WRITE_LOG
from tests.raft.inprocess import Cluster, ListMachine, running

TIMEOUT_S = 20.0


async def test_a_failed_fsync_stops_the_node_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path, 3)
    await cluster.start()
    try:
        victim = await cluster.leader()
        others = [node for node in cluster.ids if node != victim]
        whole_sync = RealFile.sync

        def sync(self: RealFile) -> None:
            if f"/{victim}/" in self._path:
                raise DiskFailed(f"fsync of {self._path} failed: planted")
            whole_sync(self)

        monkeypatch.setattr(RealFile, "sync", sync)
        engine = cluster.engines[victim]
        with pytest.raises(NotCommitted, match="stopped"):
            await engine.propose(b"never", TIMEOUT_S)
        assert isinstance(cluster.fatal[victim], DiskFailed)
        assert (engine.is_leader, engine.has_quorum, engine.leader) == (False, False, "")
        await cluster.until(lambda: cluster.engines[others[0]].leader in others, "another leader")
        committed = await cluster.engines[others[0]].propose(b"after", TIMEOUT_S)
        assert isinstance(committed, Committed)
        # The failed leader's entry may have reached the others: its outcome was unknown, and is decided now.
        assert cluster.machines[others[0]].entries in ([b"after"], [b"never", b"after"])
    finally:
        monkeypatch.undo()
        await cluster.stop()


async def test_deadlines_do_not_wait_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    engine = RaftEngine(Cluster(tmp_path, 1).options("n1"), ListMachine(), on_fatal=lambda error: None)
    await engine.start()
    try:
        await engine.propose(b"x", TIMEOUT_S)
        whole_sync = RealFile.sync

        def sync(self: RealFile) -> None:
            assert go_on.wait(TIMEOUT_S)
            whole_sync(self)

        monkeypatch.setattr(RealFile, "sync", sync)
        with pytest.raises(NotCommitted):
            await engine.propose(b"y", 0.05)  # starts the write that hangs
        with pytest.raises(NotCommitted):
            await engine.propose(b"z", 0.05)
        with contextlib.suppress(NoQuorum):  # what is committed may be read until the disk has hung too long
            assert await engine.read_barrier(0.05) > 0
        with pytest.raises(TransferFailed):
            await engine.transfer_leadership("", 0.05)
        go_on.set()
        # What nobody was told of may have been appended all the same.
        assert (await engine.propose(b"last", TIMEOUT_S)).result in (3, 4)
    finally:
        go_on.set()
        await engine.stop()


async def test_a_step_that_finds_the_disk_full_sets_the_timer_for_those_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was found full between the wish for a step and the step: deadlines were forgotten then."""
    go_on = threading.Event()
    engine = RaftEngine(Cluster(tmp_path, 1).options("n1"), ListMachine(), on_fatal=lambda error: None)
    await engine.start()
    try:
        await engine.propose(b"x", TIMEOUT_S)
        monkeypatch.setattr(RealFile, "sync", lambda file: go_on.wait(TIMEOUT_S))
        waiting = asyncio.create_task(engine.propose(b"y", 0.2))
        for _ in range(5):  # turns of the loop: the step that begins the write
            await asyncio.sleep(0)
        assert engine._member is not None
        assert engine._member._is_writing
        engine._member.job_waits(Job(WRITE_LOG, nothing, nothing, False))
        assert engine._timer is not None
        engine._timer.cancel()
        engine._timer = None  # it has fired, and asked for the step
        engine._step()
        with pytest.raises(NotCommitted):
            await waiting
    finally:
        go_on.set()
        await engine.stop()


async def test_a_disk_without_room_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fatal: list[FatalRaftError] = []
    engine = RaftEngine(Cluster(tmp_path, 1).options("n1"), ListMachine(), on_fatal=fatal.append)
    await engine.start()
    await engine.propose(b"x", TIMEOUT_S)
    journal = tmp_path / "n1" / JOURNAL
    size, whole_write = journal.stat().st_size, os.pwrite

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if offset == size:
            return whole_write(descriptor, data[:7], offset)  # a torn write, as full disks make them
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("coterie.raft.disk.os.pwrite", full)
        with pytest.raises(NotCommitted):
            await engine.propose(b"y", 0.1)
        assert (engine.room, engine.takes_new_work) == (Room.FULL, False)
        with pytest.raises(NoSpace):
            await engine.propose(b"z", TIMEOUT_S)
    assert journal.stat().st_size == size
    assert (await engine.propose(b"w", TIMEOUT_S, vital=True)).result == 3  # "y" was only late
    await engine.stop()
    again = RaftEngine(Cluster(tmp_path, 1).options("n1"), machine := ListMachine(), on_fatal=fatal.append)
    await again.start()
    await again.propose(b"v", TIMEOUT_S)
    assert (machine.entries, fatal) == ([b"x", b"y", b"w", b"v"], [])
    await again.stop()


async def test_a_write_error_stops_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fatal: list[FatalRaftError] = []
    engine = RaftEngine(Cluster(tmp_path, 1).options("n1"), ListMachine(), on_fatal=fatal.append)
    await engine.start()
    await engine.propose(b"x", TIMEOUT_S)

    def broken(descriptor: int, data: object, offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("coterie.raft.disk.os.pwrite", broken)
        with pytest.raises(NotCommitted):
            await engine.propose(b"y", TIMEOUT_S)
    assert "Input/output error" in str(fatal[0]) and JOURNAL in str(fatal[0])
    await engine.stop()


async def test_a_sync_that_fails_in_the_kernel_stops_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fatal: list[FatalRaftError] = []
    engine = RaftEngine(Cluster(tmp_path, 1).options("n1"), ListMachine(), on_fatal=fatal.append)
    await engine.start()
    await engine.propose(b"x", TIMEOUT_S)

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("coterie.raft.disk.os.fdatasync", broken)
        with pytest.raises(NotCommitted, match="stopped"):
            await engine.propose(b"y", TIMEOUT_S)
    assert isinstance(fatal[0], DiskFailed) and "fsync" in str(fatal[0])
    await engine.stop()


async def test_a_damaged_journal_is_refused_at_the_start(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        for number in range(5):
            await cluster.engines["n1"].propose(b"%d" % number, TIMEOUT_S)
        await cluster.stop("n1")
        path = tmp_path / "n1" / JOURNAL
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 16
        path.write_bytes(bytes(raw))
        with pytest.raises(DamagedFile, match="Remedy"):
            await cluster.start("n1")
        assert (await cluster.engines["n2"].propose(b"without it", TIMEOUT_S)).result == 6


async def test_a_directory_serves_one_engine(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        double = RaftEngine(cluster.options("n1"), ListMachine(), on_fatal=lambda error: None)
        with pytest.raises(WrongDataDir, match="in use"):
            await double.start()
    disk = RealDisk(tmp_path / "n1")  # it was given back
    disk.lock()
    disk.close()


async def test_an_engine_leaves_a_directory_held_that_was_held_before(tmp_path: Path) -> None:
    options = Cluster(tmp_path, 1).options("n1")
    disk, other = RealDisk(options.data_dir), RealDisk(options.data_dir)
    disk.lock()
    engine = RaftEngine(options, ListMachine(), on_fatal=lambda error: None, disk=disk)
    await engine.start()
    await engine.propose(b"x", TIMEOUT_S)
    await engine.stop()
    with pytest.raises(WrongDataDir, match="in use"):
        other.lock()
    disk.close()
    other.lock()
    other.close()


async def test_bad_frames_are_the_links_problem(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        engine = cluster.engines["n1"]
        for frame in (b"", b"\x80\x04\x95", b"x" * 100):
            with pytest.raises(BadFrame):
                engine.receive("n2", frame)
        with pytest.raises(BadFrame, match="n9"):
            engine.receive("n9", b"")
        await cluster.leader()
        with pytest.raises(BadFrame, match="n9"):
            engine.link_up("n9", lambda frame: None)
        with pytest.raises(BadFrame, match="n1"):
            engine.link_up("n1", lambda frame: None)
        assert (await engine.propose(b"x", TIMEOUT_S)).result == 1


async def test_a_newer_link_replaces_the_older_and_the_older_ones_end_is_ignored(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.leader()
        old_links = dict(cluster._links)
        cluster.connect("n1", "n2")
        cluster.engines["n1"].link_down("n2", old_links["n1", "n2"])
        cluster.engines["n2"].link_down("n1", old_links["n2", "n1"])
        assert cluster.engines["n1"]._links["n2"] is cluster._links["n1", "n2"]
        assert (await cluster.engines["n1"].propose(b"x", TIMEOUT_S)).result == 1
        await cluster.same_state()


async def test_a_link_whose_write_fails_is_dropped(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        other = next(node for node in cluster.ids if node != leader)

        def broken(frame: bytes) -> None:
            raise ConnectionError("gone")

        cluster.engines[leader].link_up(other, broken)
        assert (await cluster.engines[leader].propose(b"x", TIMEOUT_S)).result == 1
        cluster.disconnect(leader, other)
        cluster.connect(leader, other)
        await cluster.same_state()


async def test_a_start_that_fails_leaves_no_file_open(tmp_path: Path) -> None:
    options = Cluster(tmp_path, 1).options("n1")
    engine = RaftEngine(options, ListMachine(), on_fatal=lambda error: None)
    await engine.start()
    await engine.propose(b"x", TIMEOUT_S)
    await engine.stop()
    (options.data_dir / "raft.snapshot").write_bytes(b"damaged")
    before = len(os.listdir("/proc/self/fd"))
    broken = RaftEngine(options, ListMachine(), on_fatal=lambda error: None)
    with pytest.raises(DamagedFile) as raised:
        await broken.start()
    assert len(os.listdir("/proc/self/fd")) == before, raised.traceback[-1]
