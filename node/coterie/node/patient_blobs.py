"""Values of a running task on their way to the nodes and back, until there is room and a majority."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from coterie.core.nouns import Data, TaskId
from coterie.node.blob_errors import BlobDiskFull
from coterie.node.blob_exchange import BlobExchange
from coterie.node.errors import ApiError
from coterie.node.observability import get_logger

log = get_logger(__name__)

ROOM_PAUSE_S = 1.0
RETRY_PAUSE_S = 0.1  # after the first try without a majority, and twice as long after each further one,
RETRY_PAUSE_MAX_S = 5.0  # up to this: each try sends the content to all peers again


class PatientBlobs:
    """The blobs as one attempt of a task sees them."""

    def __init__(
        self,
        blobs: BlobExchange,
        task_id: TaskId,
        attempt: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._blobs, self._sleep = blobs, sleep
        self._fields = {"task_id": task_id, "attempt": attempt}

    async def keep(self, content: bytes, inline_max: int | None = None) -> Data:
        """See BlobExchange.keep. Raises ApiError for what waiting does not mend."""
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                if inline_max is None:
                    return await self._blobs.keep(content)
                return await self._blobs.keep(content, inline_max)
            except BlobDiskFull as error:  # what is done is not thrown away for want of room
                fields = {**self._fields, "error": str(error)}
                log.warning("a result waits for room on the disk", extra=fields)
                await self._sleep(ROOM_PAUSE_S)
            except ApiError as error:
                pause_s = await self._pause_without_majority(error, pause_s)

    async def load(self, data: Data) -> bytes:
        """See BlobExchange.load. Raises ApiError for what waiting does not mend."""
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                return await self._blobs.load(data)
            except ApiError as error:
                pause_s = await self._pause_without_majority(error, pause_s)

    async def _pause_without_majority(self, error: ApiError, pause_s: float) -> float:
        """Too few nodes answer: wait for them as a report does, and say how long to wait the next time.
        Anything else is raised again."""
        if error.reason != "NO_QUORUM":
            raise error
        await self._sleep(pause_s)
        return min(2 * pause_s, RETRY_PAUSE_MAX_S)
