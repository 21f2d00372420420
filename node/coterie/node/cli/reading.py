"""Reading the cluster's state even when it has no leader."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from coterie.client.errors import ClusterError

if TYPE_CHECKING:
    from coterie.client.cluster import Cluster
    from coterie.client.models import Status

LINEARIZABLE_S: Final = 3.0


async def read_status(cluster: Cluster, patience_s: float) -> Status:
    """The status as the leader confirms it. When that takes longer than `patience_s`, one node is asked for
    what it knows by itself: when even that node sees no quorum, this is the answer. Raises ClusterError."""
    asked = asyncio.ensure_future(cluster.get_status())
    try:
        await asyncio.wait([asked], timeout=patience_s)
        if asked.done() and asked.exception() is None:
            return asked.result()
        try:
            alone = await cluster.get_status(stale=True)
        except ClusterError:
            return await asked  # nobody knows anything: the first question's error says it best
        return alone if not alone.has_quorum else await asked
    finally:
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
