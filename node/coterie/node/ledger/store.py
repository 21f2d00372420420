"""The ledger's SQLite file: opening, checking, moving a damaged one aside, and writing; all of it blocks."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from coterie.node.ledger.rows import Gap, LedgerError, LedgerEvent, LedgerOptions, LedgerTask

APPLICATION_ID = 0x436F_7472  # "Cotr": tells our files from other people's SQLite files
SCHEMA_VERSION = 1
_DAMAGED_KEPT_MAX = 8  # the last one is overwritten: a broken disk must not fill itself with copies

# Events and tasks are appended in the order of their rowid; the unique keys make a replay harmless. States
# are counted by triggers, so that a row which was there already is not counted twice.
_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE gaps(after_index INTEGER PRIMARY KEY, up_to_index INTEGER NOT NULL);
CREATE TABLE tasks(
  task_order INTEGER PRIMARY KEY, task_id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, type TEXT NOT NULL,
  state TEXT NOT NULL, priority INTEGER NOT NULL, labels TEXT NOT NULL, created_at_ms INTEGER NOT NULL,
  finished_at_ms INTEGER NOT NULL, log_index INTEGER NOT NULL, record BLOB NOT NULL);
CREATE INDEX tasks_by_state ON tasks(tenant, state, task_order);
CREATE INDEX tasks_by_index ON tasks(log_index);
CREATE TABLE events(
  event_id INTEGER PRIMARY KEY, task_id TEXT NOT NULL, sequence INTEGER NOT NULL, log_index INTEGER NOT NULL,
  record BLOB NOT NULL, UNIQUE(task_id, sequence));
CREATE INDEX events_by_index ON events(log_index);
CREATE TABLE task_counts(tenant TEXT, state TEXT, tasks INTEGER NOT NULL, PRIMARY KEY(tenant, state))
  WITHOUT ROWID;
CREATE TRIGGER count_up AFTER INSERT ON tasks BEGIN
  INSERT INTO task_counts VALUES(new.tenant, new.state, 1)
    ON CONFLICT(tenant, state) DO UPDATE SET tasks = tasks + 1;
END;
CREATE TRIGGER count_down AFTER DELETE ON tasks BEGIN
  UPDATE task_counts SET tasks = tasks - 1 WHERE tenant = old.tenant AND state = old.state;
END;
"""

# Only a task that is here already is passed over: two tasks with one order are an error, not a silent loss.
_INSERT_TASK = "INSERT INTO tasks VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(task_id) DO NOTHING"
_INSERT_EVENT = (
    "INSERT INTO events(task_id, sequence, log_index, record) VALUES(?, ?, ?, ?) "
    "ON CONFLICT(task_id, sequence) DO NOTHING"
)
_RESERVE_BYTES = 1 << 20
_CHECKPOINT_COMMITS, _CHECKPOINT_BYTES = 500, 8 << 20  # between two copies of the write-ahead log
_SYNC_FAILURES = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

# Faults of a row itself; trying again cannot help.
ROW_ERRORS = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    OverflowError,
    UnicodeError,
)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken, rather than the disk full or busy."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _DAMAGE


def is_sync_failure(error: Exception) -> bool:
    """Whether a sync failed: what was written before it may be lost, and another sync would not say so."""
    return getattr(error, "sqlite_errorcode", None) in _SYNC_FAILURES


def is_full(error: sqlite3.Error) -> bool:
    """Whether it was for want of room. A file that cannot be made at all is an "unable to open" to SQLite."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN)


@contextmanager
def _full_disk_forgiven() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if not is_full(error):
            raise


def encode_labels(labels: Mapping[str, str]) -> str:
    """Labels as JSON pairs in which `[` opens a pair and nothing else, so that a pair is found by `instr`."""
    return "".join(encode_label(key, value) for key, value in sorted(labels.items()))


def encode_label(key: str, value: str) -> str:
    return "[" + json.dumps([key, value])[1:].replace("[", "\\u005b")


def decode_labels(text: str) -> dict[str, str]:
    return dict(json.loads("[" + text.replace('"][', '"],[') + "]"))


class LedgerStore:
    """The writing side. Every method blocks, and all are called by one thread at a time."""

    def __init__(self, path: Path, options: LedgerOptions) -> None:
        self.path = path
        self.committed_index = 0
        self.gaps: tuple[Gap, ...] = ()
        self.damaged: list[Path] = []
        self._options = options
        self._connection: sqlite3.Connection | None = None
        self._has_reserve = True
        self._commits = self._bytes = 0  # since the write-ahead log was copied into the database

    def open(self) -> None:
        """Open or make the file. Raises LedgerError when it is not ours or of a newer version."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open_with_room()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise LedgerError(f"cannot open the ledger {self.path}: {error}") from error
            self.move_aside()
        except OSError as error:
            raise LedgerError(f"cannot open the ledger {self.path}: {error}") from error
        self._keep_reserve()

    def _open_with_room(self) -> None:
        """On a full disk opening needs a little room: for that there is a file that can go."""
        try:
            self._open_once()
        except sqlite3.Error as error:
            if not is_full(error) or not self._reserve.exists():
                raise
            self._reserve.unlink()
            self._open_once()

    @property
    def _reserve(self) -> Path:
        return self.path.with_name(self.path.name + ".reserve")

    def _keep_reserve(self) -> None:
        """Without room for it there is none; a later write tries again."""
        self._has_reserve = self._reserve.exists()
        if self._has_reserve:
            return
        try:
            with self._reserve.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)
            self._has_reserve = True
        except OSError:
            self._reserve.unlink(missing_ok=True)

    def move_aside(self) -> None:
        """Keep the damaged file under another name and start an empty one. Raises sqlite3.Error, OSError."""
        self.close()
        names = (self.path.with_name(f"{self.path.name}.damaged-{n}") for n in range(1, _DAMAGED_KEPT_MAX))
        last = self.path.with_name(f"{self.path.name}.damaged-{_DAMAGED_KEPT_MAX}")
        target = next((name for name in names if not name.exists()), last)
        wal = self.path.with_name(self.path.name + "-wal")
        if wal.exists():
            wal.replace(target.with_name(target.name + "-wal"))
        self.path.with_name(self.path.name + "-shm").unlink(missing_ok=True)
        if self.path.exists():
            self.path.replace(target)
        self.damaged.append(target)
        self._open_once()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def write(
        self,
        tasks: Sequence[LedgerTask],
        events: Sequence[LedgerEvent],
        *,
        through_index: int,
        gaps: tuple[Gap, ...],
        durable: bool,
    ) -> None:
        """Commit rows, the index they reach and the gaps in one transaction. `durable` waits for the disk."""
        with self._transaction(durable) as connection:
            if tasks:
                connection.executemany(_INSERT_TASK, map(_task_values, tasks))
            if events:
                connection.executemany(_INSERT_EVENT, map(_event_values, events))
            reached = max(through_index, self.committed_index)
            connection.execute("INSERT OR REPLACE INTO meta VALUES('index', ?)", (reached,))
            if gaps != self.gaps:
                connection.execute("DELETE FROM gaps")
                connection.executemany(
                    "INSERT INTO gaps VALUES(?, ?)", [(gap.after_index, gap.up_to_index) for gap in gaps]
                )
        self.committed_index, self.gaps = reached, gaps
        self._bytes += sum(len(row.record) for row in tasks) + sum(len(row.record) for row in events)
        if self._commits >= _CHECKPOINT_COMMITS or self._bytes >= _CHECKPOINT_BYTES:
            self._checkpoint()
        if not self._has_reserve:
            self._keep_reserve()

    def refused_rows(
        self, tasks: Iterable[LedgerTask], events: Iterable[LedgerEvent]
    ) -> Iterator[tuple[LedgerTask | LedgerEvent, str]]:
        """Rows that SQLite will never take (a number out of range, an order used twice) and why.

        They are tried one by one in a transaction that is rolled back."""
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows: list[LedgerTask | LedgerEvent] = [*tasks, *events]
            for row in rows:
                try:
                    if isinstance(row, LedgerTask):
                        connection.execute(_INSERT_TASK, _task_values(row))
                    else:
                        connection.execute(_INSERT_EVENT, _event_values(row))
                except ROW_ERRORS as error:
                    yield row, str(error)
        finally:
            connection.execute("ROLLBACK")

    def prune(self, finished_before_ms: int, limit: int) -> tuple[int, bool]:
        """Delete up to `limit` of the oldest tasks with their events; how many, and whether more may be due.

        Finish times grow along the log, so the walk in log order ends at the first task that stays."""
        with self._transaction(durable=False) as connection:
            oldest = connection.execute(
                "SELECT task_order, task_id, finished_at_ms FROM tasks ORDER BY log_index LIMIT ?", (limit,)
            ).fetchall()
            due = [row for row in oldest if row[2] < finished_before_ms]
            connection.executemany("DELETE FROM tasks WHERE task_order = ?", [(row[0],) for row in due])
            connection.executemany("DELETE FROM events WHERE task_id = ?", [(row[1],) for row in due])
        return len(due), len(due) == limit

    def _checkpoint(self) -> None:
        """SQLite's own checkpoint, after a commit, keeps a failed sync to itself."""
        with _full_disk_forgiven():
            self._connected().execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._commits = self._bytes = 0

    @contextmanager
    def _transaction(self, durable: bool) -> Iterator[sqlite3.Connection]:
        connection = self._connected()
        # In WAL mode FULL syncs the log file after the commit, and with it every commit before this one.
        connection.execute("PRAGMA synchronous=" + ("FULL" if durable else "NORMAL"))
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
            self._commits += 1
        except BaseException:
            # A full disk has ended the transaction already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:  # an earlier attempt to re-create the file failed half-way
            self._open_once()
        assert self._connection is not None
        return self._connection

    def _open_once(self) -> None:
        fresh = not self.path.exists()
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=2)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if fresh:
            _sync_directory(self.path.parent)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if not _identify(connection, self.path):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id={APPLICATION_ID};"
                f" PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
            )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA journal_size_limit=33554432")
        connection.execute("PRAGMA cache_size=-16384")
        if self._options.database_bytes_max:
            page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
            pages_max = max(1, self._options.database_bytes_max // page_bytes)
            connection.execute(f"PRAGMA max_page_count={pages_max}")
        if self.path.stat().st_size <= self._options.verify_bytes_max:
            _verify(connection)
        # What a killed process committed may be in the page cache only. It must be on the disk before this
        # ledger calls it durable.
        connection.execute("PRAGMA synchronous=FULL")
        with _full_disk_forgiven():  # the write-ahead log is synced before its pages need room elsewhere
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        found = connection.execute("SELECT value FROM meta WHERE key = 'index'").fetchone()
        self.committed_index = found[0] if found else 0
        rows = connection.execute("SELECT after_index, up_to_index FROM gaps ORDER BY after_index")
        self.gaps = tuple(Gap(*row) for row in rows)


def _identify(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file holds a ledger that this version reads; False for an empty one."""
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application_id == 0 and version == 0 and tables == 0:
        return False
    if application_id != APPLICATION_ID:
        raise LedgerError(
            f"{path} is an SQLite file of another program (application id {application_id:#x}); "
            "point storage.dir at a directory of its own, or move that file away"
        )
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has ledger format {version}, this version reads up to {SCHEMA_VERSION}; "
            "start the newer version of coterie, or move the file away to have it rebuilt"
        )
    return True


def _verify(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        error = sqlite3.DatabaseError(found)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def _task_values(task: LedgerTask) -> tuple[object, ...]:
    return (
        task.order,
        task.task_id,
        task.tenant,
        task.type,
        task.state,
        task.priority,
        encode_labels(task.labels),
        task.created_at_ms,
        task.finished_at_ms,
        task.index,
        task.record,
    )


def _event_values(event: LedgerEvent) -> tuple[object, ...]:
    return (event.task_id, event.sequence, event.index, event.record)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
