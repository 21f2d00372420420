"""Queries on a ledger file, on connections of their own: a long list never holds up a write."""

from __future__ import annotations

import asyncio
import heapq
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from coterie.node.ledger.family import FamilyLimits, FamilyRows, select_family
from coterie.node.ledger.gaps import covered_through
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
)
from coterie.node.ledger.store import decode_labels, encode_label, is_damage

T = TypeVar("T")

_TASK_COLUMNS = (
    "task_id, task_order, tenant, type, state, priority, labels, "
    "created_at_ms, finished_at_ms, log_index, record"
)
_PAIRS_MAX = 64  # more (tenant, state) pairs than this are not worth a look-up each
_RECORDS_MAX, _RECORDS_BYTES_MAX = 500, 1 << 20  # of one page
_READS_WAITING_MAX = 1_024


class LedgerReader:
    """A few threads, each with a connection; `generation` tells when the file was replaced by another."""

    def __init__(
        self,
        path: Path,
        options: LedgerOptions,
        generation: Callable[[], int],
        on_damage: Callable[[int], None],
    ) -> None:
        self._path = path
        self._options = options
        self._generation = generation
        self._on_damage = on_damage
        self._threads = ThreadPoolExecutor(options.read_threads, thread_name_prefix="coterie-ledger-read")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._waiting = 0
        self._closed = False

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """What `query` returns; all it reads is of one moment. Raises LedgerError."""
        if self._closed:
            raise LedgerClosed("the ledger is closed")
        if self._waiting >= _READS_WAITING_MAX:
            raise LedgerError(f"{self._waiting} reads of the ledger are waiting already; try again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, query)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Blocks until the reads under way have ended."""
        self._closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        for connection in self._connections:
            connection.close()

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        generation = self._generation()
        deadline = time.monotonic() + self._options.query_ms_max / 1000
        try:
            connection = self._connect(generation)
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 20_000)
            connection.execute("BEGIN")
            try:
                return query(connection)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            if is_damage(error):
                self._on_damage(generation)
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                limit = f"longer than {self._options.query_ms_max} ms"
                raise LedgerError(f"the query took {limit}; narrow it by tenant, state or time") from error
            raise LedgerError(f"the ledger cannot be read: {error}") from error

    def _connect(self, generation: int) -> sqlite3.Connection:
        held: tuple[int, sqlite3.Connection] | None = getattr(self._local, "held", None)
        if held and held[0] == generation:
            return held[1]
        if held:
            self._connections.remove(held[1])
            held[1].close()
            self._local.held = None
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=2)
        self._connections.append(connection)
        connection.execute("PRAGMA query_only=1")
        connection.execute("PRAGMA cache_size=-4096")
        self._local.held = (generation, connection)
        return connection


def select_task(connection: sqlite3.Connection, task_id: str) -> LedgerTask | None:
    row = connection.execute(f"SELECT {_TASK_COLUMNS} FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
    return _task(row) if row else None


def select_tasks(
    connection: sqlite3.Connection, query: LedgerQuery, before_order: int | None, limit: int, bytes_max: int
) -> list[LedgerTask]:
    """Newest first. Raises PageTooLarge when the records of `limit` tasks, but not of one, are too large."""
    conditions, values = _conditions(query, before_order)
    pairs = _pairs(connection, query)
    if len(pairs) > _PAIRS_MAX:
        orders = _select_orders(connection, conditions, values, limit)
    else:
        found = [
            _select_orders(
                connection, ["tenant = ?", "state = ?", *conditions], [tenant, state, *values], limit
            )
            for tenant, state in pairs
        ]
        orders = heapq.nlargest(limit, (order for part in found for order in part))
    tasks: list[LedgerTask] = []
    size = 0
    for order in orders:
        row = connection.execute(
            f"SELECT {_TASK_COLUMNS} FROM tasks WHERE task_order = ?", (order,)
        ).fetchone()
        tasks.append(_task(row))
        size += len(tasks[-1].record)
        if size > bytes_max and len(tasks) > 1:
            reason = f"the records of {len(orders)} tasks take more than {bytes_max} bytes"
            raise PageTooLarge(reason, len(tasks) - 1)
    return tasks


def select_events(
    connection: sqlite3.Connection, task_id: str, after_sequence: int, limit: int, bytes_max: int
) -> list[LedgerEvent]:
    rows = connection.execute(
        "SELECT task_id, sequence, log_index, record FROM events WHERE task_id = ? AND sequence > ? "
        "ORDER BY sequence LIMIT ?",
        (task_id, after_sequence, limit),
    )
    events: list[LedgerEvent] = []
    size = 0
    for row in rows:
        events.append(LedgerEvent(*row))
        size += len(events[-1].record)
        if size >= bytes_max:
            break
    return events


def select_family_rows(connection: sqlite3.Connection, root: str, limits: FamilyLimits) -> FamilyRows:
    """See `family.select_family`."""
    return select_family(connection, root, limits, _task, _TASK_COLUMNS)


def select_records(connection: sqlite3.Connection, table: str, after: int) -> list[tuple[int, bytes]]:
    """The next rows of "tasks" or "events", as (row id, record); empty at the end."""
    page: list[tuple[int, bytes]] = []
    size = 0
    for row in connection.execute(
        f"SELECT rowid, record FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {_RECORDS_MAX}", (after,)
    ):
        page.append(row)
        size += len(row[1])
        if size > _RECORDS_BYTES_MAX:
            break
    return page


def select_counts(connection: sqlite3.Connection) -> dict[str, int]:
    rows = connection.execute(
        "SELECT state, sum(tasks) FROM task_counts GROUP BY state HAVING sum(tasks) > 0"
    )
    return dict(rows.fetchall())


def select_page(
    connection: sqlite3.Connection, after_index: int, limit: int, bytes_max: int, across_gaps: bool = False
) -> LedgerPage:
    """Committed rows above `after_index`, up to the next gap unless `across_gaps`. An index is never split
    over two pages, so a page may exceed the limits by the rows of one log entry."""
    found = connection.execute("SELECT value FROM meta WHERE key = 'index'").fetchone()
    committed = found[0] if found else 0
    noted = () if across_gaps else connection.execute("SELECT * FROM gaps ORDER BY after_index")
    gaps = [Gap(*row) for row in noted]
    covered = covered_through(gaps, after_index, committed)
    through, more = _cut(connection, after_index, covered, limit, bytes_max)
    window = (after_index, through)
    tasks = connection.execute(
        f"SELECT {_TASK_COLUMNS} FROM tasks WHERE log_index > ? AND log_index <= ? ORDER BY log_index", window
    )
    events = connection.execute(
        "SELECT task_id, sequence, log_index, record FROM events WHERE log_index > ? AND log_index <= ? "
        "ORDER BY log_index, event_id",
        window,
    )
    return LedgerPage(tuple(map(_task, tasks)), tuple(LedgerEvent(*row) for row in events), through, more)


def _cut(
    connection: sqlite3.Connection, after_index: int, covered: int, limit: int, bytes_max: int
) -> tuple[int, bool]:
    """The index at which a page ends, and whether rows follow it."""
    rows = connection.execute(
        "SELECT log_index, length(record) FROM tasks WHERE log_index > ?1 AND log_index <= ?2 UNION ALL "
        "SELECT log_index, length(record) FROM events WHERE log_index > ?1 AND log_index <= ?2 "
        "ORDER BY log_index",
        (after_index, covered),
    )
    count = size = last = 0
    for index, length in rows:
        if (count >= limit or size >= bytes_max) and index > last:
            return last, True
        count, size, last = count + 1, size + length, index
    return covered, False


def _pairs(connection: sqlite3.Connection, query: LedgerQuery) -> list[tuple[str, str]]:
    """The (tenant, state) pairs that occur and that the query asks for."""
    rows: Iterable[tuple[str, str]]
    if query.tenant is None:
        rows = connection.execute("SELECT tenant, state FROM task_counts WHERE tasks > 0")
    else:
        rows = connection.execute(
            "SELECT tenant, state FROM task_counts WHERE tenant = ? AND tasks > 0", (query.tenant,)
        )
    return [row for row in rows if query.states is None or row[1] in query.states]


def _conditions(query: LedgerQuery, before_order: int | None) -> tuple[list[str], list[object]]:
    """SQL conditions for what the index does not say. Only marks are put into the text, never values."""
    conditions: list[str] = []
    values: list[object] = []

    def add(condition: str, *arguments: object) -> None:
        conditions.append(condition)
        values.extend(arguments)

    if before_order is not None:
        add("task_order < ?", before_order)
    if query.tenant is not None:
        add("+tenant = ?", query.tenant)
    if query.states is not None:
        add(f"+state IN ({_marks(query.states)})", *sorted(query.states))
    if query.types is not None:
        add(f"type IN ({_marks(query.types)})", *sorted(query.types))
    for key, value in query.labels:
        add("instr(labels, ?) > 0", encode_label(key, value))
    if query.created_from_ms is not None:
        add("created_at_ms >= ?", query.created_from_ms)
    if query.created_before_ms is not None:
        add("created_at_ms < ?", query.created_before_ms)
    return conditions, values


def _marks(values: Iterable[str]) -> str:
    return ", ".join("?" for _ in values)


def _select_orders(
    connection: sqlite3.Connection, conditions: list[str], values: list[object], limit: int
) -> list[int]:
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    rows = connection.execute(
        f"SELECT task_order FROM tasks {where}ORDER BY task_order DESC LIMIT ?", (*values, limit)
    )
    return [row[0] for row in rows]


def _task(row: Any) -> LedgerTask:
    (task_id, order, tenant, type_, state, priority, labels, created, finished, index, record) = row
    return LedgerTask(
        task_id=task_id,
        order=order,
        tenant=tenant,
        type=type_,
        state=state,
        priority=priority,
        labels=decode_labels(labels),
        created_at_ms=created,
        finished_at_ms=finished,
        index=index,
        record=record,
    )
