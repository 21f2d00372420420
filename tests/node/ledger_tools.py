"""Rows for the tests of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from coterie.node.ledger import Ledger, LedgerEvent, LedgerOptions, LedgerTask

IDLE = LedgerOptions(batch_ms=3_600_000)  # nothing is written unless asked for


def task(number: int, **changes: object) -> LedgerTask:
    """Task `number`; its order and its log index are the number too."""
    values: dict[str, object] = {
        "task_id": f"task-{number}",
        "order": number,
        "tenant": "default",
        "type": "map",
        "state": "SUCCEEDED",
        "priority": 2,
        "labels": {},
        "created_at_ms": 1_000 + number,
        "finished_at_ms": 2_000 + number,
        "index": number,
        "record": f"record of {number}".encode(),
    }
    return LedgerTask(**(values | changes))  # type: ignore[arg-type]


def event(number: int, sequence: int, index: int | None = None) -> LedgerEvent:
    return LedgerEvent(f"task-{number}", sequence, index or number, f"event {sequence}".encode())


def append(ledger: Ledger, first: int, last: int) -> None:
    """Log entries `first` to `last`, each with one finished task and its two events."""
    for number in range(first, last + 1):
        ledger.append(number, [task(number)], [event(number, 1), event(number, 2)])


@asynccontextmanager
async def opened(path: Path, options: LedgerOptions | None = None) -> AsyncIterator[Ledger]:
    ledger = await Ledger.open(path, options)
    try:
        yield ledger
    finally:
        await ledger.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the condition; the time limit of the test ends it when it never comes."""
    while not condition():  # noqa: ASYNC110 (another thread makes it true)
        await asyncio.sleep(0.005)
