"""Kills, damaged files, full disks: the ledger loses nothing it called durable, and says what it lacks."""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.node.ledger import (
    Gap,
    Ledger,
    LedgerClosed,
    LedgerError,
    LedgerEvent,
    LedgerOptions,
    LedgerQuery,
    LedgerTask,
)
from coterie.node.ledger.gaps import GAPS_MAX, add_gap, covered_through, fill_gap
from coterie.node.ledger.store import LedgerStore
from tests.node.ledger_tools import IDLE, append, event, opened, task, until

ALL = LedgerQuery()
PAGE = 4_096  # bytes of a database page


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def run_helper(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of its own that may be killed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def damage(path: Path, offsets: Iterable[int], length: int, dice: random.Random) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(dice.randbytes(length))


def pages_of(path: Path) -> int:
    return path.stat().st_size // PAGE


# Writes for ever, flushes now and then, and is killed at a statement of the thread that writes: mostly in the
# middle of a transaction.
WRITE_UNTIL_KILLED = """
    import asyncio, itertools, os, signal, sys
    from pathlib import Path
    from coterie.node.ledger import Ledger, LedgerOptions
    from coterie.node.ledger.store import LedgerStore
    from tests.node.ledger_tools import append

    statements = itertools.count(1)
    open_once = LedgerStore._open_once

    def count(_):
        if next(statements) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

    def open_and_count(store):
        open_once(store)
        store._connection.set_trace_callback(count)

    LedgerStore._open_once = open_and_count

    async def main():
        ledger = await Ledger.open(Path(sys.argv[1]), LedgerOptions(batch_ms=1))
        first = int(sys.argv[2])
        for number in itertools.count(1):
            append(ledger, first, first + 4)
            first += 5
            if number % 5 == 0:
                await ledger.flush(first - 1)
                print(ledger.flushed_index, flush=True)
            else:
                await asyncio.sleep(0.001)

    asyncio.run(main())
"""


def write_until_killed(path: Path, first: int, statement: int) -> int:
    """Let a process write entries from `first` on until it is killed; the last index it had flushed."""
    with run_helper(WRITE_UNTIL_KILLED, str(path), str(first), str(statement)) as process:
        output, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
    return int(output.split()[-1]) if output else first - 1


@pytest.mark.parametrize("seed", range(3))
async def test_kill_9_in_the_middle_of_writing_loses_nothing_that_was_flushed(path: Path, seed: int) -> None:
    dice = random.Random(seed)
    first = 1
    for _ in range(3):
        flushed = write_until_killed(path, first, statement=dice.randint(5, 400))
        async with opened(path) as ledger:
            durable = ledger.flushed_index
            assert durable >= flushed
            tasks, events = await everything(ledger)
            # Whole log entries, from the first to the last that it claims, and none beyond.
            assert [row.order for row in tasks] == list(range(1, durable + 1))
            assert len(events) == 2 * durable
            # The log replays what came after its last compaction.
            append(ledger, max(1, flushed - 10), durable + 5)
            await ledger.flush(durable + 5)
            assert await ledger.counts() == {"SUCCEEDED": durable + 5}
            assert ledger.gaps == ()
            first = durable + 6


async def everything(ledger: Ledger) -> tuple[list[LedgerTask], list[LedgerEvent]]:
    """All committed rows."""
    tasks: list[LedgerTask] = []
    events: list[LedgerEvent] = []
    after, more = 0, True
    while more:
        page = await ledger.rows_after(after, 1_000)
        tasks += page.tasks
        events += page.events
        after, more = page.through_index, page.more
    return tasks, events


@pytest.fixture
def noise(path: Path) -> Path:
    path.write_bytes(b"noise, not a database" * 500)
    return path


async def test_a_file_that_is_no_database_is_moved_aside(
    noise: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = noise
    async with opened(path) as ledger:
        assert ledger.flushed_index == 0
        (moved,) = ledger.damaged_files
        with moved.open("rb") as file:
            assert file.read(5) == b"noise"
        assert "ledger file was damaged" in caplog.text
        append(ledger, 1, 3)
    async with opened(path) as ledger:
        assert ledger.damaged_files == ()
        assert len(await ledger.tasks(ALL, None, 10)) == 3


@pytest.mark.parametrize("seed", range(5))
async def test_a_torn_page_is_found_when_the_file_is_opened(path: Path, seed: int) -> None:
    async with opened(path) as ledger:
        append(ledger, 1, 500)
    dice = random.Random(seed)
    damage(path, [PAGE * page for page in dice.sample(range(1, pages_of(path)), 4)], PAGE, dice)
    async with opened(path) as ledger:
        assert ledger.flushed_index == 0
        assert [file.name for file in ledger.damaged_files] == ["ledger.db.damaged-1"]
        # The log is compacted up to 500 and the state is restored from a snapshot there.
        ledger.note_snapshot(500)
        assert ledger.gaps == (Gap(0, 500),)


async def test_damage_found_while_running_replaces_the_file_and_notes_the_gap(path: Path) -> None:
    options = LedgerOptions(verify_bytes_max=0, batch_ms=5)
    async with opened(path, options) as ledger:
        append(ledger, 1, 2_000)
    damage(path, [PAGE * page for page in range(20, pages_of(path))], PAGE, random.Random(1))
    async with opened(path, options) as ledger:
        assert ledger.flushed_index == 2_000
        with pytest.raises(LedgerError, match="cannot be read"):
            await read_all(ledger)
        await until(lambda: bool(ledger.damaged_files))
        append(ledger, 2_001, 2_010)
        await ledger.flush(2_010)
        assert ledger.gaps == (Gap(0, 2_000),)
        assert [row.order for row in await ledger.tasks(ALL, None, 1_000)] == list(range(2_010, 2_000, -1))
    async with opened(path, options) as ledger:
        assert (ledger.gaps, ledger.flushed_index) == ((Gap(0, 2_000),), 2_010)


async def read_all(ledger: Ledger) -> None:
    for number in range(1, 2_001):
        await ledger.task(f"task-{number}")
        await ledger.events(f"task-{number}", 0, 10)


def test_damaged_copies_do_not_pile_up_for_ever(path: Path) -> None:
    for number in range(12):
        path.write_bytes(b"damage %d" % number)
        store = LedgerStore(path, LedgerOptions())
        store.open()
        store.close()
    copies = [file for file in path.parent.iterdir() if "damaged" in file.name]
    assert len(copies) == 8
    assert (path.parent / "ledger.db.damaged-8").read_bytes() == b"damage 11"


async def test_a_newer_format_is_refused_and_left_alone(path: Path) -> None:
    async with opened(path) as ledger:
        append(ledger, 1, 1)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(LedgerError, match="ledger format 99, this version reads up to 1; start the newer"):
        await Ledger.open(path)
    assert [file.name for file in path.parent.iterdir() if "damaged" in file.name] == []


async def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE accounts(id INTEGER)")
    connection.close()
    with pytest.raises(LedgerError, match="another program"):
        await Ledger.open(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM accounts").fetchone() == (0,)
    connection.close()


async def test_a_directory_that_cannot_be_made_is_named(noise: Path) -> None:
    with pytest.raises(LedgerError, match="cannot open the ledger"):
        await Ledger.open(noise / "ledger.db")


FULL_DISK = """
    import asyncio, os, resource, sys
    from pathlib import Path
    from coterie.node.ledger import Ledger, LedgerOptions, LedgerQuery
    from tests.node.ledger_tools import append, until

    async def main():
        options = LedgerOptions(batch_ms=1, retry_initial_ms=1, retry_max_ms=20)
        ledger = await Ledger.open(Path(sys.argv[1]), options)
        append(ledger, 1, 100)
        await ledger.flush(100)
        # From here on the kernel refuses to let a file of this process grow.
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
        append(ledger, 101, 3000)
        flush = asyncio.create_task(ledger.flush(3000))
        await until(lambda: ledger.error != "")
        assert not flush.done()
        assert ledger.flushed_index == 100, ledger.flushed_index
        assert ledger.backlog > 0
        # Reads go on, over what is on the disk and what waits in memory.
        assert (await ledger.task("task-3000")).order == 3000
        assert (await ledger.task("task-50")).order == 50
        assert len(await ledger.tasks(LedgerQuery(), None, 1000)) == 1000
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        await flush
        assert (ledger.error, ledger.backlog, ledger.flushed_index) == ("", 0, 3000)
        assert await ledger.counts() == {"SUCCEEDED": 3000}
        await ledger.close()
        print("fine")

    asyncio.run(main())
"""


def test_a_disk_that_takes_no_more_is_outlived(path: Path) -> None:
    with run_helper(FULL_DISK, str(path)) as process:
        output, errors = process.communicate()
    assert output == "fine\n", errors


async def test_while_the_disk_is_full_the_backlog_is_bounded_and_the_loss_is_noted(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = LedgerOptions(batch_ms=1, backlog_rows_max=30, retry_initial_ms=1, retry_max_ms=2)
    async with opened(path, options) as ledger:
        append(ledger, 1, 3)
        await ledger.flush(3)
        disk = FullDisk(monkeypatch)
        append(ledger, 4, 20)
        await until(lambda: ledger.error != "")
        assert ledger.error == "OperationalError: database or disk is full"
        assert ledger.backlog == 30
        assert ledger.gaps == (Gap(13, 20),)
        assert ledger.rows_lost == 21
        assert "backlog is full" in caplog.text
        disk.free()
        await ledger.flush(20)
        append(ledger, 21, 21)
        await ledger.flush(21)
        assert (ledger.error, ledger.backlog) == ("", 0)
        assert [row.order for row in await ledger.tasks(ALL, 21, 1_000)] == list(range(13, 0, -1))
    async with opened(path, options) as ledger:
        assert ledger.gaps == (Gap(13, 20),)


class FullDisk:
    """Makes every write of a ledger fail until `free`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(LedgerStore, "write", self._refuse)

    def _refuse(self, *_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def free(self) -> None:
        self._monkeypatch.undo()


async def test_closing_on_a_full_disk_ends_and_fails_those_who_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = await Ledger.open(path, LedgerOptions(batch_ms=1))
    append(ledger, 1, 3)
    await ledger.flush(3)
    disk = FullDisk(monkeypatch)
    append(ledger, 4, 6)
    waiting = ledger._writer.flush(6)
    await until(lambda: ledger.error != "")
    await ledger.close()
    assert isinstance(waiting.exception(0), LedgerClosed)
    assert "closed with rows unwritten" in caplog.text
    disk.free()
    async with opened(path) as again:
        assert again.flushed_index == 3


async def test_a_lock_held_by_another_process_delays_and_loses_nothing(path: Path) -> None:
    async with opened(path, LedgerOptions(batch_ms=1, retry_initial_ms=1)) as ledger:
        with sqlite3.connect(path, isolation_level=None) as connection:
            connection.execute("BEGIN IMMEDIATE")
            append(ledger, 1, 3)
            await until(lambda: "locked" in ledger.error)
            assert len(await ledger.tasks(ALL, None, 10)) == 3
            connection.execute("ROLLBACK")
        connection.close()
        await ledger.flush(3)
        assert await ledger.counts() == {"SUCCEEDED": 3}


async def test_a_row_that_can_never_be_stored_does_not_hold_up_the_others(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(path, IDLE) as ledger:
        too_large = task(2, priority=2**70)
        same_order = task(4, order=1)
        ledger.append(5, [task(1), too_large, task(3), same_order], [event(1, 1), event(2, 2**70)])
        await ledger.flush(5)
        assert [row.order for row in await ledger.tasks(ALL, None, 10)] == [3, 1]
        assert len(await ledger.events("task-1", 0, 10)) == 1
        assert ledger.rows_lost == 3
        refused = [vars(r)["task_id"] for r in caplog.records if "cannot be stored" in r.message]
        assert refused == ["task-2", "task-4", "task-2"]
        assert all(r.levelno == logging.ERROR for r in caplog.records)


INDEX = st.integers(0, 30)
GAP = st.tuples(INDEX, INDEX).map(lambda pair: Gap(min(pair), max(pair)))


def indexes(gaps: tuple[Gap, ...]) -> set[int]:
    return {index for gap in gaps for index in range(gap.after_index + 1, gap.up_to_index + 1)}


@given(st.lists(st.tuples(st.booleans(), GAP), max_size=12), INDEX, INDEX)
def test_gaps_are_sets_of_indexes(changes: list[tuple[bool, Gap]], after: int, up_to: int) -> None:
    gaps: tuple[Gap, ...] = ()
    expected: set[int] = set()
    for adds, gap in changes:
        if adds:
            gaps, expected = add_gap(gaps, gap), expected | indexes((gap,))
        else:
            gaps, expected = fill_gap(gaps, gap), expected - indexes((gap,))
        assert indexes(gaps) == expected
        assert all(a.up_to_index <= b.after_index for a, b in itertools.pairwise(gaps))
    covered = covered_through(gaps, after, up_to)
    assert covered == next((i - 1 for i in range(after + 1, up_to + 1) if i in expected), max(after, up_to))


def test_too_many_gaps_are_joined_and_never_forgotten() -> None:
    gaps: tuple[Gap, ...] = ()
    for number in range(3 * GAPS_MAX):
        gaps = add_gap(gaps, Gap(number * 10, number * 10 + 1))
    assert len(gaps) == GAPS_MAX
    assert {number * 10 + 1 for number in range(3 * GAPS_MAX)} <= indexes(gaps)
