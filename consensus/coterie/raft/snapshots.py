"""Snapshots in the life of a member: made in slices, cut the log, come in chunks, are installed whole.

How they are sent: see `sending`."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from coterie.core.ports import Machine, Restoring
from coterie.raft import messages as m
from coterie.raft import sending
from coterie.raft import snapshot as form
from coterie.raft.disk import Disk
from coterie.raft.errors import DamagedFile, WrongDataDir
from coterie.raft.installing import Installing
from coterie.raft.jobs import nothing
from coterie.raft.journal import NAME as JOURNAL_NAME
from coterie.raft.journal import Base
from coterie.raft.keeping import large_part
from coterie.raft.messages import SnapshotStatus
from coterie.raft.seam import Node
from coterie.raft.snapshot import Meta, SnapshotStore
from coterie.raft.spool import Making, Receiving

logger = logging.getLogger("coterie.raft")
NO_ROOM_RETRY_S = 2.0
SLICE_S_MAX = 0.004  # of work on a large state without a turn for the event loop


class SyncObj(sending.SyncObj):
    """Adds snapshots. A snapshot never replaces a newer one, and never takes the state back."""

    _making: Making | None = None
    _receiving: Receiving | None = None
    _installing: Installing | None = None
    _tidying: Restoring | None = None
    _ready_to_cut = False
    _cut_wanted = False
    _make_again_at = -math.inf
    _needed_bytes = 0  # so many were not enough room for the snapshot that was tried last
    _no_room_until = -math.inf  # for a snapshot that is sent here
    _has_to_tell = False  # that chunks were not taken: else their sender waits for an answer for ever

    def __init__(self, machine: Machine, disk: Disk, store: SnapshotStore, *args: Any) -> None:
        self._machine, self._disk, self._store = machine, disk, store
        self._bytes_since_snapshot = 0
        self._snapshot_wanted = False
        super().__init__(*args)

    # --- at the start ---

    def _load_snapshot(self) -> None:
        meta, log = self._store.current, self._log
        if log.base.index > max(self._store.index, 1):
            raise DamagedFile(
                self._disk.path_of(form.NAME),
                0,
                f"the log begins at {log.base.index} and the snapshot that covers it is missing or older",
            )
        if meta is None:
            return
        if meta.term > log.getCurrentTerm():
            path = self._disk.path_of(JOURNAL_NAME)
            raise DamagedFile(
                path, 0, f"it is of an earlier time than the snapshot, which is of term {meta.term}"
            )
        if not (log.holds(meta.index) and log.term_at(meta.index) == meta.term):
            log.rewrite(Base(meta.index, meta.term, meta.at_ms))()
            log.tidy()
        self._restore(meta)

    def _restore(self, meta: Meta) -> None:
        self._restore_machine(self._store.image(), meta.index)
        self._restored(meta)

    def _restored(self, meta: Meta) -> None:
        """The machine is at a snapshot now."""
        self._base_configuration = (meta.configuration_index, meta.configuration)
        self._update_members()
        self.__raftLastApplied = meta.index
        self.__raftCommitIndex = max(self.__raftCommitIndex, meta.index)
        self._bytes_since_snapshot = 0

    def _restore_machine(self, image: Iterable[bytes], index: int) -> None:
        self._machine.restore(image, index)

    # --- making one ---

    def want_snapshot(self) -> None:
        """Make a snapshot at the next step, whatever the size of the log."""
        self._snapshot_wanted = self._asked = True

    def _maybe_make_snapshot(self) -> None:
        if self._making is not None or self._is_cutting:
            return
        index, last = self.__raftLastApplied, self._store.index or 1
        if not self._is_snapshot_due(index - last):
            return
        needed_bytes = max(self._store.size_bytes, self._needed_bytes)
        if self._now() < self._make_again_at or not self._has_space_for(needed_bytes):
            return
        self._snapshot_wanted = False
        if index <= last:
            return
        self._bytes_since_snapshot = 0
        configuration = self._configuration_at(index)
        meta = Meta(index, self._log.term_at(index), self._log.last_at_ms, *configuration)
        goes_on = self._for(SLICE_S_MAX)  # to freeze a large state may be work enough for this turn
        self._making = Making(self._disk, meta, self._options.cluster_id, self._machine.freeze())
        self._make_slice(self._making, goes_on)

    def _is_snapshot_due(self, entries: int) -> bool:
        """Entries alone, small ones, are no reason to write a large state again and again."""
        options, size = self._options, self._bytes_since_snapshot
        if self._snapshot_wanted or size >= options.snapshot_every_bytes:
            return True
        return entries >= options.snapshot_every_entries and size >= large_part(
            self._store.size_bytes, options
        )

    def _make_slice(self, making: Making, goes_on: Callable[[], bool] | None = None) -> None:
        if self._making is not making:
            # Another one may have the file's name by now.
            drop = making.spool.discard if self._making is None else making.spool.close
            self._job("drop snapshot", drop, nothing)
            return
        if making.spool.failed:
            self._making = None
            self._snapshot_wanted, self._make_again_at = True, self._now() + NO_ROOM_RETRY_S
            self._needed_bytes = making.size_bytes
            self._job("drop snapshot", making.spool.discard, nothing)
            return
        if making.complete:
            # The driver prepares what depends on the old entries, then calls cut_log.
            self._ready_to_cut, self._needed_bytes = True, 0
            return
        slice_bytes = self._options.snapshot_slice_bytes
        data = making.next_slice(slice_bytes, goes_on or self._for(SLICE_S_MAX))
        making.unsynced_bytes += len(data)
        sync = making.complete or making.unsynced_bytes >= slice_bytes
        if sync:
            making.unsynced_bytes = 0
        self._job("write snapshot", making.spool.append(data, sync=sync), partial(self._make_slice, making))

    def _for(self, seconds: float) -> Callable[[], bool]:
        """True until that time is over."""
        until = self._now() + seconds
        return lambda: self._now() <= until

    @property
    def ready_to_cut(self) -> int:
        """The index of a snapshot that is complete and waits for `cut_log`; 0: none."""
        return self._making.meta.index if self._making is not None and self._ready_to_cut else 0

    def cut_log(self, index: int) -> None:
        """Switch to the snapshot of `index` and drop the log behind it, at the next step."""
        if self.ready_to_cut == index:
            self._cut_wanted = True

    def _maybe_cut(self) -> None:
        if not self._cut_wanted:
            return
        making = self._making
        assert making is not None
        if making.meta.index <= self._store.index:
            self._drop_making()
            return
        self._let_go_of_making(making.spool.close)
        self._switch_and_cut(form.MAKING_NAME, making.meta, self._base_to_keep(making.meta.index))

    def _drop_making(self) -> None:
        """Nobody needs it any more. One that is being written is given back instead of its next slice."""
        if self._making is not None:
            self._let_go_of_making(self._making.spool.discard)

    def _let_go_of_making(self, work: Callable[[], None]) -> None:
        if self._ready_to_cut:
            self._job("close snapshot", work, nothing)
        self._making, self._ready_to_cut, self._cut_wanted = None, False, False

    # --- receiving one ---

    def _follow(self, node: Node, term: int) -> None:
        super()._follow(node, term)
        receiving = self._receiving
        if receiving is not None and receiving.is_over(term, self.__raftCommitIndex):
            self._drop_receiving()

    def _on_snapshot_chunk(self, node: Node, message: m.SnapshotChunk) -> None:
        if message.term < self.__raftCurrentTerm:
            self._answer_chunk(node, message, SnapshotStatus.RESTART, 0)
            return
        self._follow(node, message.term)
        if message.index <= self.__raftCommitIndex:
            self._drop_receiving()
            self._answer_chunk(node, message, SnapshotStatus.DONE, self.__raftCommitIndex)
            return
        if self._installing is not None and self._is_installed_already(node, message):
            return
        if self._now() < self._no_room_until:
            self._has_to_tell = True  # by the next answer to an append
            return
        key = (str(node.id), message.term, message.index, message.size_bytes)
        if message.offset == 0:
            self._drop_receiving()
            if not self._has_space_for(message.size_bytes):
                self._take_none_for_a_while()
                return
            self._receiving = Receiving(self._disk, key, message.size_bytes)
        receiving = self._receiving
        if receiving is None or receiving.key != key or receiving.offset != message.offset:
            if message.offset == 0 or receiving is not None:
                self._drop_receiving()
            self._answer_chunk(node, message, SnapshotStatus.RESTART, 0)
            return
        receiving.offset += len(message.data)
        last = receiving.offset == receiving.size_bytes
        stored = partial(self._chunk_stored, node, message, receiving, last)
        self._job("store chunk", receiving.spool.append(message.data, sync=last), stored)

    def _take_none_for_a_while(self) -> None:
        self._no_room_until, self._has_to_tell = self._now() + NO_ROOM_RETRY_S, True

    def _chunk_stored(self, node: Node, message: m.SnapshotChunk, receiving: Receiving, last: bool) -> None:
        if self._receiving is not receiving:
            return
        if receiving.spool.failed:
            self._receiving = None
            self._take_none_for_a_while()
            self._job("drop chunks", receiving.spool.discard, nothing)
            return
        if not last:
            self._answer_chunk(node, message, SnapshotStatus.MORE, receiving.offset)
            return
        checked: list[Meta] = []

        def check() -> None:
            receiving.spool.close()
            with contextlib.suppress(DamagedFile, WrongDataDir):
                checked.append(self._store.check(form.RECEIVING_NAME))

        self._job("check snapshot", check, lambda: self._install(node, message, receiving, checked))

    def _install(
        self, node: Node, message: m.SnapshotChunk, receiving: Receiving, checked: list[Meta]
    ) -> None:
        if self._receiving is not receiving:
            return
        self._receiving = None
        if not checked:
            logger.error("snapshot arrived damaged", extra={"peer": node.id, "index": message.index})
            self._job("drop chunks", receiving.spool.discard, nothing)
            self._answer_chunk(node, message, SnapshotStatus.DAMAGED, 0)
            return
        self._installing = Installing(
            self._machine, self._store, form.RECEIVING_NAME, checked[0], (node, message)
        )

    def _is_installed_already(self, node: Node, message: m.SnapshotChunk) -> bool:
        """The same snapshot comes again, after a broken link or from another leader: once is enough."""
        installing = self._installing
        assert installing is not None
        same = (installing.meta.index, installing.meta.term) == (message.index, message.index_term)
        if same and message.offset == 0:
            installing.asked = (node, message)
        return same

    def _tick_install(self) -> None:
        self._tidy()
        installing = self._installing
        if installing is None:
            return
        (node, message), meta = installing.asked, installing.meta
        if installing.failed:
            self._drop_installing()
            self._answer_chunk(node, message, SnapshotStatus.DAMAGED, 0)
        elif meta.index <= self.__raftCommitIndex:  # the log has caught up in the meantime
            self._drop_installing()
            self._answer_chunk(node, message, SnapshotStatus.DONE, self.__raftCommitIndex)
        elif installing.work(self._for(SLICE_S_MAX), self._options.snapshot_slice_bytes):
            self._job("close snapshot", installing.close, nothing)
            self._installing = None
            self._drop_making()
            self._adopt_snapshot(installing)
        elif not installing.is_ready and not installing.reading:
            installing.reading = True
            self._job("read snapshot", installing.read, lambda: setattr(installing, "reading", False))

    def _adopt_snapshot(self, installing: Installing) -> None:
        """The snapshot first, then the log: a crash in between leaves a log longer than needed."""
        meta = installing.meta
        self._drop_cut()
        rewrite = self._log.rewrite(Base(meta.index, meta.term, meta.at_ms))
        self._base_configuration = (meta.configuration_index, meta.configuration)

        def work() -> None:
            self._store.switch(form.RECEIVING_NAME)
            rewrite()

        def adopt() -> None:
            self._store.adopt(meta)
            installing.restoring.adopt(meta.index)
            self._tidying = installing.restoring
            self._restored(meta)
            self._answer_chunk(*installing.asked, SnapshotStatus.DONE, meta.index)

        self._replace_log(work, adopt)

    def _tidy(self) -> None:
        """The state that was replaced goes bit by bit too."""
        goes_on = self._for(SLICE_S_MAX)
        while self._tidying is not None and goes_on():
            if not self._tidying.tidy():
                self._tidying = None

    @property
    def _needs_rest(self) -> bool:
        """The journal's file is about to be replaced: all that is in memory must be in it first."""
        installs = self._installing is not None or self._tidying is not None
        return self._replaces_now or installs

    @property
    def _replaces_now(self) -> bool:
        """A step at rest has a job of a cut to begin."""
        return self._cut_wanted or self._copy_ends

    @property
    def _installs_now(self) -> bool:
        """A step has some of it to do."""
        return self._tidying is not None or (self._installing is not None and self._installing.is_ready)

    def _drop_installing(self) -> None:
        if self._installing is not None:
            self._job("close snapshot", self._installing.discard, nothing)
            self._installing = None

    def _drop_receiving(self) -> None:
        self._drop_installing()
        if self._receiving is not None:
            self._job("drop chunks", self._receiving.spool.discard, nothing)
            self._receiving = None

    def _answer_chunk(
        self, node: Node, message: m.SnapshotChunk, status: SnapshotStatus, offset: int
    ) -> None:
        self._post(
            node,
            m.SnapshotReply(
                self.__raftCurrentTerm, message.sequence, message.sent_at_us, message.index, offset, status
            ),
        )

    def _has_space_for(self, size_bytes: int) -> bool:
        raise NotImplementedError
