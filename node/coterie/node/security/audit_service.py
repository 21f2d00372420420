"""The Audit service: the records, page by page, with what the cluster has agreed on about them."""

from __future__ import annotations

from collections.abc import Callable

from coterie.core.audit import AuditRecord
from coterie.core.state import ClusterState
from coterie.node.admission import check_page_size
from coterie.node.errors import Violation, invalid
from coterie.node.ledger import Ledger
from coterie.node.reads import Reader
from coterie.node.rpc import Context, Gate, seconds_left, unary
from coterie.node.security.audit_log import records
from coterie.v1 import security_pb2 as pb
from coterie.v1 import security_pb2_grpc, tasks_pb2

_FIELDS = tuple(field.name for field in pb.AuditRecord.DESCRIPTOR.fields)


class AuditService(security_pb2_grpc.AuditServicer):
    """Answers from the ledger of the node that is asked, so that each can be checked for itself."""

    def __init__(self, state: Callable[[], ClusterState], reader: Reader, ledger: Ledger, gate: Gate) -> None:
        self._state, self._reader, self._ledger, self.gate = state, reader, ledger, gate

    @unary
    async def ListAuditRecords(
        self, request: pb.ListAuditRecordsRequest, context: Context
    ) -> pb.ListAuditRecordsResponse:
        limit = check_page_size(request.page_size)
        if request.after_sequence < 0:
            text = f"{request.after_sequence} is negative; give the sequence of the last record seen, or 0"
            raise invalid([Violation("after_sequence", text)])
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        self._reader.has_whole_history(tasks_pb2.LINEARIZABLE)
        meta = self._state().meta
        found = await records(self._ledger, request.after_sequence, limit)
        response = pb.ListAuditRecordsResponse(count=meta.audit_count, head=meta.audit_head)
        response.records.extend(_to_pb(record) for record in found if record.sequence <= meta.audit_count)
        return response


def _to_pb(record: AuditRecord) -> pb.AuditRecord:
    return pb.AuditRecord(**{name: getattr(record, name) for name in _FIELDS})
