"""The one thread that writes a ledger: rows go in transactions, and a full or broken disk is outlived."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from coterie.node.ledger.gaps import add_gap, covered_through, fill_gap
from coterie.node.ledger.rows import (
    Gap,
    LedgerClosed,
    LedgerError,
    LedgerEvent,
    LedgerOptions,
    LedgerTask,
    QueuedRows,
)
from coterie.node.ledger.store import ROW_ERRORS, LedgerStore, is_damage, is_sync_failure

T = TypeVar("T")

_logger = logging.getLogger("coterie.ledger")
_CLOSE_SECONDS_MAX = 30.0


@dataclass(slots=True)
class _Batch:
    """What goes into one transaction."""

    tasks: list[LedgerTask] = field(default_factory=list)
    events: list[LedgerEvent] = field(default_factory=list)
    through_index: int = 0
    gaps: tuple[Gap, ...] = ()
    fills: list[Gap] = field(default_factory=list)
    waiters: list[Future[None]] = field(default_factory=list)  # not empty: the commit must be durable
    items: int = 0  # how many of the queue


class LedgerWriter:
    """Queue and owner thread of a LedgerStore. All but `stop` is quick and may be called from any thread."""

    def __init__(
        self, store: LedgerStore, options: LedgerOptions, on_sync_failure: Callable[[str], None]
    ) -> None:
        self.error = ""  # why rows are not being written at the moment; empty: they are
        self.generation = 0  # grows when the file was replaced, for readers
        self.rows_dropped = 0  # beyond the backlog bound: noted as a gap
        self.rows_refused = 0  # SQLite would never take them
        self.flushed_index = store.committed_index
        self._store = store
        self._options, self._on_sync_failure = options, on_sync_failure
        self._wake = threading.Condition()
        self._queue: deque[QueuedRows] = deque()
        self._rows = 0
        self._bytes = 0
        self._oldest_at = 0.0
        self._appended_index = store.committed_index
        self._gaps = store.gaps
        self._gaps_changed = False
        self._waiters: list[Future[None]] = []
        self._jobs: deque[Callable[[], None]] = deque()
        self._damage_reported = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="coterie-ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Rows queued and not yet committed."""
        return self._rows

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return self._gaps

    def covered_through(self, after_index: int, up_to_index: int) -> int:
        return covered_through(self._gaps, after_index, up_to_index)

    def queued(self) -> list[QueuedRows]:
        """Rows which the file may not hold yet, oldest first."""
        with self._wake:
            return list(self._queue)

    def append(self, index: int, tasks: Sequence[LedgerTask], events: Sequence[LedgerEvent]) -> None:
        """Queue the rows of log entry `index`. Rows beyond the bound are noted as a gap instead of kept."""
        size = sum(len(row.record) for row in tasks) + sum(len(row.record) for row in events)
        item = QueuedRows(index, tasks, events, size)
        with self._wake:
            self._check_open()
            if self._is_full(item):
                self._drop(item)
            elif item.count:
                self._put(item)
            self._appended_index = max(self._appended_index, index)

    def note_snapshot(self, index: int) -> None:
        """The state jumped to `index` without its entries: what was not appended is missing here."""
        with self._wake:
            if index > self._appended_index:
                self._note_gap(Gap(self._appended_index, index))
                self._appended_index = index

    def adopt(self, item: QueuedRows) -> Future[None]:
        """Queue rows copied from a peer, and wait for the disk. They close the gap they fill."""
        with self._wake:
            self._check_open()
            self._put(item)
            return self._ask_for_flush()

    def flush(self, index: int) -> Future[None]:
        """Done when everything up to `index` is on the disk."""
        with self._wake:
            if index <= self.flushed_index:
                done: Future[None] = Future()
                done.set_result(None)
                return done
            self._check_open()
            self._appended_index = max(self._appended_index, index)
            return self._ask_for_flush()

    def run(self, job: Callable[[LedgerStore], T]) -> Future[T]:
        """Let the owner thread do something with the store, after the rows queued so far."""
        future: Future[T] = Future()

        def carry_out() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job(self._store))
            except Exception as error:
                future.set_exception(LedgerError(f"the ledger could not be changed: {error}"))

        with self._wake:
            self._check_open()
            self._jobs.append(carry_out)
            self._wake.notify()
        return future

    def report_damage(self, generation: int) -> None:
        """A reader found the file of that generation damaged: replace it."""
        with self._wake:
            if generation == self.generation:
                self._damage_reported = True
                self._wake.notify()

    def stop(self) -> None:
        """Write what is queued if the disk takes it, then end. Blocks."""
        with self._wake:
            if not self._stopping:
                self._stopping = True
                self._ask_for_flush()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_SECONDS_MAX)

    # -- with the lock held ------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._stopping:
            raise LedgerClosed("the ledger is closed")

    def _is_full(self, item: QueuedRows) -> bool:
        """Whether `item` must not be kept. An empty queue takes anything: one entry has its own limits."""
        return self._rows > 0 and (
            self._rows + item.count > self._options.backlog_rows_max
            or self._bytes + item.bytes_held > self._options.backlog_bytes_max
        )

    def _put(self, item: QueuedRows) -> None:
        if not self._queue:
            self._oldest_at = time.monotonic()
            self._wake.notify()
        self._queue.append(item)
        before = self._rows
        self._rows += item.count
        self._bytes += item.bytes_held
        if before < self._options.batch_rows_max <= self._rows:
            self._wake.notify()

    def _drop(self, item: QueuedRows) -> None:
        if not self.rows_dropped:
            _logger.error(
                "ledger backlog is full, rows are left out and must be copied from a peer later",
                extra={"backlog_rows": self._rows, "log_index": item.index, "error": self.error},
            )
        self.rows_dropped += item.count
        self._note_gap(Gap(item.index - 1, item.index))

    def _note_gap(self, gap: Gap) -> None:
        self._gaps = add_gap(self._gaps, gap)
        self._gaps_changed = True
        self._wake.notify()

    def _ask_for_flush(self) -> Future[None]:
        future: Future[None] = Future()
        self._waiters.append(future)
        self._wake.notify()
        return future

    def _is_urgent(self) -> bool:
        return bool(
            self._waiters
            or self._jobs
            or self._stopping
            or self._damage_reported
            or self._rows >= self._options.batch_rows_max
        )

    def _await_work(self) -> None:
        while not (self._queue or self._gaps_changed or self._is_urgent()):
            self._wake.wait()
        until = self._oldest_at + self._options.batch_ms / 1000
        while not self._is_urgent() and (left := until - time.monotonic()) > 0:
            self._wake.wait(left)

    def _take(self) -> _Batch:
        """The oldest rows, at most twenty batches of them: a long backlog goes in portions."""
        batch = _Batch()
        rows = 0
        for item in self._queue:
            if rows and rows + item.count > 20 * self._options.batch_rows_max:
                break
            rows += item.count
            batch.items += 1
            batch.tasks.extend(item.tasks)
            batch.events.extend(item.events)
            if item.fills:
                batch.fills.append(item.fills)
            else:
                batch.through_index = max(batch.through_index, item.index)
        batch.gaps = self._gaps
        for fill in batch.fills:
            batch.gaps = fill_gap(batch.gaps, fill)
        if batch.items == len(self._queue):
            batch.through_index = self._appended_index
            batch.waiters, self._waiters = self._waiters, []
            self._gaps_changed = False
        return batch

    # -- the owner thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                self._await_work()
                batch = self._take()
                jobs, self._jobs = self._jobs, deque()
                damaged, self._damage_reported = self._damage_reported, False
                last = self._stopping and batch.items == len(self._queue)
            if damaged:
                self._replace_file(batch)
            written = self._commit(batch)
            for job in jobs:
                job()
            if not written or last:
                break
        self._end()

    def _commit(self, batch: _Batch) -> bool:
        """Write the batch, however long it takes; False when the ledger was closed meanwhile."""
        pause_ms = self._options.retry_initial_ms
        while True:
            try:
                self._write(batch)
                return True
            except Exception as error:
                self._note_failure(error, batch)
                if is_sync_failure(error):
                    return self._give_up(batch)
                if isinstance(error, sqlite3.Error) and is_damage(error):
                    self._replace_file(batch)
            with self._wake:
                if self._wake.wait_for(lambda: self._stopping, pause_ms / 1000):
                    return self._commit_last(batch)
            pause_ms = min(2 * pause_ms, self._options.retry_max_ms)

    def _give_up(self, batch: _Batch) -> bool:
        """After a failed sync nothing that was written may be relied on, and nothing more is."""
        self._on_sync_failure(f"fsync of {self._store.path} failed: {self.error}")
        with self._wake:
            self._wake.wait_for(lambda: self._stopping)
        for waiter in batch.waiters:
            _fail(waiter, f"the ledger was closed after a failed sync: {self.error}")
        return False

    def _commit_last(self, batch: _Batch) -> bool:
        try:
            self._write(batch)
            return True
        except Exception as error:
            self._note_failure(error, batch)
            for waiter in batch.waiters:
                _fail(waiter, f"the ledger was closed while the disk did not take its rows: {error}")
            return False

    def _write(self, batch: _Batch) -> None:
        durable = bool(batch.waiters)
        if not batch.items and not durable and batch.gaps == self._store.gaps:
            return
        try:
            self._write_rows(batch, durable)
        except ROW_ERRORS:
            if not self._leave_out_refused(batch):
                raise
            self._write_rows(batch, durable)
        with self._wake:
            for _ in range(batch.items):
                item = self._queue.popleft()
                self._rows -= item.count
                self._bytes -= item.bytes_held
            for fill in batch.fills:
                self._gaps = fill_gap(self._gaps, fill)
            self._oldest_at = time.monotonic()
            if durable:
                self.flushed_index = max(self.flushed_index, batch.through_index)
        if self.error:
            _logger.warning("ledger writes again", extra={"log_index": batch.through_index})
            self.error = ""
        for waiter in batch.waiters:
            if waiter.set_running_or_notify_cancel():
                waiter.set_result(None)

    def _write_rows(self, batch: _Batch, durable: bool) -> None:
        self._store.write(
            batch.tasks, batch.events, through_index=batch.through_index, gaps=batch.gaps, durable=durable
        )

    def _leave_out_refused(self, batch: _Batch) -> bool:
        """Take rows that can never be written out of the batch, loudly."""
        refused = list(self._store.refused_rows(batch.tasks, batch.events))
        for row, reason in refused:
            self.rows_refused += 1
            _logger.error(
                "ledger row is left out, it cannot be stored",
                extra={"task_id": row.task_id, "log_index": row.index, "error": reason},
            )
        left_out = {id(row) for row, _ in refused}
        batch.tasks = [row for row in batch.tasks if id(row) not in left_out]
        batch.events = [row for row in batch.events if id(row) not in left_out]
        return bool(refused)

    def _replace_file(self, batch: _Batch) -> None:
        """Put the damaged file aside. The rows it held are in no log any more: a peer has them."""
        lost = Gap(0, self._store.committed_index)
        try:
            self._store.move_aside()
        except Exception as error:
            self._note_failure(error, batch)
        _logger.error(
            "ledger file was damaged and replaced by an empty one",
            extra={"moved_to": ", ".join(map(str, self._store.damaged[-1:])), "missing_to": lost.up_to_index},
        )
        with self._wake:
            self.generation += 1
            self._gaps = add_gap(self._gaps, lost)
            batch.gaps = add_gap(batch.gaps, lost)

    def _note_failure(self, error: Exception, batch: _Batch) -> None:
        if not self.error:
            _logger.error(
                "ledger cannot be written, rows wait in memory",
                extra={"error": str(error), "log_index": batch.through_index, "backlog_rows": self._rows},
            )
        self.error = f"{type(error).__name__}: {error}"

    def _end(self) -> None:
        with self._wake:
            waiters, self._waiters = self._waiters, []
            jobs, self._jobs = self._jobs, deque()
            left = self._rows
        for waiter in waiters:
            _fail(waiter, "the ledger is closed")
        for job in jobs:
            job()
        if left:
            _logger.error("ledger closed with rows unwritten, the log has them", extra={"rows": left})
        self._store.close()


def _fail(waiter: Future[None], reason: str) -> None:
    if waiter.set_running_or_notify_cancel():
        waiter.set_exception(LedgerClosed(reason))
