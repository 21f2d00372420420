"""Cutting the log behind a snapshot, beside the work of the log.

First the snapshot takes its name: a crash from now on leaves a log that is longer than needed. Then the part
of the log that stays is copied to a new file, slice by slice, each one a job between the writes of the log.
When no more than a slice is left, or than came during one, the member comes to rest (writing.py), and one
last job writes that and gives the new file the journal's name. What was cut off is given back in pieces."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from coterie.raft import replication
from coterie.raft.jobs import nothing
from coterie.raft.journal import Base
from coterie.raft.journal_next import NextFile
from coterie.raft.keeping import base_to_keep
from coterie.raft.snapshot import Meta, SnapshotStore

logger = logging.getLogger("coterie.raft")
SHARE = 4


class SyncObj(replication.SyncObj):
    """Adds the cut: at most one is under way."""

    _store: SnapshotStore
    _copy_ends = False  # the last job of a cut is due

    def _switch_and_cut(self, name: str, meta: Meta, base: Base) -> None:
        """Make that snapshot the current one, then let the log begin behind `base`."""

        def switched() -> None:
            self._store.adopt(meta)
            self._log.begin_copy(base)
            self._go_on_copying(self._log.next_file, self._log.uncopied_bytes)

        self._base_configuration = (meta.configuration_index, meta.configuration)
        self._job("switch snapshot", partial(self._store.switch, name), switched, blocking=True)

    def _go_on_copying(self, next_file: NextFile | None, left: int) -> None:
        """left: bytes of the log that were not copied when the last slice was taken."""
        if next_file is None or self._log.next_file is not next_file:
            return  # dropped: a snapshot from elsewhere takes the place of it all
        # Smaller than those of a snapshot: writes of the log wait for them.
        size, uncopied = self._options.snapshot_slice_bytes // SHARE, self._log.uncopied_bytes
        if next_file.failed or not left or uncopied <= size:
            self._copy_ends = True
            return
        # Twice what has come since the last slice: so the copy is quicker than whatever is appended.
        work = self._log.next_slice(max(size, 2 * (uncopied - left)))
        self._job("copy log", work, partial(self._go_on_copying, next_file, self._log.uncopied_bytes))

    @property
    def _is_cutting(self) -> bool:
        return self._log.next_file is not None

    def _maybe_replace_log(self) -> None:
        """The member is at rest: all that the log has is in the old file."""
        if not self._copy_ends:
            return
        self._copy_ends = False
        self._replace_log(self._log.end_copy(), nothing)

    def _replace_log(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        def replaced() -> None:
            done()
            self._tidy_log()

        base = self._log.base.index
        logger.info("log cut", extra={"snapshot_index": self._store.index, "log_base": base})
        self._job("replace log", work, replaced, blocking=True)

    def _drop_cut(self) -> None:
        self._copy_ends = False
        if self._is_cutting:
            self._job("drop copy", self._log.drop_copy(), nothing)

    def _tidy_log(self) -> None:
        """Give back what was cut off, in pieces."""
        more: list[bool] = []

        def go_on() -> None:
            if more[0]:
                self._tidy_log()

        self._job("tidy log", lambda: more.append(self._log.tidy()), go_on)

    def _base_to_keep(self, index: int) -> Base:
        since = self._now() - self._options.election_timeout_s
        return base_to_keep(self._log, index, self._progress.values(), since, self._options)

    def _job(
        self, name: str, work: Callable[[], object], done: Callable[[], None], *, blocking: bool = False
    ) -> None:
        """Give work to the disk thread; see jobs.Job."""
        raise NotImplementedError
