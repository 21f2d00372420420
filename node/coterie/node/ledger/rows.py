"""Rows, queries, pages and errors of the ledger; plain values without a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class LedgerError(Exception):
    """The ledger could not do what was asked; the text says why and what helps."""


class PageTooLarge(LedgerError):
    """The records of a page take too much together; those of the first `tasks_fit` do not."""

    def __init__(self, reason: str, tasks_fit: int) -> None:
        super().__init__(f"{reason}; ask for a smaller page, {tasks_fit} tasks would do")
        self.tasks_fit = tasks_fit


class LedgerClosed(LedgerError):
    """The ledger was closed before it could answer."""


@dataclass(slots=True)  # not frozen, nor is the next: one is made for every event, in a third of the time
class LedgerTask:
    """A task in its terminal state. `record` is the caller's own encoding and is never looked into."""

    task_id: str
    order: int  # submit order, unique in the cluster; lists follow it
    tenant: str
    type: str
    state: str
    priority: int
    labels: Mapping[str, str]
    created_at_ms: int
    finished_at_ms: int
    index: int  # log index of the entry that made it terminal
    record: bytes


@dataclass(slots=True, unsafe_hash=True)
class LedgerEvent:
    """One durable event of a task; `sequence` is dense per task."""

    task_id: str
    sequence: int
    index: int  # log index of the entry that caused it
    record: bytes


@dataclass(frozen=True, slots=True)
class LedgerQuery:
    """What a list shall hold: every condition that is set must be met. None means: any."""

    tenant: str | None = None
    states: frozenset[str] | None = None
    types: frozenset[str] | None = None
    labels: tuple[tuple[str, str], ...] = ()
    created_from_ms: int | None = None  # inclusive
    created_before_ms: int | None = None  # exclusive

    def matches(
        self, *, tenant: str, state: str, type: str, labels: Mapping[str, str], created_at_ms: int
    ) -> bool:
        """Whether a task with these attributes belongs in the list; used for live tasks and queued rows."""
        return (
            (self.tenant is None or tenant == self.tenant)
            and (self.states is None or state in self.states)
            and (self.types is None or type in self.types)
            and all(labels.get(key) == value for key, value in self.labels)
            and (self.created_from_ms is None or created_at_ms >= self.created_from_ms)
            and (self.created_before_ms is None or created_at_ms < self.created_before_ms)
        )

    def matches_task(self, task: LedgerTask) -> bool:
        return self.matches(
            tenant=task.tenant,
            state=task.state,
            type=task.type,
            labels=task.labels,
            created_at_ms=task.created_at_ms,
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """Log indexes (after, up_to] whose rows never reached this ledger; a peer has them."""

    after_index: int  # exclusive
    up_to_index: int  # inclusive


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """Rows in the order of their log index, for copying to another node.

    The page holds every row with an index above the one asked for and up to `through_index`."""

    tasks: tuple[LedgerTask, ...]
    events: tuple[LedgerEvent, ...]
    through_index: int
    more: bool  # rows beyond `through_index` are here too


@dataclass(frozen=True, slots=True)
class LedgerOptions:
    """Limits of a ledger. `backlog_rows_max` bounds memory while the disk does not take rows."""

    batch_rows_max: int = 1_000  # a batch is written when it holds so many rows …
    batch_ms: int = 100  # … or when its first row is so old
    backlog_rows_max: int = 200_000
    backlog_bytes_max: int = 256 * 1024 * 1024
    page_rows_max: int = 1_000
    page_bytes_max: int = 32 * 1024 * 1024
    query_ms_max: int = 10_000
    read_threads: int = 2
    retry_initial_ms: int = 50
    retry_max_ms: int = 5_000
    verify_bytes_max: int = 64 * 1024 * 1024  # a bigger file is not read through when it is opened
    database_bytes_max: int = 0  # 0: as far as the disk goes


@dataclass(frozen=True, slots=True)
class QueuedRows:
    """What one append or one adopted page brought."""

    index: int
    tasks: Sequence[LedgerTask]
    events: Sequence[LedgerEvent]
    bytes_held: int
    fills: Gap | None = None

    @property
    def count(self) -> int:
        return len(self.tasks) + len(self.events)
