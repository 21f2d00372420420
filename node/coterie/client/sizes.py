"""How content travels: in the request when the cluster allows that much, else as a blob beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from coterie.client.connection import Connection
from coterie.client.errors import InvalidRequest
from coterie.v1 import tasks_pb2

Answer = TypeVar("Answer")
_LIMIT = "payload.inline.max"  # the end of the name under which a refusal tells the limit


async def send_sized(
    connection: Connection,
    content: bytes,
    data: tasks_pb2.Data,
    send: Callable[[], Awaitable[Answer]],
) -> Answer:
    """Puts `content` into `data`, a part of the request that `send` sends. A cluster that allows less inline
    than this client thought says so in its refusal; that is remembered, and the content goes as a blob."""
    if len(content) <= connection.inline_bytes_max:
        data.inline = content
        try:
            return await send()
        except InvalidRequest as refusal:
            limit = _told_limit(refusal)
            if limit is None or len(content) <= limit:
                raise
            connection.inline_bytes_max = limit
    blob = await connection.blobs.put(content)
    data.Clear()
    data.blob.CopyFrom(blob)
    return await send()


def _told_limit(refusal: InvalidRequest) -> int | None:
    """None: the request was refused for something else, or for something else too."""
    if len(refusal.violations) != 1:
        return None
    told = [value for name, value in refusal.metadata.items() if name.endswith(_LIMIT)]
    return int(told[0]) if len(told) == 1 and told[0].isdecimal() else None
