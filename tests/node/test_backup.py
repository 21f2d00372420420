"""Backups without a network: made, written, damaged in every place, restored."""

from __future__ import annotations

import asyncio
import io
import json
import random
import tarfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from coterie.client.backup import _Writer
from coterie.client.errors import DataLoss, InvalidRequest
from coterie.core.nouns import Data, Event, TaskId, TaskState, evolve
from coterie.node.backup import restoring
from coterie.node.backup.archive import _require_end, open_archive
from coterie.node.backup.making import BackupParts, Backups, Frozen
from coterie.node.backup.manifest import HISTORY, STATE, BadBackup, read_manifest
from coterie.node.backup.restoring import Plan, RestoreRefused, check_contents, restore
from coterie.node.blob_exchange import BlobExchange
from coterie.node.blobs import BlobStore
from coterie.node.clock import Clock
from coterie.node.errors import ApiError
from coterie.node.ledger import Ledger, LedgerOptions
from coterie.node.ledger.feed import feed, pages
from coterie.node.links import PeerChannels
from coterie.raft.disk import RealDisk
from coterie.raft.replica import Replica
from coterie.raft.snapshot import SnapshotStore
from tests.core.builders import submit_command
from tests.node.fakes import QuietNode

FOUNDERS = {"a": "10.0.0.1:1", "b": "10.0.0.2:1", "c": "10.0.0.3:1"}
LARGE = 3 << 20


class Made:
    """A node with tasks of every kind and its backups."""

    def __init__(self, folder: Path, node: QuietNode, store: BlobStore) -> None:
        self.folder, self.node, self.store = folder, node, store
        exchange = BlobExchange(store, PeerChannels("n1", {}, None), 100)
        proposer: Any = None
        self.exchange = exchange
        self.backups = Backups(
            BackupParts(
                "n1", lambda: self.frozen(), self.barrier, proposer, node.ledger, exchange, store.has, Clock()
            )
        )

    def frozen(self) -> Frozen:
        return Frozen(self.node.core.index, 3, self.node.state().copy())

    async def barrier(self, timeout_s: float) -> int:
        return 0

    async def file(self, name: str = "backup.tar", history: bool = True) -> Path:
        path = self.folder / name
        writer = _Writer(path, path.with_suffix(".partial"))
        try:
            async for piece in self.backups.make(history, 5.0):
                writer.add(piece)
            return writer.finish().path
        finally:
            writer.close()


class Small:
    """Ledgers with those limits."""

    def __init__(self, options: LedgerOptions) -> None:
        self._options = options

    async def open(self, path: Path) -> Ledger:
        return await Ledger.open(path, self._options)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Made]:
    node = await QuietNode.open(tmp_path)
    store = await BlobStore.open(tmp_path / "blobs")
    made = Made(tmp_path, node, store)
    core = node.core
    core.state.meta = evolve(core.state.meta, cluster_id="old-id", cluster_name="prod", seal=b"secret seal")
    leaf = await store.put_bytes(random.Random(1).randbytes(LARGE))
    outer = await store.put_bytes(b'{"parts": ["%s"]}' % leaf.encode())
    node.do(submit_command("large", payload=Data(sha256=outer, size_bytes=100), request_id="r-large"))
    core.running("runs")
    core.running("done")
    node.finish("done")
    await store.put_bytes(b"nobody refers to this")
    try:
        yield made
    finally:
        await node.ledger.close()
        await store.close()


def restored_state(directory: Path, cluster: str) -> Replica:
    disk = RealDisk(directory / "raft")
    replica = Replica(lambda index, events: None, lambda index: None)
    replica.restore(SnapshotStore(disk, cluster).image(), 0)
    return replica


async def test_a_backup_has_the_state_the_history_and_the_blobs_that_are_used(made: Made) -> None:
    path = await made.file()
    archive = await asyncio.to_thread(open_archive, path)
    state = await asyncio.to_thread(check_contents, archive)
    assert set(state.tasks) == {"large", "runs"}
    assert set(state.finished) == {"done"}
    assert len(archive.names("blobs/")) == 2  # the second is named by the first alone
    assert archive.manifest.absent == []
    assert archive.manifest.history_through == archive.head.index
    assert (archive.head.cluster_id, archive.head.term) == ("old-id", 3)
    assert b"secret seal" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as listed:  # any tar reads it
        assert listed.getnames()[0] == "backup.json"


async def test_restored_directories_hold_it_all_under_another_name(made: Made) -> None:
    archive = await asyncio.to_thread(open_archive, await made.file())
    plan = Plan(made.folder / "new", "prod-2", FOUNDERS)
    found = await asyncio.to_thread(restore, archive, plan)
    assert (found.tasks, found.blobs, sorted(found.directories)) == (2, 2, ["a", "b", "c"])
    for home in found.directories.values():
        state = restored_state(home, "prod-2").state
        assert {task.state for task in state.tasks.values()} == {TaskState.PENDING}
        assert state.meta.cluster_id == found.cluster_id != "old-id"
        assert state.requests["default/r-large"].task_id == "large"
        ledger = await Ledger.open(home / "ledger.db")
        store = await BlobStore.open(home / "blobs")
        try:
            assert (ledger.gaps, ledger.flushed_index) == ((), archive.head.index)
            done = await ledger.task("done")
            assert done is not None
            events = await ledger.events("runs", 0, 10)
            assert len(await store.get(state.tasks[TaskId("large")].payload.sha256)) > 64
            assert len(events) == state.tasks[TaskId("runs")].sequence - 3  # begun where no ledger listened
        finally:
            await ledger.close()
            await store.close()


async def test_without_history_nobody_waits_for_it(made: Made) -> None:
    """No node of the new cluster has it: a gap would keep what lies behind it from nodes that join, and make
    reads wait for a peer that is down."""
    archive = await asyncio.to_thread(open_archive, await made.file(history=False))
    assert archive.names(HISTORY) == []
    found = await asyncio.to_thread(restore, archive, Plan(made.folder / "new", "prod-2", {"a": "h:1"}))
    ledger = await Ledger.open(found.directories["a"] / "ledger.db")
    try:
        assert ledger.gaps == () and await ledger.task("done") is None
        index = archive.head.index + 1
        event = Event("succeeded", evolve(made.node.core.task("done"), task_id=TaskId("later")), index, 1)
        feed(ledger, index, [event])
        await ledger.flush(index)
        given = [rows async for rows in pages(ledger, 0, index)]
        assert [len(rows.tasks) for rows in given] == [1] and given[-1].through_index == index
    finally:
        await ledger.close()


async def test_the_history_behind_a_gap_is_there_and_the_gap_is_told(made: Made) -> None:
    core, node = made.node.core, made.node
    before = core.index
    node.do(submit_command("missed"), seen=False)
    node.restore()  # a snapshot, as for a node that was away; nobody else has what it missed, either
    node.finish("runs")
    path = await made.file()
    archive = await asyncio.to_thread(open_archive, path)
    assert archive.manifest.history_gaps == [(before, before + 1)]
    assert archive.manifest.history_through == before
    plan = Plan(made.folder / "new", "prod-2", {"a": "h:1"})
    found = await asyncio.to_thread(restore, archive, plan)
    ledger = await Ledger.open(found.directories["a"] / "ledger.db")
    try:
        for name in ("done", "runs"):
            assert await ledger.task(name) is not None, f"{name} is lost"
        assert ledger.gaps == ()
    finally:
        await ledger.close()


async def test_a_backup_whose_gap_was_not_noted_had_no_history_behind_it(made: Made) -> None:
    archive = await asyncio.to_thread(open_archive, await made.file())
    old = json.loads(archive.manifest.encode())
    assert old.pop("history_gaps") == []
    assert read_manifest(json.dumps(old).encode(), "m").history_gaps == []
    old["history_through"] = 2
    assert read_manifest(json.dumps(old).encode(), "m").history_gaps == [(2, archive.head.index)]


async def test_what_ended_after_the_index_is_not_in_the_new_history(made: Made) -> None:
    """The ledger goes on while it is copied."""
    frozen = made.frozen()
    made.frozen = lambda: frozen  # type: ignore[method-assign]
    made.node.finish("runs")
    archive = await asyncio.to_thread(open_archive, await made.file())
    found = await asyncio.to_thread(restore, archive, Plan(made.folder / "new", "prod-2", {"a": "h:1"}))
    ledger = await Ledger.open(found.directories["a"] / "ledger.db")
    try:
        assert await ledger.task("runs") is None
        assert await ledger.task("done") is not None
    finally:
        await ledger.close()


async def test_many_live_tasks_lose_nothing_of_their_history(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them has an event more in the new cluster, faster than a disk takes them."""
    for number in range(60):
        made.node.do(submit_command(f"live{number}"))
    file = await made.file()
    options = LedgerOptions(backlog_rows_max=20)
    monkeypatch.setattr(restoring, "EVENTS_AT_ONCE", 7)
    monkeypatch.setattr(restoring, "Ledger", Small(options))
    archive = await asyncio.to_thread(open_archive, file)
    await asyncio.to_thread(restore, archive, Plan(made.folder / "new", "prod-2", FOUNDERS))
    ledger = await Ledger.open(made.folder / "new" / "a" / "ledger.db")
    try:
        for number in range(60):
            events = await ledger.events(f"live{number}", 0, 10)
            assert len(events) == 2, f"live{number} has lost some"
    finally:
        await ledger.close()


async def test_a_restore_that_would_lose_history_fails(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = await asyncio.to_thread(open_archive, await made.file())
    monkeypatch.setattr(Ledger, "rows_lost", 1)
    with pytest.raises(RestoreRefused, match="1 rows"):
        await asyncio.to_thread(restore, archive, Plan(made.folder / "new", "prod-2", FOUNDERS))
    assert not (made.folder / "new").exists()


async def test_two_at_a_time_are_refused(made: Made) -> None:
    first = made.backups.make(True, 5.0)
    await anext(first)
    with pytest.raises(ApiError, match="already"):
        await anext(made.backups.make(True, 5.0))
    await first.aclose()
    await made.file()


async def test_a_lost_blob_is_told_and_does_not_stop_the_backup(made: Made) -> None:
    lost = "ab" * 32
    made.node.do(submit_command("hopeless", payload=Data(sha256=lost, size_bytes=9)))
    archive = await asyncio.to_thread(open_archive, await made.file())
    assert archive.manifest.absent == [lost]
    await asyncio.to_thread(check_contents, archive)


async def test_damage_anywhere_is_found_and_its_place_is_named(made: Made, tmp_path: Path) -> None:
    """A bit in any kilobyte; so is a file that was cut anywhere."""
    whole = (await made.file()).read_bytes()
    bad = tmp_path / "bad.tar"
    dice = random.Random(7)
    spans = [(at, min(at + 1024, len(whole))) for at in range(0, len(whole), 1024)]
    for low, high in [*spans[:12], *dice.sample(spans, 25), *spans[-12:]]:
        at = dice.randrange(low, high)
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :])
        with pytest.raises(BadBackup, match=r"bad\.tar.*(byte|bytes) \d+"):
            await asyncio.to_thread(open_archive, bad)
    for size in [0, 1, 600, *(dice.randrange(len(whole)) for _ in range(10)), len(whole) - 1]:
        bad.write_bytes(whole[:size])
        with pytest.raises(BadBackup, match=r"bad\.tar"):
            await asyncio.to_thread(open_archive, bad)


class Counted(io.BytesIO):
    """Says how much was asked for at most; -1: all there is."""

    asked: ClassVar[list[int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        self.asked.append(-1 if size is None else size)
        return super().read(size)


def test_of_what_follows_the_end_little_is_read() -> None:
    with pytest.raises(BadBackup, match="damaged at byte 0: the end mark"):
        _require_end(Counted(bytes(5_000)), Path("disk.img"), 0)
    assert len(Counted.asked) == 1 and 0 < Counted.asked[0] < 5_000


async def test_a_missing_blob_and_a_newer_format_are_told(made: Made, tmp_path: Path) -> None:
    path = await made.file()
    archive = await asyncio.to_thread(open_archive, path)
    without = type(archive)(
        path, archive.manifest, tuple(one for one in archive.places if not one.name.startswith("blobs/"))
    )
    with pytest.raises(BadBackup, match=r"state/00000000 refers to blob [0-9a-f]{64}, which is missing"):
        await asyncio.to_thread(check_contents, without)
    head = archive.head.encode().replace(b'"format": 1', b'"format": 9')
    newer = tmp_path / "newer.tar"
    info = tarfile.TarInfo("backup.json")
    info.size = len(head)
    newer.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + head + bytes(-len(head) % 512) + bytes(1024))
    with pytest.raises(BadBackup, match="format 9 of a backup, this version reads format 1"):
        await asyncio.to_thread(open_archive, newer)


async def test_nothing_is_overwritten_and_nothing_is_left_behind(made: Made) -> None:
    archive = await asyncio.to_thread(open_archive, await made.file())
    there = made.folder / "there"
    there.mkdir()
    (there / "mine").write_text("x")
    with pytest.raises(RestoreRefused, match="not an empty directory"):
        await asyncio.to_thread(restore, archive, Plan(there, "prod-2", FOUNDERS))
    with pytest.raises(RestoreRefused, match="'prod' is the name of the cluster that was backed up"):
        await asyncio.to_thread(restore, archive, Plan(made.folder / "new", "prod", FOUNDERS))
    state = archive.path.read_bytes()
    at = next(place.offset for place in archive.places if place.name.startswith(STATE))
    archive.path.write_bytes(state[:at] + b"\xff" * 8 + state[at + 8 :])
    with pytest.raises(BadBackup, match="is no part of a state"):
        await asyncio.to_thread(restore, archive, Plan(made.folder / "new", "prod-2", FOUNDERS))
    assert not [path for path in made.folder.iterdir() if path.name.startswith("new")]


async def test_a_file_is_whole_or_not_there(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "cut.tar"
    writer = _Writer(path, tmp_path / "cut.partial")
    with pytest.raises(DataLoss, match=r"before manifest\.sha256"):
        async with aclosing(made.backups.make(True, 5.0)) as pieces:
            async for piece in pieces:
                writer.add(piece)
                if piece.name.startswith(STATE):
                    writer.finish()
    writer.close()
    assert not list(tmp_path.glob("cut*"))  # noqa: ASYNC240
    await made.file("twice.tar")
    with pytest.raises(InvalidRequest, match="is there already"):
        await made.file("twice.tar")
