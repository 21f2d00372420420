"""Feeds the ledger from applied entries, and copies from a peer what a snapshot made this node skip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import grpc
from google.protobuf.message import DecodeError

from coterie.core.nouns import Event, Task
from coterie.core.transitions import TERMINAL
from coterie.node import convert
from coterie.node.ledger import Gap, Ledger, LedgerError, LedgerEvent, LedgerPage, LedgerTask
from coterie.node.links import PeerChannels, outliving
from coterie.node.observability import get_logger
from coterie.v1 import log_pb2, peer_pb2

log = get_logger(__name__)

PAGE_ROWS = 500
LOOK_EVERY_S = 1.0
COPY_TIMEOUT_S = 60.0
MESSAGE_BYTES = 4 << 20  # of rows, about; a single row may be larger


def feed(ledger: Ledger, index: int, events: Sequence[Event], noted: Sequence[LedgerEvent] = ()) -> None:
    """Queue the rows of one applied entry; `noted` are those of the audit log."""
    tasks, happened = _rows(events)
    ledger.append(index, tasks, [*happened, *noted])


async def store(ledger: Ledger, events: Sequence[Event], noted: Sequence[LedgerEvent] = ()) -> None:
    """As `feed`, where nothing may be left out: returns when the rows are on the disk."""
    tasks, happened = _rows(events)
    await ledger.adopt(tasks, [*happened, *noted])


def _rows(events: Sequence[Event]) -> tuple[list[LedgerTask], list[LedgerEvent]]:
    tasks = [_task_row(event) for event in events if event.task.state in TERMINAL]
    return tasks, [_event_row(event) for event in events]


def _task_row(event: Event) -> LedgerTask:
    return _row(event.task, event.index, convert.finished_record(event))


def _row(task: Task, index: int, record: bytes) -> LedgerTask:
    return LedgerTask(
        task_id=task.task_id,
        order=task.order,
        tenant=task.tenant,
        type=task.type,
        state=task.state.name,
        priority=task.priority,
        labels={label.key: label.value for label in task.labels},
        created_at_ms=task.created_at_ms,
        finished_at_ms=task.finished_at_ms,
        index=index,
        record=record,
    )


def _event_row(event: Event) -> LedgerEvent:
    task = event.task
    return LedgerEvent(task.task_id, task.sequence, event.index, convert.event_record(event))


async def pages(
    ledger: Ledger, after_index: int, up_to_index: int, across_gaps: bool = False
) -> AsyncIterator[peer_pb2.LedgerRows]:
    """Rows with log indexes above `after_index`, page by page, as far as this ledger has no gap itself, or
    `across_gaps`."""
    while after_index < up_to_index:
        page = await ledger.rows_after(after_index, PAGE_ROWS, across_gaps)
        for rows in _messages(page, after_index):
            yield rows
        if not page.more or page.through_index <= after_index:
            return
        after_index = page.through_index


def _messages(page: LedgerPage, after_index: int) -> Iterator[peer_pb2.LedgerRows]:
    """A page in messages of about MESSAGE_BYTES; only the last one claims to be complete."""
    rows, size = peer_pb2.LedgerRows(through_index=after_index), 0
    for target, records in (("tasks", page.tasks), ("events", page.events)):
        for row in records:
            if size and size + len(row.record) > MESSAGE_BYTES:
                yield rows
                rows, size = peer_pb2.LedgerRows(through_index=after_index), 0
            getattr(rows, target).append(row.record)
            size += len(row.record)
    rows.through_index = page.through_index
    yield rows


async def adopt_rows(
    ledger: Ledger, rows: peer_pb2.LedgerRows, up_to_index: int | None = None, fills: Gap | None = None
) -> None:
    """Keep rows of another ledger: up to that log index, where one is given. See Ledger.adopt. Raises
    DecodeError or ValueError for what are none."""
    tasks = []
    for raw in rows.tasks:
        index = log_pb2.LedgerRecord.FromString(raw).index
        if up_to_index is None or index <= up_to_index:
            tasks.append(_row(convert.read_finished(raw)[0], index, raw))
    events = []
    for raw in rows.events:
        kept = log_pb2.LedgerEvent.FromString(raw)
        if up_to_index is None or kept.index <= up_to_index:
            events.append(LedgerEvent(kept.task_id, kept.sequence, kept.index, raw))
    await ledger.adopt(tasks, events, fills)


class GapFiller:
    """Copies missing rows from whichever peer has them."""

    def __init__(self, ledger: Ledger, channels: PeerChannels) -> None:
        self._ledger, self._channels = ledger, channels
        self._hopeless: tuple[Gap, ...] = ()  # no peer has anything of these

    @property
    def catching_up(self) -> bool:
        """Rows are missing here that a peer has, or may have."""
        gaps = self._ledger.gaps
        return bool(gaps) and bool(self._channels.peers) and gaps != self._hopeless

    async def run(self) -> None:
        while True:
            await self._fill()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _fill(self) -> None:
        """One round. The gaps there were are hopeless when every peer has answered and none had anything; one
        that has come up meanwhile was not asked about."""
        gaps, hopeless = self._ledger.gaps, True
        for gap in gaps:
            for peer in self._channels.peers:
                gained, answered = await self._try(peer, gap)
                hopeless = hopeless and answered and not gained
                if gained:
                    break
        self._hopeless = gaps if hopeless else ()

    async def _try(self, peer: str, gap: Gap) -> tuple[bool, bool]:
        """Whether something was gained, and whether the peer answered in full."""
        before = self._ledger.gaps
        try:
            with outliving(peer):
                await self._copy(peer, gap)
        except grpc.aio.AioRpcError as error:
            log.debug("ledger copy ended", extra={"peer": peer, "error": error.details()})
        except (LedgerError, DecodeError, ValueError) as error:  # rows of a newer version, or broken ones
            log.warning("rows of a peer are no use", extra={"peer": peer, "error": str(error)[:200]})
        else:
            return self._ledger.gaps != before, True
        return self._ledger.gaps != before, False

    async def _copy(self, peer: str, gap: Gap) -> None:
        """Copy what one peer has of the gap."""
        request = peer_pb2.FetchLedgerRequest(after_index=gap.after_index, up_to_index=gap.up_to_index)
        call = self._channels.stub(peer).FetchLedger(
            request, metadata=self._channels.metadata, timeout=COPY_TIMEOUT_S
        )
        after = gap.after_index
        try:
            async for rows in call:
                through = max(after, min(rows.through_index, gap.up_to_index))
                await adopt_rows(self._ledger, rows, fills=Gap(after, through))
                after = through
        finally:
            call.cancel()
        if after > gap.after_index:
            log.info("ledger gap filled", extra={"peer": peer, "after": gap.after_index, "through": after})
