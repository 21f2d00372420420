"""Rows of a task and of everything below it, whose ids begin with its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coterie.node.ledger.rows import LedgerEvent, LedgerTask

if TYPE_CHECKING:
    from coterie.node.ledger.writer import QueuedRows

BELOW, AFTER = "~", "\x7f"  # what follows a task's id in those of its children, and the character behind it

_EVENT_COLUMNS = "task_id, sequence, log_index, record"


@dataclass(frozen=True, slots=True)
class FamilyRows:
    """Ended tasks below one, oldest first, and the events of it and of all below it, in the order of the log.
    `more`: there are tasks or events beyond the limits."""

    tasks: tuple[LedgerTask, ...]
    events: tuple[LedgerEvent, ...]
    more: bool


def is_of(task_id: str, root: str) -> bool:
    """Whether it is that task, or one below it."""
    return task_id == root or task_id.startswith(root + BELOW)


def select_family(
    connection: sqlite3.Connection,
    root: str,
    tasks_max: int,
    events_max: int,
    read: Callable[[Any], LedgerTask],
    columns: str,
) -> FamilyRows:
    """What the file has of a family."""
    bounds = (root + BELOW, root + AFTER)
    found = connection.execute(
        f"SELECT {columns} FROM tasks WHERE task_id > ? AND task_id < ? ORDER BY task_order LIMIT ?",
        (*bounds, tasks_max + 1),
    )
    tasks = [read(row) for row in found]
    rows = connection.execute(
        f"SELECT {_EVENT_COLUMNS} FROM (SELECT * FROM events WHERE task_id = ? UNION ALL "
        "SELECT * FROM events WHERE task_id > ? AND task_id < ?) ORDER BY log_index, event_id LIMIT ?",
        (root, *bounds, events_max + 1),
    )
    events = [LedgerEvent(*row) for row in rows]
    more = len(tasks) > tasks_max or len(events) > events_max
    return FamilyRows(tuple(tasks[:tasks_max]), tuple(events[:events_max]), more)


def with_queued(stored: FamilyRows, queued: Sequence[QueuedRows], root: str) -> FamilyRows:
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
    ordered = tuple(sorted(tasks.values(), key=lambda task: task.order))
    return FamilyRows(ordered, tuple(sorted(events.values(), key=lambda event: event.index)), stored.more)
