"""Keeps every blob on a majority of those who vote, also when others vote than at the time it was put."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coterie.node.blob_errors import BlobError
from coterie.node.blob_exchange import BlobExchange
from coterie.node.blobs import BlobStore
from coterie.node.errors import ApiError
from coterie.node.observability import get_logger

log = get_logger(__name__)

LOOK_S = 0.5
RETRY_S = 2.0


class BlobKeeper:
    """Runs on every node: when the voters change, whoever has a blob sees to it that a majority of the new
    ones has it. A node that leaves counts as none of them, and goes only when it says that this is done."""

    def __init__(
        self, exchange: BlobExchange, store: BlobStore, voters: Callable[[], frozenset[str]]
    ) -> None:
        self._exchange, self._store, self._voters = exchange, store, voters
        self._kept_for: frozenset[str] = frozenset()

    @property
    def kept_for(self) -> frozenset[str]:
        """Everything that is here is on a majority of these."""
        return self._kept_for

    async def run(self) -> None:
        while True:
            voters = self._voters()
            done = voters == self._kept_for or await self._keep(voters)
            await asyncio.sleep(LOOK_S if done else RETRY_S)

    async def _keep(self, voters: frozenset[str]) -> bool:
        """Whether every blob is where it should be."""
        try:
            entries = await self._store.entries()
        except BlobError as error:  # it may be mended by the next look
            log.warning("the blobs cannot be listed", extra={"error": str(error)})
            return False
        for entry in entries:
            try:
                await self._exchange.preserve(entry.sha256, entry.size_bytes)
            except (ApiError, BlobError) as error:
                log.info("a blob is on too few voters", extra={"sha256": entry.sha256, "error": str(error)})
                return False
        self._kept_for = voters
        return True
