"""Planted bugs of snapshots: made, cut behind, sent, installed, loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from coterie.raft import messages as m
from coterie.raft import snapshot as form
from coterie.raft.disk import Disk, DiskFile
from coterie.raft.errors import DamagedFile
from coterie.raft.journal import Base
from coterie.raft.member import Member
from coterie.raft.progress import Progress
from coterie.raft.seam import Node
from coterie.raft.snapshot import Meta, SnapshotStore
from coterie.raft.spool import Making
from tests.sim.raft.plant import Plant


def _cut_before_switch() -> type[Member]:
    class SyncObj(Member):
        """Cuts the log before the snapshot that replaces it has its name."""

        def _switch_and_cut(self, name: str, meta: Meta, base: Base) -> None:
            self._base_configuration = (meta.configuration_index, meta.configuration)
            rewrite = self._log.rewrite(base)

            def work() -> None:
                rewrite()
                self._store.switch(name)

            self._job("switch snapshot", work, lambda: self._store.adopt(meta), blocking=True)

    return SyncObj


def _snapshot_goes_back() -> type[Member]:
    class SyncObj(Member):
        """Installs whatever snapshot it is sent."""

        def _on_snapshot_chunk(self, node: Node, message: m.SnapshotChunk) -> None:
            commit, self.__raftCommitIndex = self.__raftCommitIndex, 0
            super()._on_snapshot_chunk(node, message)
            self.__raftCommitIndex = commit

        def _tick_install(self) -> None:
            commit, self.__raftCommitIndex = self.__raftCommitIndex, 0
            super()._tick_install()
            self.__raftCommitIndex = max(commit, self.__raftCommitIndex)

    return SyncObj


def _mixed_chunks() -> type[Member]:
    class SyncObj(Member):
        """Adds any chunk to what it has received so far, of whatever snapshot."""

        def _on_snapshot_chunk(self, node: Node, message: m.SnapshotChunk) -> None:
            if self._receiving is not None and message.offset:
                self._receiving.key = (str(node.id), message.term, message.index, message.size_bytes)
                self._receiving.size_bytes = message.size_bytes
            super()._on_snapshot_chunk(node, message)

    return SyncObj


def _cleared_journal() -> type[Member]:
    class SyncObj(Member):
        """At the start, a snapshot newer than the log's begin makes it forget the whole log."""

        def _load_snapshot(self) -> None:
            meta = self._store.current
            if meta is not None and meta.index > self._log.base.index:
                self._log._forget_from(1)
            super()._load_snapshot()

    return SyncObj


def _hasty_cut() -> type[Member]:
    class SyncObj(Member):
        """Cuts the log without waiting for whoever has still to read it."""

        def _make_slice(self, making: Making, goes_on: Callable[[], bool] | None = None) -> None:
            super()._make_slice(making, goes_on)
            self.cut_log(self.ready_to_cut)

    return SyncObj


def _flooder() -> type[Member]:
    class SyncObj(Member):
        """Sends a snapshot all at once."""

        def _send_snapshot(self, node: Node, progress: Progress) -> None:
            super()._send_snapshot(node, progress)
            sending = progress.snapshot
            while sending is not None and sending.offset < sending.size_bytes:
                self._send_chunk(node, progress, sending)

    return SyncObj


def _hoarder() -> type[Member]:
    class SyncObj(Member):
        """Never drops what a snapshot covers."""

        def _base_to_keep(self, index: int) -> Base:
            return self._log.base

    return SyncObj


def _open_store(store: SnapshotStore, disk: Disk, cluster_id: str) -> None:
    """A damaged snapshot is as good as none."""
    store._disk, store._cluster_id, store.current, store.size_bytes = disk, cluster_id, None, 0
    disk.remove(form.MAKING_NAME)
    disk.remove(form.RECEIVING_NAME)
    with suppress(DamagedFile):
        if disk.exists(form.NAME):
            store.adopt(store.check(form.NAME))


def _read_unchecked(file: DiskFile, path: str, start: int) -> Iterator[bytes]:
    """Looks at sizes only."""
    while True:
        size, _ = form._CHUNK.unpack(file.read_at(start, form._CHUNK.size))
        if size == form._END_MARK:
            return
        yield file.read_at(start + form._CHUNK.size, size)
        start += form._CHUNK.size + size


STORE = "coterie.raft.snapshot:SnapshotStore"
PLANTS: dict[str, Plant] = {
    "cut-before-switch": Plant(_cut_before_switch()),
    "cut-without-hook": Plant(
        _hasty_cut(), found_by="test_snapshots.py::test_the_log_is_cut_only_when_the_hook_has_agreed"
    ),
    "journal-cleared-by-snapshot": Plant(_cleared_journal()),
    "log-never-cut": Plant(
        _hoarder(), found_by="test_snapshots.py::test_a_snapshot_cuts_the_log_and_survives_a_restart"
    ),
    "mixed-chunks": Plant(
        _mixed_chunks(), found_by="test_snapshots.py::test_chunks_of_different_snapshots_do_not_mix"
    ),
    "no-flow-control": Plant(_flooder(), found_by="test_snapshots.py::test_the_transfer_keeps_its_window"),
    "snapshot-going-back": Plant(
        _snapshot_goes_back(), found_by="test_snapshots.py::test_an_older_snapshot_is_not_installed"
    ),
    "swallowed-damage": Plant(
        patches=((STORE, "__init__", _open_store),),
        found_by="test_damage.py::test_a_damaged_snapshot_is_refused_at_the_start",
    ),
    "unchecked-transfer": Plant(
        patches=(("coterie.raft.snapshot", "read_chunks", _read_unchecked),),
        found_by="test_snapshots.py::test_a_damaged_transfer_is_thrown_away",
    ),
}
