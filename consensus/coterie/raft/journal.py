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
from coterie.raft.disk import PAGE_BYTES_MAX, Disk, DiskFile
from coterie.raft.entry import CONFIGURATION, NO_OP_ENTRY, Logged, at_ms_of
from coterie.raft.errors import DamagedFile, DiskFailed, DiskFull
from coterie.raft.journal_format import BaseRecord, EntryRecord, Identity, TruncateRecord, VoteRecord
from coterie.raft.journal_next import NAME as NAME
from coterie.raft.journal_next import NEW_NAME as NEW_NAME
from coterie.raft.journal_next import NextFile
from coterie.raft.options import RaftOptions
from coterie.raft.room import Reading, reserve_wanted

MARK_NAME = "raft.synced"
FIRST_INDEX = 1  # PySyncObj's logs begin with an entry of their own at index 1
FREE_ENTRIES, FREE_AT_ONCE = 20_000, 200
GIVE_BACK_BYTES = 8 << 20


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
        self._dropped: list[list[Logged]] = []
        self._old_files: list[DiskFile] = []
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
        for file in (self._file, *self._old_files):
            file.close()
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

    # --- a shorter file ---

    def begin_copy(self, base: Base) -> None:
        """The log shall begin behind `base`, through which it passes: its next file is written in slices."""
        self.next_file = self._new_file(base)

    def next_slice(self, size_min: int) -> Callable[[], None]:
        """A job's work: copy about so many bytes more of the log to the next file."""
        assert self.next_file is not None
        first, ends = self.next_file.copied + 1 - self.base.index, self._ends
        after = max(bisect.bisect_left(ends, ends[first - 1] + size_min, first) + 1, first + 1)
        return self.next_file.take_slice(self._log[first:after])

    @property
    def uncopied_bytes(self) -> int:
        """What the next file does not have yet."""
        assert self.next_file is not None
        return self._ends[-1] - self._ends[self.next_file.copied - self.base.index]

    def end_copy(self) -> Callable[[], None]:
        """As `rewrite`, with the next file that was begun. All that the log has must be on the disk."""
        assert self.next_file is not None
        return self._replace(self.next_file)

    def drop_copy(self) -> Callable[[], None]:
        """A job's work: stay with the old file."""
        next_file, self.next_file = self.next_file, None
        return next_file.discard if next_file is not None else lambda: None

    def rewrite(self, base: Base) -> Callable[[], None]:
        """Let the log begin behind `base` from now on, keeping what follows it (nothing, when the log does
        not pass through it). The function returned makes the new file; until it is done, nothing may be
        taken from here: it runs off the event loop, while the node takes no step. Then `tidy`.

        When there is no room for a new file, the old one, longer than needed, stays in use."""
        return self._replace(self._new_file(base))

    def _new_file(self, base: Base) -> NextFile:
        # Each file has its own salt, so that a mark is about one file only.
        record = BaseRecord(base.index, base.term, base.at_ms)
        return NextFile(self._disk, self._identity, self._rng.getrandbits(32), record)

    def _replace(self, next_file: NextFile) -> Callable[[], None]:
        record, self.next_file = next_file.base, None
        base = Base(record.index, record.term, record.at_ms)
        passes = self.holds(base.index) and self.term_at(base.index) == base.term
        rest = self._log[next_file.copied + 1 - self.base.index :] if passes else []
        restart = [] if passes else [form.base_record(base.index, base.term, base.at_ms)]
        unwritten = self._pending + restart
        take_name = next_file.take_rest(rest, form.vote_record(self._term, self._voted_for))
        self._cut_memory(base, passes=passes)
        self._pending, self.is_dirty = [], False

        def work() -> None:
            try:
                file = take_name()
            except DiskFull:
                next_file.discard()
                self._pending, self.is_dirty = unwritten, bool(unwritten)
                return
            self._adopt_file(file, next_file)

        return work

    def _adopt_file(self, file: DiskFile, next_file: NextFile) -> None:
        if self._file is not None:
            self._old_files.append(self._file)
        self._file, self._salt = file, next_file.salt
        self._offset = self._synced = next_file.offset
        self._set_mark()

    def _cut_memory(self, base: Base, *, passes: bool) -> None:
        cut = base.index - self.base.index if passes else len(self._log)
        kept, ends, last_at_ms = self._log[cut + 1 :], self._ends[cut:], self._last_at_ms
        configurations, durable = self.configurations, self.durable_index
        self._dropped.append(self._log)
        self._reset_log(base)
        if passes:
            self._log += kept
            self.last_index += len(kept)
            self._ends = ends
            self._last_at_ms = max(last_at_ms, base.at_ms)
            self.configurations = [item for item in configurations if item[0] > base.index]
            self.durable_index = max(base.index, durable)

    def tidy(self) -> bool:
        """A job's work: give back a little of what was cut off, memory or blocks; whether there is more. All
        at once would hold up the interpreter, or the next sync."""
        if self._dropped:
            _free(self._dropped[0])
            if not self._dropped[0]:
                del self._dropped[0]
        elif self._old_files and not self._old_files[0].give_back(GIVE_BACK_BYTES):
            self._old_files.pop(0).close()
        return bool(self._dropped or self._old_files)

    def _begin(self) -> None:
        """The first file of a new node."""
        first = self._new_file(self.base)
        take_name = first.take_rest([], form.vote_record(self._term, self._voted_for))
        try:
            file = take_name()
        except DiskFull as error:
            first.discard()
            raise DiskFailed(f"{error}. Remedy: a new node needs room on its disk") from error
        self._adopt_file(file, first)

    # --- loading ---

    _file: DiskFile = None  # type: ignore[assignment]
    _mark: DiskFile | None = None
    next_file: NextFile | None = None  # being written
    last_index: int  # of the log in memory
    _ends: list[int]  # cumulated sizes of the commands, of those too that were cut off in front
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
        for number, record in enumerate(records):
            problem = self._replay(record)
            if problem:
                raise DamagedFile(path, form.block_of(raw, self._salt, start, number), problem)
        if good < len(raw):
            self._disk.truncate(NAME, good)
        self._file = self._disk.open(NAME)
        # A process that died may have left all this to the page cache: what was written, and what was
        # renamed. It must be on the disk before anything is promised that builds on it. When its sync had
        # failed, what that left in the cache counts as written, and another sync alone would do nothing.
        if synced < good:
            begin = synced - synced % PAGE_BYTES_MAX
            self._file.rewrite(begin, raw[begin:good])
        self._file.sync()
        self._disk.sync_dir()
        self._offset = self._synced = good
        self.durable_index = self.last_index

    def _replay(self, record: form.Record) -> str:
        """Take one record into memory. Returns what is wrong with it; else nothing."""
        match record:
            case EntryRecord(command, index, term):
                if index != self.last_index + 1:
                    return f"entry {index} follows entry {self.last_index}"
                self._remember(command, index, term)
            case TruncateRecord(index):
                if not self.base.index < index <= self.last_index:
                    return f"a cut at {index} is outside the log"
                self._forget_from(index - self.base.index)
            case VoteRecord(term, voted_for):
                self._term, self._voted_for = term, voted_for
            case BaseRecord(index, term, at_ms):
                self._reset_log(Base(index, term, at_ms))
        return ""

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
        if self.next_file is not None:
            self.next_file.forget_from(self.base.index + position)
        del self._log[position:]
        del self._ends[position:]
        self.last_index = self._log[-1][1]
        while self.configurations and self.configurations[-1][0] > self.last_index:
            self.configurations.pop()
        self.durable_index = min(self.durable_index, self.last_index)
        self._taken_index = min(self._taken_index, self.last_index)


def _free(entries: list[Logged]) -> None:
    """Bit by bit: memory is given back under the interpreter's lock."""
    for _ in range(FREE_ENTRIES // FREE_AT_ONCE):
        del entries[-FREE_AT_ONCE:]
