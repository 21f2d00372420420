"""Leadership goes to the nodes that the configuration prefers, while they are fit for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from coterie.core.nouns import NodeId, NodeStatus
from coterie.core.ports import Engine, NotCommitted
from coterie.core.state import ClusterState
from coterie.node.clock import Clock
from coterie.node.observability import get_logger
from coterie.raft.errors import TransferFailed

log = get_logger(__name__)

LOOK_S = 1.0
SETTLED_S = 5.0  # of leading, before it is handed on: a new leader has work to take over first
TRANSFER_S = 2.0
PAUSE_MIN_S, PAUSE_MAX_S = 30.0, 1_800.0  # doubled whenever the leadership came back by itself


class LeaderPreference:
    """Runs on every node, acts on the leader: hands the leadership to a preferred node that is up. One that
    loses it again, as with a slow disk, is asked again later and later."""

    def __init__(
        self,
        me: str,
        preferred: Sequence[str],
        engine: Engine,
        state: Callable[[], ClusterState],
        clock: Clock,
    ) -> None:
        self._me, self._preferred, self._engine = me, tuple(preferred), engine
        self._state, self._clock = state, clock
        self._leading_since: float | None = None
        self._not_before = float("-inf")
        self._pause_s = PAUSE_MIN_S

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """One look: hand over when that is due."""
        now = self._clock.monotonic()
        if not self._engine.is_leader:
            self._leading_since = None
            return
        self._leading_since = now if self._leading_since is None else self._leading_since
        target = self.successor()
        if not target or now - self._leading_since < SETTLED_S or now < self._not_before:
            return
        self._not_before = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        try:
            await self._engine.transfer_leadership(target, TRANSFER_S)
            log.info("leadership handed to a preferred node", extra={"node": target})
        except (TransferFailed, NotCommitted) as error:
            log.info("the preferred node did not take over", extra={"node": target, "error": str(error)})

    def successor(self) -> str:
        """The first preferred node that is up, unless this node is as good; empty: nobody is better."""
        nodes = self._state().nodes
        for node_id in self._preferred:
            if node_id == self._me:
                return ""
            node = nodes.get(NodeId(node_id))
            if node is not None and node.status is NodeStatus.UP and not node.draining:
                return node_id
        return ""
