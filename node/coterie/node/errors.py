"""Errors of the API: one exception with what google.rpc.Status needs, and the table that maps ours to it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from coterie.core.commands import Rejected
from coterie.core.ports import NoQuorum, NotCommitted
from coterie.node.blob_errors import (
    BlobDamaged,
    BlobDiskFull,
    BlobError,
    BlobMismatch,
    BlobNameInvalid,
    BlobNotFound,
    BlobQuotaExceeded,
    BlobTooLarge,
)
from coterie.node.filters import FilterError
from coterie.node.ledger.rows import LedgerError
from coterie.raft.errors import EntryTooLarge, NoSpace, TooManyProposals, TransferFailed

DOMAIN = "coterie"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
# What is wrong by the replica of one node, which may not have heard of the newest yet.
BY_REPLICA = frozenset({"UNKNOWN_NODE", "UNKNOWN_SKILL", "UNKNOWN_AGENT", "UNKNOWN_WORKFLOW", "BAD_INPUT"})


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field: its path, and what is wrong, with the value and the remedy."""

    field: str
    description: str
    limit: int = 0  # what the field may have at most, told to programs as `<field>.max`


@dataclass(slots=True)
class ApiError(Exception):
    """A refused call."""

    code: grpc.StatusCode
    reason: str  # stable, upper case
    message: str
    violations: Sequence[Violation] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_ms: int | None = None

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def invalid(violations: Sequence[Violation], reason: str = "BAD_FIELD") -> ApiError:
    """INVALID_ARGUMENT with all violations at once."""
    message = "; ".join(f"{v.field}: {v.description}" for v in violations)
    limits = {f"{v.field}.max": str(v.limit) for v in violations if v.limit}
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, violations, metadata=limits)


def not_found(kind: str, name: str) -> ApiError:
    message = f"no {kind.lower()} {name!r}"
    return ApiError(grpc.StatusCode.NOT_FOUND, f"{kind}_NOT_FOUND", message, metadata={"name": name})


def disk_full(message: str) -> ApiError:
    """New work is refused for want of room on a disk. Nothing was taken, so the same may be tried again."""
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return ApiError(code, "DISK_FULL", message, retry_after_ms=DISK_FULL_RETRY_MS)


def to_status(error: ApiError) -> status_pb2.Status:
    """google.rpc.Status with ErrorInfo and whatever else the error knows."""
    code: int = error.code.value[0]
    details = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata))]
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        details.append(bad)
    if error.retry_after_ms is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromMilliseconds(error.retry_after_ms)
        details.append(info)
    packed = []
    for detail in details:
        box = any_pb2.Any()
        box.Pack(detail)
        packed.append(box)
    return status_pb2.Status(code=code, message=error.message, details=packed)


COORDINATION_FULL = (
    "TOO_MANY_LOCKS",
    "TOO_MANY_WAITERS",
    "KV_FULL",
    "TOO_MANY_TOPICS",
    "TOO_MANY_GROUPS",
    "TOO_MANY_SCHEDULES",
)
COORDINATION_BAD = (
    "BAD_NAME",
    "BAD_LOCK",
    "BAD_KEY",
    "BAD_TOPIC",
    "BAD_MESSAGE",
    "BAD_GROUP",
    "BAD_FETCH",
    "BAD_SCHEDULE",
)
_REJECTIONS: dict[str, grpc.StatusCode] = {
    "QUEUE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TENANT_QUOTA": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "RATE_LIMITED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_SIGNALS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_LIMITS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_TENANTS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BAD_LIMIT": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_APPROVAL": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_DECISION": grpc.StatusCode.INVALID_ARGUMENT,
    "APPROVAL_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "BAD_SIGNAL": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_TENANT": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_BREAKER": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_WORKFLOW": grpc.StatusCode.INVALID_ARGUMENT,
    "WORKFLOW_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "TOO_MANY_WORKFLOWS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BREAKER_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "CIRCUIT_OPEN": grpc.StatusCode.UNAVAILABLE,
    "TOO_MANY_BREAKERS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BAD_GRANT": grpc.StatusCode.INVALID_ARGUMENT,
    "TENANT_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "TOKEN_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "TOKEN_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "USER_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "TOO_MANY_TOKENS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_USERS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BUDGET_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "BAD_BUDGET": grpc.StatusCode.INVALID_ARGUMENT,
    "TOO_MANY_BUDGETS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "LIMIT_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    **dict.fromkeys(COORDINATION_FULL, grpc.StatusCode.RESOURCE_EXHAUSTED),
    **dict.fromkeys(COORDINATION_BAD, grpc.StatusCode.INVALID_ARGUMENT),
    "VERSION_MISMATCH": grpc.StatusCode.ABORTED,
    "GROUP_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "SCHEDULE_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "BAD_SKILL": grpc.StatusCode.INVALID_ARGUMENT,
    "SKILL_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "REVISION_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "SKILL_PRIVATE": grpc.StatusCode.PERMISSION_DENIED,
    "AGENT_FORBIDS": grpc.StatusCode.PERMISSION_DENIED,
    "TOO_MANY_SKILLS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_REVISIONS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "REQUEST_ID_REUSED": grpc.StatusCode.INVALID_ARGUMENT,
    "TASK_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "TASK_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "NODE_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "TASK_TERMINAL": grpc.StatusCode.FAILED_PRECONDITION,
    "FENCED": grpc.StatusCode.ABORTED,
}
QUEUE_FULL_RETRY_MS = 500
DISK_FULL_RETRY_MS = 2_000  # the disks are looked at several times in between


def from_rejection(rejected: Rejected, now_ms: int = 0) -> ApiError:
    """A refusal of the state machine as an API error. `now_ms`: the cluster's time; 0: the wall clock."""
    code = _REJECTIONS.get(rejected.code, grpc.StatusCode.FAILED_PRECONDITION)
    retry = QUEUE_FULL_RETRY_MS if rejected.code in {"QUEUE_FULL", "TENANT_QUOTA"} else None
    if rejected.retry_at_ms:
        retry = max(1, rejected.retry_at_ms - (now_ms or time.time_ns() // 1_000_000))
    violations = [Violation("request_id", rejected.reason)] if rejected.code == "REQUEST_ID_REUSED" else []
    return ApiError(code, rejected.code, rejected.reason, violations, retry_after_ms=retry)


_BLOB_ERRORS: dict[type[BlobError], tuple[grpc.StatusCode, str]] = {
    BlobNameInvalid: (grpc.StatusCode.INVALID_ARGUMENT, "BAD_FIELD"),
    BlobTooLarge: (grpc.StatusCode.INVALID_ARGUMENT, "BLOB_TOO_LARGE"),
    BlobMismatch: (grpc.StatusCode.INVALID_ARGUMENT, "BLOB_MISMATCH"),
    BlobNotFound: (grpc.StatusCode.NOT_FOUND, "BLOB_NOT_FOUND"),
    BlobQuotaExceeded: (grpc.StatusCode.RESOURCE_EXHAUSTED, "BLOB_QUOTA"),
    BlobDiskFull: (grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL"),
    BlobDamaged: (grpc.StatusCode.UNAVAILABLE, "BLOB_DAMAGED"),
}


def from_exception(error: Exception) -> ApiError:
    """What a caller is told when the cluster could not answer."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, FilterError):
        return invalid([Violation("filter", str(error).removeprefix("filter: "))])
    if isinstance(error, LedgerError):
        return ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "HISTORY_BUSY", str(error))
    if isinstance(error, BlobError):
        code, reason = _BLOB_ERRORS.get(type(error), (grpc.StatusCode.UNAVAILABLE, "BLOB_STORAGE_FAILED"))
        retry = DISK_FULL_RETRY_MS if code is grpc.StatusCode.RESOURCE_EXHAUSTED else None
        return ApiError(code, reason, str(error), retry_after_ms=retry)
    if isinstance(error, grpc.aio.AioRpcError):
        return _from_peer(error)
    if isinstance(error, grpc.aio.UsageError):  # a channel to a peer that was closed meanwhile
        return _unavailable("NODE_STOPPING", "this node is stopping; ask another one")
    return _from_engine(error) or ApiError(
        grpc.StatusCode.INTERNAL, "INTERNAL", f"{type(error).__name__}: {error}"
    )


def _from_engine(error: Exception) -> ApiError | None:
    if isinstance(error, EntryTooLarge):
        return ApiError(grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE", str(error))
    if isinstance(error, TransferFailed):
        return ApiError(grpc.StatusCode.FAILED_PRECONDITION, "TRANSFER_FAILED", str(error))
    if isinstance(error, NoSpace):
        return disk_full(str(error))
    if isinstance(error, TooManyProposals):
        return ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", str(error), retry_after_ms=250)
    if isinstance(error, NoQuorum):
        return _unavailable("NO_QUORUM", str(error) or "no majority of the nodes can be reached")
    if isinstance(error, NotCommitted):
        return _unavailable(
            "NO_LEADER", str(error) or "not committed in time; retry with the same request_id"
        )
    if isinstance(error, TimeoutError):
        return _unavailable("TIMED_OUT", str(error) or "the nodes did not answer in time")
    return None


def reason_in(status: bytes) -> str:
    """The reason in a status as `to_status` makes them; empty: there is none."""
    info = error_details_pb2.ErrorInfo()
    try:
        for detail in status_pb2.Status.FromString(status).details:
            if detail.Unpack(info):
                return str(info.reason)
    except DecodeError:  # whatever has answered, it is none of ours
        pass
    return ""


def _from_peer(error: grpc.aio.AioRpcError) -> ApiError:
    """What another node answered to a call that was passed on to it: its refusal, or that it is not there."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes) and (reason := reason_in(value)):
            return ApiError(error.code(), reason, error.details() or "")
    return _unavailable("NODE_UNREACHABLE", f"another node did not answer: {error.details()}")


def _unavailable(reason: str, message: str) -> ApiError:
    return ApiError(grpc.StatusCode.UNAVAILABLE, reason, message, retry_after_ms=250)
