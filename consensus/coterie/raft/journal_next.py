"""The journal's next file: what the log holds behind a new base, written while the old file stays in use.

Until it takes the journal's name it is nobody's: a crash leaves the old file, which holds all that was ever
promised. It takes the name when it holds all of that too, durably. At any moment one file is the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from coterie.raft import journal_format as form
from coterie.raft.disk import Disk, DiskFile
from coterie.raft.entry import Logged
from coterie.raft.errors import DiskFull
from coterie.raft.journal_format import BaseRecord, Identity

logger = logging.getLogger("coterie.raft")
NAME = "raft.journal"
NEW_NAME = "raft.journal.new"
BLOCK_BYTES = 1 << 20  # of entries


class NextFile:
    """Entries are copied in slices, in the order of the log. What the log appends meanwhile comes with a
    later slice; what it cuts off is cut off here by a record, as in any journal. Term and vote come last."""

    def __init__(self, disk: Disk, identity: Identity, salt: int, base: BaseRecord) -> None:
        self.base, self.salt = base, salt
        self.copied = (
            base.index
        )  # the file has the log up to here when the slices that were taken are written
        self.offset = 0  # where the next block goes
        self.failed = False  # for want of room: what it holds is no use
        self._disk, self._identity = disk, identity
        self._file: DiskFile | None = None
        self._records = [form.base_record(base.index, base.term, base.at_ms)]  # go before the next entries

    # --- while the log goes on ---

    def forget_from(self, index: int) -> None:
        """The log has cut off its entries from `index` on."""
        if index <= self.copied:
            self._records.append(form.truncate_record(index))
            self.copied = index - 1

    def take_slice(self, entries: Sequence[Logged]) -> Callable[[], None]:
        """A job's work: the entries that follow the last slice, durable."""
        records = self._taken(entries)

        def work() -> None:
            if self.failed:
                return
            try:
                self._write(records, entries).sync()
            except DiskFull as error:
                logger.warning("no room for a copy of the log", extra={"error": str(error)})
                self.failed = True

        return work

    def take_rest(self, entries: Sequence[Logged], vote: bytes) -> Callable[[], DiskFile]:
        """Work for a moment at which the old file has all that the log has: these entries, the last ones, and
        the record of term and vote; then the file is the journal. Raises DiskFull, and then it is not."""
        records = self._taken(entries)

        def work() -> DiskFile:
            if self.failed:
                raise DiskFull("the copy of the log had no room")
            file = self._write([*records, vote], entries)
            file.sync()
            self._disk.rename(NEW_NAME, NAME)
            self._disk.sync_dir()
            return file

        return work

    def _taken(self, entries: Sequence[Logged]) -> list[bytes]:
        records, self._records = self._records, []
        if entries:
            self.copied = entries[-1][1]
        return records

    # --- on the disk ---

    def _write(self, records: list[bytes], entries: Sequence[Logged]) -> DiskFile:
        if self._file is None:
            self._file = self._disk.create(NEW_NAME)
            header = form.header(self._identity, self.salt)
            self._file.append(header)
            self.offset = len(header)
        for block in _blocks(records, entries):
            data = form.block(block, self.salt, self.offset)
            self._file.append(data)
            self.offset += len(data)
        return self._file

    def discard(self) -> None:
        """A job's work: give the room back."""
        if self._file is not None:  # an open file keeps its blocks, even when its name is removed
            self._file.close()
            self._file = None
        self._disk.remove(NEW_NAME)


def _blocks(records: list[bytes], entries: Sequence[Logged]) -> Iterator[list[bytes]]:
    size = 0
    for command, index, term in entries:
        records.append(form.entry_record(command, index, term))
        size += len(command)
        if size >= BLOCK_BYTES:
            yield records
            records, size = [], 0
    if records:
        yield records
