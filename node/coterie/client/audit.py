"""The audit log: who changed what, in the order of the log: `cluster.audit`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coterie.v1 import security_pb2

if TYPE_CHECKING:
    from coterie.client.connection import Connection

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One state-changing call. `digest` is a SHA-256, in hex, over the entry before and this one."""

    sequence: int
    index: int
    at_ms: int
    principal: str
    tenant: str
    method: str
    target: str
    request_id: str
    code: str
    digest: str


@dataclass(frozen=True, slots=True)
class AuditHead:
    """How many entries there are, and the digest of the last one, as the cluster has agreed on."""

    count: int
    digest: str


class Audit:
    """For admins. Raises PermissionDenied where the caller is none."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def head(self) -> AuditHead:
        """What the cluster has agreed on about the whole log."""
        page = await self._page(0, 1)
        return AuditHead(page.count, page.head.hex())

    async def entries(self, *, after: int = 0) -> AsyncGenerator[AuditEntry, None]:
        """Those there are now, from the one that follows `after` on, page by page as they are read."""
        end = -1
        while end < 0 or after < end:
            page = await self._page(after, PAGE)
            end = page.count if end < 0 else end
            for record in page.records:
                if record.sequence <= end:
                    yield _entry(record)
            if not page.records:
                return
            after = page.records[-1].sequence

    async def _page(self, after: int, size: int) -> security_pb2.ListAuditRecordsResponse:
        request = security_pb2.ListAuditRecordsRequest(after_sequence=after, page_size=size)
        return await self._opened().caller.unary(lambda e: e.audit.ListAuditRecords, request)


def _entry(raw: security_pb2.AuditRecord) -> AuditEntry:
    return AuditEntry(
        raw.sequence,
        raw.index,
        raw.at_ms,
        raw.principal,
        raw.tenant,
        raw.method,
        raw.target,
        raw.request_id,
        raw.code,
        raw.digest.hex(),
    )
