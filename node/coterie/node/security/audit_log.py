"""The audit log in the ledger: it stands there like the events of a task that nobody can name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from coterie.core.audit import AuditRecord
from coterie.node.ledger import Ledger, LedgerEvent
from coterie.raft.records import codec_for
from coterie.v1 import log_pb2

SUBJECT: Final = "@audit"  # no task id begins like this
TYPE: Final = "audit"
UNREADABLE: Final = "UNREADABLE"


def rows(noted: Iterable[AuditRecord]) -> list[LedgerEvent]:
    """What the ledger keeps of the records of one log entry."""
    return [LedgerEvent(SUBJECT, record.sequence, record.index, _encode(record)) for record in noted]


def _encode(record: AuditRecord) -> bytes:
    kept = log_pb2.LedgerEvent(
        type=TYPE, task_id=SUBJECT, sequence=record.sequence, index=record.index, at_ms=record.at_ms
    )
    codec_for(AuditRecord).fill(record, kept.audit)
    return kept.SerializeToString()


async def records(ledger: Ledger, after: int, limit: int) -> Sequence[AuditRecord]:
    """The records that follow the one of that sequence, as this node's ledger has them."""
    return [_decode(row) for row in await ledger.events(SUBJECT, after, limit)]


def _decode(row: LedgerEvent) -> AuditRecord:
    """A row that is no record any more becomes one that cannot be right."""
    try:
        kept = log_pb2.LedgerEvent.FromString(row.record)
    except (DecodeError, TypeError):
        return AuditRecord(row.sequence, row.index, 0, "", "", "", "", "", UNREADABLE)
    record: AuditRecord = codec_for(AuditRecord).read(kept.audit)
    return record
