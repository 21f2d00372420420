"""The audit log: one record per command that a caller asked for, each sealed by a hash over all before it.

Every node derives the same records from the same log. The state keeps the number of records and the newest
hash (`Meta.audit_count`, `Meta.audit_head`); the records themselves go to the ledgers. The chain is that of
Haber and Stornetta, "How to time-stamp a digital document" (1991): whoever changes, removes or moves a record
would have to make every later hash anew, and the newest one is agreed on by the cluster."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

OK, DUPLICATE = "OK", "DUPLICATE"
START = b"\0" * 32  # what the first record is chained to


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One state-changing call, or one command of a batch of them."""

    sequence: int  # from 1, without holes
    index: int  # of the log entry
    at_ms: int  # the entry's time
    principal: str
    tenant: str
    method: str
    target: str
    request_id: str
    code: str  # OK, DUPLICATE, or why it was refused
    digest: bytes = b""  # the chain up to and including this record


def seal(before: bytes, record: AuditRecord) -> bytes:
    """The next hash of the chain: SHA-256 over the one before and the record, each field with its length."""
    return _hash(
        before,
        record.sequence,
        record.index,
        record.at_ms,
        (record.principal, record.tenant, record.method, record.target, record.request_id, record.code),
    )


def _hash(before: bytes, sequence: int, index: int, at_ms: int, texts: tuple[str, ...]) -> bytes:
    lengths = ",".join([str(len(text)) for text in texts])
    return hashlib.sha256(before + f"{sequence},{index},{at_ms},{lengths}:{''.join(texts)}".encode()).digest()


class Check:
    """Looks at an audit log, record by record from the first one on."""

    def __init__(self) -> None:
        self.count, self.head = 0, START

    def add(self, record: AuditRecord) -> str:
        """What is wrong with the next record; empty: nothing."""
        expected = self.count + 1
        if record.sequence != expected:
            return f"record {expected} is missing: record {record.sequence} stands in its place"
        digest = seal(self.head, record)
        if digest != record.digest:
            return f"record {expected} was changed, or one before it was: its hash does not fit"
        self.count, self.head = expected, digest
        return ""

    def end(self, count: int, head: bytes) -> str:
        """What is wrong with all of it, against what the cluster agreed on; empty: nothing."""
        if self.count < count:
            return f"records {self.count + 1} to {count} are missing at the end"
        if self.count > count:
            return f"record {count + 1} is one too many: the cluster knows of {count}"
        if count and self.head != head:
            return f"the hash of the last record, {self.head.hex()}, is not the cluster's {head.hex()}"
        return ""


_TARGETS = ("target", "task_id", "token_id", "node_id", "limit_id", "schedule_id", "name", "key", "topic")
_HELD = ("token", "user", "limit", "tenant", "schedule", "submit")  # records that name the target


def target_of(command: object) -> str:
    """What a command is about."""
    for name in _TARGETS:
        value = getattr(command, name, "")
        if value and isinstance(value, str):
            return value
    for name in _HELD:
        record = getattr(command, name, None)
        if record is not None and not isinstance(record, str):
            found = target_of(record)
            if found:
                return found
    tenant = getattr(command, "tenant", "")
    return tenant if isinstance(tenant, str) else ""


def request_of(command: object) -> str:
    """The request id a command carries."""
    return getattr(command, "request_id", "") or getattr(command, "signal_id", "")


def next_record(
    sequence: int, before: bytes, index: int, at_ms: int, texts: tuple[str, str, str, str, str, str]
) -> AuditRecord:
    """The sealed record that follows the one with the hash `before`; `texts`: from principal to code."""
    return AuditRecord(sequence, index, at_ms, *texts, _hash(before or START, sequence, index, at_ms, texts))
