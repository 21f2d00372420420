"""From what gRPC reports to the exceptions of `coterie.client.errors`, and what to do next."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from coterie.client.errors import (
    Aborted,
    AlreadyExists,
    ClusterError,
    DataLoss,
    FailedPrecondition,
    InvalidRequest,
    LockHeld,
    NotFound,
    OutOfRange,
    PermissionDenied,
    QueueFull,
    ResourceExhausted,
    Unavailable,
    VersionMismatch,
)

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
LEADERSHIP_LOST = "LEADERSHIP_LOST_UNKNOWN_OUTCOME"
NO_QUORUM = "NO_QUORUM"
OVERLOADED = "OVERLOADED"
_TOO_MANY_CALLS = "Concurrent RPC limit exceeded"  # what gRPC says for a node that has no room for a call
# What gRPC says of a line that broke, the last of it when the node dies while something is sent to it.
_LINE_BROKE = re.compile(r"RST_STREAM|stream removed|Internal error from Core", re.IGNORECASE)

_BY_CODE: dict[str, type[ClusterError]] = {
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "ABORTED": Aborted,
    "OUT_OF_RANGE": OutOfRange,
    "PERMISSION_DENIED": PermissionDenied,
    "UNAUTHENTICATED": PermissionDenied,
    "DATA_LOSS": DataLoss,
    "UNAVAILABLE": Unavailable,
}
_CODE_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


class Verdict(enum.Enum):
    """What a failed try means for the next one."""

    FATAL = "the same request fails everywhere"
    MOVE_ON = "this node says so; another node may answer now"
    BACK_OFF = "this endpoint cannot be reached, or is itself cut off"
    TIMED_OUT = "this endpoint took the call and did not answer"
    BAD_TLS = "this endpoint and this client cannot agree on TLS, and time will not change that"


def decode_rpc_error(error: grpc.aio.AioRpcError) -> ClusterError:
    """The exception for a failed RPC, with everything its status details say."""
    trailers = _trailers(error)
    details = trailers.get(DETAILS_KEY)
    status = _parse_status(details if isinstance(details, bytes) else b"")
    failure = _build(error.code().name, error.details() or "", status)
    pushback = _pushback_seconds(trailers.get(PUSHBACK_KEY))
    if pushback is not None:
        failure.retry_after = max(pushback, 0.0)
        failure.metadata["pushback"] = "stop" if pushback < 0 else "wait"
    return failure


def decode_status(serialized: bytes) -> ClusterError:
    """The exception for one refused entry of a batch (a serialized google.rpc.Status)."""
    status = _parse_status(serialized)
    if status is None:
        return ClusterError("the cluster refused the task with a status this client cannot read")
    return _build(_CODE_NAMES.get(status.code, f"CODE_{status.code}"), status.message, status)


def verdict_of(failure: ClusterError) -> Verdict:
    """Whether, and how, a call that failed so may be tried again (with the same request_id)."""
    if failure.metadata.get("pushback") == "stop":
        return Verdict.FATAL
    match failure.code:
        case "UNAVAILABLE" if failure.reason == NO_QUORUM:
            return Verdict.BACK_OFF
        case "UNAVAILABLE" if failure.reason:
            return Verdict.MOVE_ON
        case "UNAVAILABLE":
            return Verdict.BAD_TLS if tls_problem(failure.message) else Verdict.BACK_OFF
        case "DEADLINE_EXCEEDED":
            return Verdict.TIMED_OUT
        case "CANCELLED":
            return Verdict.BACK_OFF
        case "ABORTED" if failure.reason == LEADERSHIP_LOST:
            return Verdict.MOVE_ON
        case "RESOURCE_EXHAUSTED" if failure.reason == OVERLOADED or _TOO_MANY_CALLS in failure.message:
            return Verdict.MOVE_ON  # nothing was taken, and another node may have room
        case "INTERNAL" | "UNKNOWN" if not failure.reason and _LINE_BROKE.search(failure.message):
            return Verdict.BACK_OFF
    return Verdict.FATAL


def tls_problem(message: str) -> str:
    """One sentence when gRPC's text shows a certain TLS mismatch; empty otherwise."""
    text = message.upper()
    if "WRONG_VERSION_NUMBER" in text or "HTTP_REQUEST" in text:
        return "this client speaks TLS but the server does not: leave tls= out, or enable TLS on the node"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "the server's certificate is not signed by the given CA, or has expired: check TLS(ca=...)"
    if "HOSTNAME VERIFICATION" in text or "PEER NAME" in text:
        return (
            "the server's certificate is for another name than this address: reach it by a name in the "
            "certificate, or set TLS(server_name=...)"
        )
    alerts = ("CERTIFICATE_REQUIRED", "ALERT_UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED")
    if any(alert in text for alert in alerts):
        return "the server refuses this client's certificate: check TLS(cert=..., key=...)"
    return ""


def is_refused(error: grpc.aio.AioRpcError) -> bool:
    """Whether the call certainly reached nobody."""
    return "connection refused" in (error.details() or "").lower()


def explain(failure: ClusterError, *, secure: bool) -> str:
    """One line for people about an endpoint's last error, with a hint where a mix-up is likely."""
    message = " ".join(failure.message.split()) or failure.code
    if problem := tls_problem(message):
        return problem
    lower = message.lower()
    if "connection refused" in lower:
        return "connection refused: no node listens there"
    if failure.code == "DEADLINE_EXCEEDED":
        return "no answer in time: the node is stopped, overloaded or cut off"
    closed = ("socket closed", "connection reset", "broken pipe", "endpoint closing", "connection closed")
    if any(text in lower for text in closed):
        hint = (
            "the node may want a client certificate: TLS(cert=..., key=...)"
            if secure
            else "if the cluster uses TLS, this client must too: Cluster(..., tls=TLS(ca=...))"
        )
        return f"the connection was closed ({hint})"
    return f"{failure.reason}: {message}" if failure.reason else message


def invalid(violations: Iterable[tuple[str, str]]) -> InvalidRequest:
    """An InvalidRequest that this client found by itself, before any call."""
    found = list(violations)
    sentence = "; ".join(f"{field}: {text}" for field, text in found)
    return InvalidRequest(sentence, violations=found, reason="BAD_FIELD")


_BY_REASON: dict[str, type[ClusterError]] = {
    "QUEUE_FULL": QueueFull,
    "TENANT_QUOTA": QueueFull,
    "LOCK_HELD": LockHeld,
    "VERSION_MISMATCH": VersionMismatch,
}


def _build(code: str, message: str, status: Any) -> ClusterError:
    info, violations, retry_after = _read_details(status)
    reason: str = info.reason if info is not None else ""
    metadata: dict[str, str] = dict(info.metadata) if info is not None else {}
    if code == "INVALID_ARGUMENT":
        return InvalidRequest(
            message, violations=violations, reason=reason, metadata=metadata, retry_after=retry_after
        )
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, ClusterError)
    return kind(message, code=code, reason=reason, metadata=metadata, retry_after=retry_after)


def _read_details(status: Any) -> tuple[Any, list[tuple[str, str]], float | None]:
    info: Any = None
    violations: list[tuple[str, str]] = []
    retry_after: float | None = None
    for detail in status.details if status is not None else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations += [(item.field, item.description) for item in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = max(0.0, delay.seconds + delay.nanos / 1e9)
    return info, violations, retry_after


def _parse_status(serialized: bytes) -> Any:
    if not serialized:
        return None
    try:
        return status_pb2.Status.FromString(serialized)
    except Exception:  # protobuf's DecodeError is not one class across its backends
        return None


def _trailers(error: grpc.aio.AioRpcError) -> dict[str, str | bytes]:
    return dict(error.trailing_metadata() or ())


def _pushback_seconds(value: str | bytes | None) -> float | None:
    if value is None:
        return None
    try:
        return int(value) / 1000
    except ValueError:
        # An unreadable push-back means "do not retry" in gRPC's own rules (gRFC A6).
        return -1.0
