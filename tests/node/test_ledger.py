"""The ledger keeps what it was given, once, and says truthfully what is durable."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
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
from tests.node.ledger_tools import IDLE, append, event, opened, task, until

ALL = LedgerQuery()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node" / "ledger.db"


async def test_reads_see_rows_that_no_file_has_yet(path: Path) -> None:
    async with opened(path, IDLE) as ledger:
        append(ledger, 1, 3)
        assert ledger.backlog == 9
        assert await ledger.task("task-2") == task(2)
        assert [row.order for row in await ledger.tasks(ALL, None, 10)] == [3, 2, 1]
        assert await ledger.events("task-3", 1, 10) == [event(3, 2)]
        assert await ledger.counts() == {}


async def test_rows_survive_a_restart_with_all_their_fields(path: Path) -> None:
    labels = {"team": 'x"[\\', "empty": "", "größe": "[1]"}
    kept = task(7, labels=labels, record=bytes(range(256)), tenant="acme", priority=4, state="TIMED_OUT")
    async with opened(path) as ledger:
        ledger.append(7, [kept], [event(7, 1)])
    async with opened(path) as ledger:
        assert await ledger.task("task-7") == kept
        assert await ledger.events("task-7", 0, 10) == [event(7, 1)]
        assert await ledger.task("task-8") is None
        assert (ledger.flushed_index, ledger.backlog, ledger.error) == (7, 0, "")


async def test_queued_and_stored_rows_make_one_list(path: Path) -> None:
    async with opened(path, IDLE) as ledger:
        append(ledger, 1, 4)
        await ledger.flush(4)
        append(ledger, 4, 6)  # entry 4 is replayed
        assert [row.order for row in await ledger.tasks(ALL, None, 4)] == [6, 5, 4, 3]
        assert [row.order for row in await ledger.tasks(ALL, 3, 4)] == [2, 1]
        assert [row.sequence for row in await ledger.events("task-4", 0, 10)] == [1, 2]


async def test_flush_makes_an_index_durable_even_without_rows(path: Path) -> None:
    async with opened(path, IDLE) as ledger:
        append(ledger, 1, 2)
        await ledger.flush(40)
        assert (ledger.flushed_index, ledger.backlog) == (40, 0)
        await ledger.flush(12)
        assert ledger.flushed_index == 40
    async with opened(path) as ledger:
        assert ledger.flushed_index == 40
        assert ledger.gaps == ()


async def test_a_replay_changes_nothing(path: Path) -> None:
    async with opened(path) as ledger:
        append(ledger, 1, 50)
        await ledger.flush(50)
    async with opened(path) as ledger:
        append(ledger, 30, 60)
        await ledger.flush(60)
        assert await ledger.counts() == {"SUCCEEDED": 60}
        page = await ledger.rows_after(0, 1_000)
        assert len(page.tasks) == 60
        assert len(page.events) == 120


async def test_rows_are_written_soon_without_being_asked_for(path: Path) -> None:
    async with opened(path, LedgerOptions(batch_ms=20)) as ledger:
        append(ledger, 1, 10)
        await until(lambda: ledger.backlog == 0)
        assert await ledger.counts() == {"SUCCEEDED": 10}


async def test_a_full_batch_does_not_wait_for_its_time(path: Path) -> None:
    async with opened(path, LedgerOptions(batch_ms=3_600_000, batch_rows_max=30)) as ledger:
        append(ledger, 1, 10)
        await until(lambda: ledger.backlog == 0)


async def test_counts_by_state_follow_inserts_and_deletes(path: Path) -> None:
    async with opened(path) as ledger:
        for number in range(1, 13):
            state = "FAILED" if number % 3 == 0 else "SUCCEEDED"
            ledger.append(number, [task(number, state=state, tenant=f"t{number % 2}")], [event(number, 1)])
        await ledger.flush(12)
        assert await ledger.counts() == {"SUCCEEDED": 8, "FAILED": 4}
        assert await ledger.prune(finished_before_ms=2_000 + 4) == 3
        assert await ledger.counts() == {"SUCCEEDED": 6, "FAILED": 3}
        assert await ledger.task("task-3") is None
        assert await ledger.events("task-3", 0, 10) == []
        assert await ledger.task("task-4") is not None
        assert await ledger.prune(finished_before_ms=0) == 0


async def test_prune_goes_on_over_many_transactions(path: Path) -> None:
    async with opened(path) as ledger:
        append(ledger, 1, 1_700)
        await ledger.flush(1_700)
        assert await ledger.prune(finished_before_ms=2_000 + 1_601) == 1_600
        assert await ledger.counts() == {"SUCCEEDED": 100}


@pytest.mark.parametrize("limit", [1, 3, 7, 1_000])
async def test_pages_for_a_peer_hold_every_row_once_and_never_split_an_entry(path: Path, limit: int) -> None:
    async with opened(path) as ledger:
        for index in range(2, 41, 2):
            numbers = range(index * 10, index * 10 + index % 5)
            rows = [task(number, index=index) for number in numbers]
            ledger.append(index, rows, [event(row.order, 1, index) for row in rows])
        await ledger.flush(45)
        tasks: list[LedgerTask] = []
        events: list[LedgerEvent] = []
        after, more = 0, True
        while more:
            page = await ledger.rows_after(after, limit)
            indexes = [row.index for row in page.tasks] + [row.index for row in page.events]
            assert all(after < index <= page.through_index for index in indexes)
            tasks += page.tasks
            events += page.events
            after, more = page.through_index, page.more
        assert after == 45
        expected = [row for index in range(2, 41, 2) for row in range(index * 10, index * 10 + index % 5)]
        assert [row.order for row in tasks] == expected
        assert [(row.task_id, row.index) for row in events] == [(row.task_id, row.index) for row in tasks]


async def test_a_page_is_bounded_in_bytes(path: Path) -> None:
    async with opened(path, LedgerOptions(page_bytes_max=5_000)) as ledger:
        for number in range(1, 11):
            ledger.append(number, [task(number, record=b"x" * 2_000)], [])
        await ledger.flush(10)
        page = await ledger.rows_after(0, 100)
        assert (len(page.tasks), page.through_index, page.more) == (3, 3, True)
        with pytest.raises(LedgerError, match="ask for a smaller page, 2 tasks would do"):
            await ledger.tasks(ALL, None, 10)
        assert len(await ledger.tasks(ALL, None, 2)) == 2


async def test_events_of_a_page_bounded_in_bytes_follow_without_a_hole(path: Path) -> None:
    def wide(sequence: int) -> LedgerEvent:
        return LedgerEvent("task-1", sequence, sequence, b"x" * 1_000)

    async with opened(path, LedgerOptions(page_bytes_max=2_500, batch_ms=3_600_000)) as ledger:
        for sequence in range(1, 6):
            ledger.append(sequence, [], [wide(sequence)])
        await ledger.flush(5)
        for sequence in range(6, 9):
            ledger.append(sequence, [], [wide(sequence)])
        seen: list[int] = []
        while rows := await ledger.events("task-1", seen[-1] if seen else 0, 100):
            seen += [row.sequence for row in rows]
        assert seen == list(range(1, 9))


async def test_what_a_snapshot_skipped_is_a_gap_until_a_peer_filled_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "peer.db") as peer, opened(tmp_path / "mine.db") as mine:
        append(peer, 1, 30)
        await peer.flush(30)
        append(mine, 1, 10)
        mine.note_snapshot(25)
        append(mine, 26, 30)
        await mine.flush(30)
        assert mine.gaps == (Gap(10, 25),)
        page = await mine.rows_after(0, 1_000)
        assert (page.through_index, page.more, len(page.tasks)) == (10, False, 10)
        assert (await mine.rows_after(25, 1_000)).through_index == 30
        copied = await peer.rows_after(10, 12)
        await mine.adopt(copied.tasks, copied.events, Gap(10, copied.through_index))
        assert mine.gaps == (Gap(14, 25),)
    async with opened(tmp_path / "peer.db") as peer, opened(tmp_path / "mine.db") as mine:
        assert mine.gaps == (Gap(14, 25),)
        assert mine.flushed_index == 30
        copied = await peer.rows_after(14, 1_000)
        await mine.adopt(copied.tasks, copied.events, Gap(14, copied.through_index))
        assert not mine.gaps
        assert await mine.counts() == {"SUCCEEDED": 30}
        everything, theirs = await mine.rows_after(0, 1_000), await peer.rows_after(0, 1_000)
        assert everything.tasks == theirs.tasks
        assert set(everything.events) == set(theirs.events)


async def test_a_snapshot_that_is_older_than_the_rows_leaves_no_gap(path: Path) -> None:
    async with opened(path) as ledger:
        append(ledger, 1, 10)
        ledger.note_snapshot(10)
        ledger.note_snapshot(4)
        assert ledger.gaps == ()


async def test_a_gap_is_kept_even_when_no_row_follows(path: Path) -> None:
    async with opened(path, IDLE) as ledger:
        ledger.note_snapshot(99)
    async with opened(path) as ledger:
        assert ledger.gaps == (Gap(0, 99),)


async def test_readers_see_whole_entries_while_rows_stream_in(path: Path) -> None:
    done = asyncio.Event()

    async def read(ledger: Ledger) -> int:
        looks = 0
        while not done.is_set():
            rows = await ledger.tasks(ALL, None, 1_000)
            assert [row.order for row in rows] == list(range(len(rows), 0, -1))
            if rows:
                newest = rows[0].order
                assert len(await ledger.events(f"task-{newest}", 0, 10)) == 2
                assert await ledger.task(f"task-{random.randint(1, newest)}") is not None
            looks += 1
        return looks

    async with opened(path, LedgerOptions(batch_ms=1)) as ledger, asyncio.TaskGroup() as group:
        readers = [group.create_task(read(ledger)) for _ in range(4)]
        for number in range(1, 601):
            append(ledger, number, number)
            await asyncio.sleep(0)
            if number % 100 == 0:
                await ledger.flush(number)
        await ledger.flush(600)
        done.set()
    assert all(reader.result() > 1 for reader in readers)


async def test_a_closed_ledger_says_so(path: Path) -> None:
    ledger = await Ledger.open(path)
    append(ledger, 1, 1)
    await ledger.close()
    await ledger.close()
    with pytest.raises(LedgerClosed):
        ledger.append(2, [task(2)], [])
    with pytest.raises(LedgerClosed):
        await ledger.flush(2)
    with pytest.raises(LedgerClosed):
        await ledger.tasks(ALL, None, 1)
    await ledger.flush(1)


async def test_a_query_that_takes_too_long_is_ended(path: Path) -> None:
    async with opened(path, LedgerOptions(query_ms_max=0)) as ledger:
        append(ledger, 1, 5_000)
        await ledger.flush(5_000)
        with pytest.raises(LedgerError, match="narrow it by tenant, state or time"):
            await ledger.tasks(LedgerQuery(labels=(("no", "such"),)), None, 10)
        assert await ledger.task("task-77") is not None


async def test_a_limit_below_one_is_refused(path: Path) -> None:
    async with opened(path) as ledger:
        with pytest.raises(LedgerError, match="limit is 0"):
            await ledger.tasks(ALL, None, 0)


TEXTS = st.sampled_from(["a", "b", 'q"', "[", "]", '["a", "b"]', "\\", "ü", "", ","])
LABELS = st.dictionaries(TEXTS, TEXTS, max_size=3)
TENANTS = st.sampled_from(["default", "acme"])
STATES = st.sampled_from(["SUCCEEDED", "FAILED", "CANCELLED"])
TYPES = st.sampled_from(["map", "reduce"])
TIMES = st.integers(0, 20)


@st.composite
def rows(draw: st.DrawFn) -> list[LedgerTask]:
    return [
        task(
            number,
            tenant=draw(TENANTS),
            state=draw(STATES),
            type=draw(TYPES),
            labels=draw(LABELS),
            created_at_ms=draw(TIMES),
        )
        for number in range(1, draw(st.integers(1, 25)) + 1)
    ]


QUERIES = st.builds(
    LedgerQuery,
    tenant=st.none() | TENANTS,
    states=st.none() | st.frozensets(STATES),
    types=st.none() | st.frozensets(TYPES),
    labels=st.lists(st.tuples(TEXTS, TEXTS), max_size=2).map(tuple),
    created_from_ms=st.none() | TIMES,
    created_before_ms=st.none() | TIMES,
)


@given(rows(), st.lists(QUERIES, min_size=1, max_size=5), st.integers(1, 10), st.integers(0, 25))
@settings(max_examples=40, deadline=None)
async def test_lists_hold_what_the_query_matches_page_by_page(
    tmp_path_factory: pytest.TempPathFactory,
    tasks: list[LedgerTask],
    queries: list[LedgerQuery],
    limit: int,
    flushed: int,
) -> None:
    async with opened(tmp_path_factory.mktemp("ledger") / "ledger.db", IDLE) as ledger:
        for row in tasks[:flushed]:
            ledger.append(row.index, [row], [])
        await ledger.flush(flushed)
        for row in tasks[flushed:]:
            ledger.append(row.index, [row], [])
        for query in queries:
            found: list[LedgerTask] = []
            while page := await ledger.tasks(query, found[-1].order if found else None, limit):
                found += page
            assert found == [row for row in reversed(tasks) if query.matches_task(row)]
