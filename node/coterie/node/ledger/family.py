"""Rows of a task and of everything below it, whose ids begin with its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from coterie.node.ledger.rows import LedgerEvent, LedgerTask, QueuedRows

BELOW, AFTER = "~", "\x7f"  # what follows a task's id in those of its children, and the character behind it

Row = TypeVar("Row", LedgerTask, LedgerEvent)
_EVENT_COLUMNS = "task_id, sequence, log_index, record"


@dataclass(frozen=True, slots=True)
class FamilyRows:
    """Ended tasks below one, oldest first, and the events of it and of all below it, in the order of the log.
    `more`: there are tasks or events beyond the limits. `size`: of all records, in bytes."""

    tasks: tuple[LedgerTask, ...]
    events: tuple[LedgerEvent, ...]
    more: bool

    @property
    def size(self) -> int:
        return sum(len(row.record) for rows in (self.tasks, self.events) for row in rows)


@dataclass(frozen=True, slots=True)
class FamilyLimits:
    """How much is read at most; the oldest rows are."""

    tasks: int
    events: int
    size: int  # of all records, in bytes; the tasks come first


def is_of(task_id: str, root: str) -> bool:
    """Whether it is that task, or one below it."""
    return task_id == root or task_id.startswith(root + BELOW)


def select_family(
    connection: sqlite3.Connection,
    root: str,
    limits: FamilyLimits,
    read: Callable[[Any], LedgerTask],
    columns: str,
) -> FamilyRows:
    """What the file has of a family."""
    bounds = (root + BELOW, root + AFTER)
    orders = connection.execute(  # without the records: a sort would hold them all
        "SELECT task_order FROM tasks WHERE task_id > ? AND task_id < ? ORDER BY task_order LIMIT ?",
        (*bounds, limits.tasks + 1),
    ).fetchall()
    by_order = f"SELECT {columns} FROM tasks WHERE task_order = ?"
    rows_of = (read(connection.execute(by_order, order).fetchone()) for order in orders)
    tasks, more = _fitting(rows_of, limits.tasks, limits.size)
    rows = connection.execute(
        f"SELECT {_EVENT_COLUMNS} FROM (SELECT * FROM events WHERE task_id = ? UNION ALL "
        "SELECT * FROM events WHERE task_id > ? AND task_id < ?) ORDER BY log_index, event_id LIMIT ?",
        (root, *bounds, limits.events + 1),
    )
    room = limits.size - sum(len(task.record) for task in tasks)
    events, more_events = _fitting((LedgerEvent(*row) for row in rows), limits.events, room)
    return FamilyRows(tuple(tasks), tuple(events), more or more_events)


def _fitting(rows: Iterable[Row], rows_max: int, bytes_max: int) -> tuple[list[Row], bool]:
    """The first of the rows, and whether there are more than fit."""
    taken: list[Row] = []
    for row in rows:
        bytes_max -= len(row.record)
        if len(taken) >= rows_max or bytes_max < 0:
            return taken, True
        taken.append(row)
    return taken, False


def with_queued(
    stored: FamilyRows, queued: Sequence[QueuedRows], root: str, limits: FamilyLimits
) -> FamilyRows:
    """Together with the rows that the file may not hold yet."""
    tasks = {task.task_id: task for task in stored.tasks}
    events = {(event.task_id, event.sequence): event for event in stored.events}
    for item in queued:
        for task in item.tasks:
            if task.task_id != root and is_of(task.task_id, root):
                tasks.setdefault(task.task_id, task)
        for event in item.events:
            if is_of(event.task_id, root):
                events.setdefault((event.task_id, event.sequence), event)
    ordered = sorted(tasks.values(), key=lambda task: task.order)
    kept, more = _fitting(ordered, limits.tasks, limits.size)
    room = limits.size - sum(len(task.record) for task in kept)
    in_order = sorted(events.values(), key=lambda event: event.index)
    kept_events, more_events = _fitting(in_order, limits.events, room)
    return FamilyRows(tuple(kept), tuple(kept_events), stored.more or more or more_events)
