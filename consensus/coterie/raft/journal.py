"""The log of one node: in memory for reading, in an append-only file for good. Term and vote live in it too.

The journal never writes by itself. It collects records; the member takes them as one block, and a disk job
appends and syncs the block before anything that depends on it leaves the node."""

from __future__ import annotations

import bisect
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import overload

from pysyncobj.journal import Journal as LibraryJournal

from coterie.raft import journal_format as form
from coterie.raft.disk import Disk, DiskFile
from coterie.raft.entry import CONFIGURATION, NO_OP_ENTRY, Logged, at_ms_of
from coterie.raft.errors import DamagedFile, DiskFailed, DiskFull
from coterie.raft.journal_format import BaseRecord, EntryRecord, Identity, TruncateRecord, VoteRecord
from coterie.raft.options import RaftOptions
from coterie.raft.room import Reading, reserve_wanted

NAME = "raft.journal"
NEW_NAME = "raft.journal.new"
MARK_NAME = "raft.synced"
FIRST_INDEX = 1  # PySyncObj's logs begin with an entry of their own at index 1
FREE_ENTRIES = 200
BLOCK_BYTES = 1 << 20  # of records per block while the file is rewritten


@dataclass(frozen=True, slots=True)
class Base:
    """The entry just before the first one that is still here; `at_ms` bounds the entry times up to it."""

    index: int
    term: int
    at_ms: int


class Journal(LibraryJournal):  # type: ignore[misc]
    """Entries are (command, index, term). Position 0 holds the base, whose command is gone."""

    def __init__(self, disk: Disk, identity: Identity, rng: random.Random) -> None:
        self._disk, self._identity, self._rng = disk, identity, rng
        self._reserve_bytes = 0
        self._term = 0
        self._voted_for: str | None = None
        self._pending: list[bytes] = []
        self.is_dirty = False  # something is not written yet
        self._reset_log(Base(FIRST_INDEX, 0, 0))
        disk.remove(NEW_NAME)
        if disk.exists(NAME):
            self._load()
        else:
            self._identity = replace(identity, disk_id=f"{rng.getrandbits(64):016x}")
            self._begin()
        self._mark = self._open_mark()

    # --- what PySyncObj asks of a journal ---

    def __len__(self) -> int:
        return len(self._log)

    @overload
    def __getitem__(self, at: int) -> Logged: ...
    @overload
    def __getitem__(self, at: slice) -> list[Logged]: ...
    def __getitem__(self, at: int | slice) -> Logged | list[Logged]:
        return self._log[at]

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._remember(command, idx, term)
        self._note(form.entry_record(command, idx, term))

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Drop the entries from this position on: only ever at a real conflict."""
        self._note(form.truncate_record(self._log[entryFrom][1]))
        self._forget_from(entryFrom)

    def setCurrentTerm(self, currentTerm: int, votedForNodeId: str | None) -> None:
        if (currentTerm, votedForNodeId) != (self._term, self._voted_for):
            self._term, self._voted_for = currentTerm, votedForNodeId
            self._note(form.vote_record(currentTerm, votedForNodeId))

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._voted_for

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Not stored: the leader tells, and what a snapshot covers is committed."""

    def getRaftCommitIndex(self) -> int:
        return self.base.index

    def onOneSecondTimer(self) -> None:
        """Nothing here goes by the clock."""

    def _destroy(self) -> None:
        self._file.close()
        if self._mark is not None:
            self._mark.close()

    # --- reading ---

    @property
    def disk_id(self) -> str:
        """Made up when the data directory was set up; a wiped directory gets another."""
        return self._identity.disk_id

    @property
    def last_at_ms(self) -> int:
        """No entry here, and none before the base, is later."""
        return self._last_at_ms

    def term_at(self, index: int) -> int:
        """For the base index and above."""
        return self._log[index - self.base.index][2]

    def holds(self, index: int) -> bool:
        return self.base.index <= index <= self.last_index

    def bytes_between(self, low: int, high: int) -> int:
        """The size of the commands of the entries above `low`, up to `high`."""
        first, ends = self.base.index, self._ends
        return ends[high - first if high > first else 0] - ends[low - first if low > first else 0]

    def index_with_bytes_behind(self, index: int, size: int) -> int:
        """The lowest index such that the entries above it, up to `index`, have at most `size` bytes."""
        floor = self._ends[index - self.base.index] - size
        return self.base.index + bisect.bisect_left(self._ends, floor, 0, index - self.base.index)

    # --- becoming durable ---

    def _note(self, record: bytes) -> None:
        self._pending.append(record)
        self.is_dirty = True

    def take_block(self) -> bytes:
        """Everything not yet written, as one block; append it at the end of the file, then sync. One block at
        a time: the next is taken when `block_written` has been told of this one."""
        block = form.block(self._pending, self._salt, self._offset)
        self._pending, self.is_dirty = [], False
        self._offset += len(block)
        self._taken_index = self.last_index
        return block

    def block_written(self) -> None:
        """The block that was taken is on the disk."""
        self.durable_index = self._taken_index

    def write(self, block: bytes) -> None:
        """Runs off the event loop. Raises DiskFull, and then it may be called again with the same block."""
        self._file.append(block)
        self._file.sync()
        self._synced += len(block)
        self._set_mark()
        if self._reserve_bytes:
            self._file.reserve(self._reserve_bytes)

    def look(self, options: RaftOptions) -> Reading:
        """How much room there is; also keeps room reserved, and the mark durable. Runs off the event loop."""
        free_bytes, total_bytes = self._disk.room()
        self._reserve_bytes = reserve_wanted(options, total_bytes)
        reading = Reading(free_bytes, total_bytes, self._file.reserve(self._reserve_bytes))
        if self._mark is not None and self._marked != self._synced:
            self._marked = self._synced
            self._mark.sync()
        return reading

    def _set_mark(self) -> None:
        """Say how much is synced, without waiting for the disk: so damage to the last block can be told from
        a torn write whenever the process, or a quiet second, outlived the write."""
        if self._mark is not None:
            with contextlib.suppress(DiskFull):
                self._mark.overwrite(form.mark(self._salt, self._synced))

    def _open_mark(self) -> DiskFile | None:
        mark = form.mark(self._salt, self._synced)
        try:
            if not self._disk.exists(MARK_NAME) or self._disk.size(MARK_NAME) != len(mark):
                file = self._disk.create(MARK_NAME)
                file.append(mark)
            else:
                file = self._disk.open(MARK_NAME)
                file.overwrite(mark)
        except DiskFull:
            return None
        return file

    def rewrite(self, base: Base) -> Callable[[], None]:
        """Let the log begin behind `base` from now on, keeping what follows it (nothing, when the log does
        not pass through it). The function returned makes the new file; until it is done, nothing may be
        taken from here: it runs off the event loop, while the node takes no step.

        When there is no room for a new file, the old one, longer than needed, stays in use."""
        passes = self.holds(base.index) and self.term_at(base.index) == base.term
        cut = base.index - self.base.index if passes else len(self._log)
        kept, ends, last_at_ms = self._log[cut + 1 :], self._ends[cut:], self._last_at_ms
        configurations = [item for item in self.configurations if item[0] > base.index]
        old, unwritten, durable = (self._salt, self._offset), self._pending, self.durable_index
        gone = self._log
        self._salt = self._rng.getrandbits(32)  # so that a mark is about one file only
        self._reset_log(base)
        if passes:
            self._log += kept
            self.last_index += len(kept)
            self._ends = [end - ends[0] for end in ends]
            self._last_at_ms = max(last_at_ms, base.at_ms)
            self.configurations = configurations
            self.durable_index = max(base.index, durable)
        self._pending, self.is_dirty = [], False

        def work() -> None:
            try:
                self._replace_file(self._whole_file(kept))
            except DiskFull:
                self._disk.remove(NEW_NAME)
                self._salt, self._offset = old
                restart = [] if passes else [form.base_record(base.index, base.term, base.at_ms)]
                self._pending = unwritten + restart
                self.is_dirty = bool(self._pending)
            _free(gone)

        return work

    def _begin(self) -> None:
        """The first file of a new node."""
        self._salt = self._rng.getrandbits(32)
        try:
            self._replace_file(self._whole_file([]))
        except DiskFull as error:
            raise DiskFailed(f"{error}. Remedy: a new node needs room on its disk") from error

    def _whole_file(self, entries: list[Logged]) -> list[bytes]:
        parts = [form.header(self._identity, self._salt)]
        self._offset = len(parts[0])
        base = self.base
        records = [
            form.base_record(base.index, base.term, base.at_ms),
            form.vote_record(self._term, self._voted_for),
        ]
        size = 0
        for command, index, term in entries:
            records.append(form.entry_record(command, index, term))
            size += len(command)
            if size >= BLOCK_BYTES:
                self._close_block(parts, records)
                records, size = [], 0
        if records:
            self._close_block(parts, records)
        return parts

    def _close_block(self, parts: list[bytes], records: list[bytes]) -> None:
        parts.append(form.block(records, self._salt, self._offset))
        self._offset += len(parts[-1])

    def _replace_file(self, parts: list[bytes]) -> None:
        file = self._disk.create(NEW_NAME)
        try:
            for part in parts:
                file.append(part)
            file.sync()
            self._disk.rename(NEW_NAME, NAME)
        except DiskFull:
            file.close()  # an open file keeps its blocks, even when its name is removed
            raise
        self._disk.sync_dir()
        old, self._file = self._file, file
        if old is not None:
            old.close()
        self._synced = self._offset
        self._set_mark()

    # --- loading ---

    _file: DiskFile = None  # type: ignore[assignment]
    _mark: DiskFile | None = None
    last_index: int  # of the log in memory
    _ends: list[int]  # cumulated sizes of the commands
    _last_at_ms: int
    configurations: list[tuple[int, bytes]]  # (index, bytes) of those behind the base
    durable_index: int  # up to here the log in memory is on the disk
    _taken_index: int  # up to here when the block under way is written
    _salt = 0
    _offset = 0  # where the next block goes
    _synced = _marked = 0

    def _load(self) -> None:
        path, raw = self._disk.path_of(NAME), self._disk.read(NAME)
        self._identity, self._salt, start = form.read_header(raw, path, self._identity)
        synced = form.read_mark(self._disk.read(MARK_NAME), self._salt) if self._disk.exists(MARK_NAME) else 0
        records, good = form.read_blocks(raw, path, self._salt, start, synced)
        if not records or not isinstance(records[0], BaseRecord):
            raise DamagedFile(path, start, "the first block does not say where the log begins")
        for record in records:
            self._replay(record, path)
        if good < len(raw):
            self._disk.truncate(NAME, good)
        self._file = self._disk.open(NAME)
        # A process that died may have left all this to the page cache: what was written, and what was
        # renamed. It must be on the disk before anything is promised that builds on it.
        self._file.sync()
        self._disk.sync_dir()
        self._offset = self._synced = good
        self.durable_index = self.last_index

    def _replay(self, record: form.Record, path: str) -> None:
        match record:
            case EntryRecord(command, index, term):
                if index != self.last_index + 1:
                    raise DamagedFile(path, 0, f"entry {index} follows entry {self.last_index}")
                self._remember(command, index, term)
            case TruncateRecord(index):
                if not self.base.index < index <= self.last_index:
                    raise DamagedFile(path, 0, f"a cut at {index} is outside the log")
                self._forget_from(index - self.base.index)
            case VoteRecord(term, voted_for):
                self._term, self._voted_for = term, voted_for
            case BaseRecord(index, term, at_ms):
                self._reset_log(Base(index, term, at_ms))

    # --- the log in memory ---

    def _reset_log(self, base: Base) -> None:
        self.base = base
        self._log: list[Logged] = [(NO_OP_ENTRY, base.index, base.term)]
        self._ends = [0]
        self.configurations = []
        self._last_at_ms = base.at_ms
        self.last_index = self.durable_index = self._taken_index = base.index

    def _remember(self, command: bytes, index: int, term: int) -> None:
        self._log.append((command, index, term))
        self._ends.append(self._ends[-1] + len(command))
        self.last_index = index
        at_ms = at_ms_of(command)
        if at_ms > self._last_at_ms:
            self._last_at_ms = at_ms
        if command[0] == CONFIGURATION:
            self.configurations.append((index, command[1:]))

    def _forget_from(self, position: int) -> None:
        del self._log[position:]
        del self._ends[position:]
        self.last_index = self._log[-1][1]
        while self.configurations and self.configurations[-1][0] > self.last_index:
            self.configurations.pop()
        self.durable_index = min(self.durable_index, self.last_index)
        self._taken_index = min(self._taken_index, self.last_index)


def _free(entries: list[Logged]) -> None:
    """Bit by bit: memory is given back under the interpreter's lock, and 100 MB at once would be a pause."""
    while entries:
        del entries[-FREE_ENTRIES:]
