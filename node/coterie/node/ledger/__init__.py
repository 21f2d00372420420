"""Finished tasks and the event history of one node, in SQLite and off the event loop.

The ledger is derived data. The replicated log is the truth, and the log is compacted only after `flush` made
the rows durable here. What a crash takes away is replayed from the log; rows already here are ignored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from coterie.node.ledger.family import FamilyLimits, FamilyRows, with_queued
from coterie.node.ledger.reader import (
    LedgerReader,
    select_counts,
    select_events,
    select_family_rows,
    select_page,
    select_records,
    select_task,
    select_tasks,
)
from coterie.node.ledger.rows import (
    Gap,
    LedgerClosed,
    LedgerError,
    LedgerEvent,
    LedgerOptions,
    LedgerPage,
    LedgerQuery,
    LedgerTask,
    PageTooLarge,
    QueuedRows,
)
from coterie.node.ledger.store import LedgerStore
from coterie.node.ledger.writer import LedgerWriter

__all__ = [
    "FamilyRows",
    "Gap",
    "Ledger",
    "LedgerClosed",
    "LedgerError",
    "LedgerEvent",
    "LedgerOptions",
    "LedgerPage",
    "LedgerQuery",
    "LedgerTask",
    "PageTooLarge",
]

_logger = logging.getLogger("coterie.ledger")
_PRUNE_TASKS_MAX = 500  # in one transaction, so that rows never wait long behind it


class Ledger:
    """Open with `Ledger.open`. Reads see everything that was appended before the call."""

    def __init__(
        self, store: LedgerStore, writer: LedgerWriter, reader: LedgerReader, options: LedgerOptions
    ) -> None:
        self._store = store
        self._writer = writer
        self._reader = reader
        self._options = options

    @classmethod
    async def open(
        cls,
        path: Path,
        options: LedgerOptions | None = None,
        on_sync_failure: Callable[[str], None] = lambda why: None,
    ) -> Ledger:
        """Open or make the file at `path`.

        `on_sync_failure` is called on the loop, with the reason: nothing is written any more, and what was
        may be lost by a loss of power. Opened again by another process, the file is written out anew.

        A damaged file is renamed to `….damaged-N` and an empty one takes its place (`flushed_index` 0).
        Raises LedgerError for a file of a newer version or of another program."""
        options = options or LedgerOptions()
        store = LedgerStore(path, options)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, store.open)
        for damaged in store.damaged:
            _logger.error(
                "ledger file was damaged and replaced by an empty one", extra={"moved_to": str(damaged)}
            )

        def tell(why: str) -> None:
            loop.call_soon_threadsafe(on_sync_failure, why)

        writer = LedgerWriter(store, options, tell)
        writer.start()
        reader = LedgerReader(path, options, lambda: writer.generation, writer.report_damage)
        return cls(store, writer, reader, options)

    def append(self, index: int, tasks: Sequence[LedgerTask], events: Sequence[LedgerEvent]) -> None:
        """Queue the rows of the log entry `index`; never blocks. Call it in the order of the log.

        Beyond the backlog bound the rows are left out and noted in `gaps`: watch `backlog` and refuse new
        work before that. The caller must not change the sequences afterwards."""
        self._writer.append(index, tasks, events)

    def note_snapshot(self, index: int) -> None:
        """The state was replaced by a snapshot at `index`: rows that were never appended up to there become a
        gap, durably noted with the next write. Call it whenever a snapshot is restored; it never blocks."""
        self._writer.note_snapshot(index)

    @property
    def flushed_index(self) -> int:
        """Everything up to this log index is durable here, except for what `gaps` names."""
        return self._writer.flushed_index

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Ranges of the log whose rows must be copied from a peer: `rows_after` there, `adopt` here."""
        return self._writer.gaps

    @property
    def backlog(self) -> int:
        """Rows that are queued and not yet written."""
        return self._writer.backlog

    @property
    def error(self) -> str:
        """Why rows are not being written at the moment; empty when all is well. Writing is tried again."""
        return self._writer.error

    @property
    def rows_lost(self) -> int:
        """Rows left out since the start because the backlog was full or SQLite can never take them."""
        return self._writer.rows_dropped + self._writer.rows_refused

    @property
    def damaged_files(self) -> tuple[Path, ...]:
        """Files that were found damaged and moved aside since the start."""
        return tuple(self._store.damaged)

    async def flush(self, index: int) -> None:
        """Return when everything up to `index` is on the disk, and `index` itself is stored.

        Waits as long as the disk refuses. Raises LedgerClosed when the ledger is closed before that."""
        await asyncio.wrap_future(self._writer.flush(index))

    async def task(self, task_id: str) -> LedgerTask | None:
        for item in self._writer.queued():
            for task in item.tasks:
                if task.task_id == task_id:
                    return task
        return await self._reader.run(lambda connection: select_task(connection, task_id))

    async def tasks(self, query: LedgerQuery, before_order: int | None, limit: int) -> list[LedgerTask]:
        """Newest first, orders below `before_order`; fewer than `limit` means the end.

        Raises PageTooLarge when the records of so many tasks are too large for one page."""
        limit = self._limit(limit)
        # The queue first: a row leaves it only after the file has it.
        queued = {
            task.task_id: task
            for item in self._writer.queued()
            for task in item.tasks
            if (before_order is None or task.order < before_order) and query.matches_task(task)
        }
        stored = await self._reader.run(
            lambda connection: select_tasks(
                connection, query, before_order, limit, self._options.page_bytes_max
            )
        )
        queued.update((task.task_id, task) for task in stored)
        return sorted(queued.values(), key=lambda task: task.order, reverse=True)[:limit]

    async def events(self, task_id: str, after_sequence: int, limit: int) -> list[LedgerEvent]:
        """Events of a task in order, sequences above `after_sequence`. May hold fewer than `limit` when the
        records are large; only an empty list means the end."""
        limit = self._limit(limit)
        found = {
            event.sequence: event
            for item in self._writer.queued()
            for event in item.events
            if event.task_id == task_id and event.sequence > after_sequence
        }
        stored = await self._reader.run(
            lambda connection: select_events(
                connection, task_id, after_sequence, limit, self._options.page_bytes_max
            )
        )
        if len(stored) < limit and _is_cut(stored, self._options.page_bytes_max):
            found = {sequence: event for sequence, event in found.items() if sequence < stored[-1].sequence}
        found.update((event.sequence, event) for event in stored)
        return [found[sequence] for sequence in sorted(found)[:limit]]

    async def family(self, task_id: str, limits: FamilyLimits) -> FamilyRows:
        """Ended tasks whose ids say that they are below this one, and the events of all of these."""
        queued = self._writer.queued()  # first: a row leaves the queue only after the file has it
        stored = await self._reader.run(lambda connection: select_family_rows(connection, task_id, limits))
        return with_queued(stored, queued, task_id, limits)

    async def rows_after(self, after_index: int, limit: int, across_gaps: bool = False) -> LedgerPage:
        """Committed rows with a log index above `after_index`, for copying to another node.

        Go on with `through_index`; it stands still when this ledger ends, or has a gap, there. `across_gaps`:
        the rows behind a gap too, and those within it; then look at `gaps` for what may be missing."""
        limit, most = self._limit(limit), self._options.page_bytes_max
        return await self._reader.run(
            lambda connection: select_page(connection, after_index, limit, most, across_gaps)
        )

    async def adopt(
        self,
        tasks: Sequence[LedgerTask],
        events: Sequence[LedgerEvent],
        fills: Gap | None = None,
    ) -> None:
        """Keep rows copied from a peer, durably. `fills` is the part of the log which they cover completely
        (after_index as asked, through_index as answered); it is taken out of `gaps` in the same commit."""
        size = sum(len(row.record) for row in tasks) + sum(len(row.record) for row in events)
        item = QueuedRows(0, tuple(tasks), tuple(events), size, fills or Gap(0, 0))
        await asyncio.wrap_future(self._writer.adopt(item))

    async def prune(self, finished_before_ms: int) -> int:
        """Delete tasks that finished before that moment, with their events; returns how many tasks."""
        pruned, more = 0, True
        while more:
            count, more = await self._run_in_writer(
                lambda store: store.prune(finished_before_ms, _PRUNE_TASKS_MAX)
            )
            pruned += count
        return pruned

    async def records(self) -> AsyncIterator[list[bytes]]:
        """The records of all rows, in pages; a row that comes meanwhile may be missing."""
        queued = self._writer.queued()
        yield [task.record for item in queued for task in item.tasks]
        yield [event.record for item in queued for event in item.events]
        for table in ("tasks", "events"):
            after = -1
            while page := await self._reader.run(partial(select_records, table=table, after=after)):
                yield [record for _, record in page]
                after = page[-1][0]

    async def counts(self) -> Mapping[str, int]:
        """How many finished tasks are here, by state. Rows still queued are counted once they are written."""
        return await self._reader.run(select_counts)

    async def close(self) -> None:
        """Write what is queued, durably, and close. Rows the disk does not take are in the log still."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._reader.close)
        await loop.run_in_executor(None, self._writer.stop)

    async def _run_in_writer(self, job: Callable[[LedgerStore], tuple[int, bool]]) -> tuple[int, bool]:
        return await asyncio.wrap_future(self._writer.run(job))

    def _limit(self, limit: int) -> int:
        if limit < 1:
            raise LedgerError(f"limit is {limit}; ask for at least 1 row")
        return min(limit, self._options.page_rows_max)


def _is_cut(events: Sequence[LedgerEvent], bytes_max: int) -> bool:
    """Whether a page ends because of its bytes; what follows is on the next page, queued rows too."""
    return sum(len(event.record) for event in events) >= bytes_max
