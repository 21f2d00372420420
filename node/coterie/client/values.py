"""Values as bytes and back: JSON, unless they are bytes."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from coterie.client.rpc_errors import invalid
from coterie.client.units import Duration, duration_ms


def decode(data: bytes) -> Any:
    """What `encode_payload` made the bytes of; bytes that are no JSON stay bytes."""
    try:
        return json.loads(data) if data else None
    except (ValueError, RecursionError):
        return data


def milliseconds(field: str, value: Duration | None) -> int:
    """0 for None. Raises InvalidRequest."""
    if value is None:
        return 0
    try:
        return duration_ms(value)
    except ValueError as error:
        raise invalid([(field, str(error))]) from error


def moment(at_ms: int) -> datetime | None:
    """None for 0."""
    return datetime.fromtimestamp(at_ms / 1000, UTC) if at_ms else None


def moment_ms(field: str, value: datetime | None) -> int:
    """0 for None. Raises InvalidRequest for a time without a zone."""
    if value is None:
        return 0
    if value.tzinfo is None:
        raise invalid([(field, f"{value.isoformat()} has no time zone: give one, such as datetime.UTC")])
    return int(value.timestamp() * 1000)


def new_request_id(given: str = "") -> str:
    return given or uuid.uuid4().hex
