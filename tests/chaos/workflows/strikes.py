"""kill -9 on time: one node every so many seconds, whatever state the others are in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack

from coterie.node.localcluster import LocalCluster
from coterie.node.localcluster.wait import open_channel, status_of

LOOK_S = 0.5  # how long a node may take to say how it is: the next blow does not wait for it


def victim(dice: random.Random, nodes: Sequence[str], up: Collection[str]) -> str:
    """A node that works and whose peers are a majority without it; where there is none, any node."""
    safe = [node for node in nodes if node in up and len(set(up) - {node}) > len(nodes) // 2]
    return dice.choice(safe or nodes)


class Strikes:
    """Kills on a beat that nothing delays; each victim is started again at once. `sparing`: a beat passes
    without a kill while not all nodes are up, so that a slow machine gets on too."""

    def __init__(self, cluster: LocalCluster, every_s: float, seed: int, *, sparing: bool = False) -> None:
        self._sparing = sparing
        self._cluster, self._every_s, self._dice = cluster, every_s, random.Random(seed)
        self.kills = 0
        self.unsafe = 0  # of these, such that left no majority
        self.passed = 0  # beats without a kill
        self.faults: list[str] = []

    async def run(self) -> None:
        """Until it is cancelled."""
        cluster, loop = self._cluster, asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            channels = {
                node: await stack.enter_async_context(open_channel(address, cluster.client_tls))
                for node, address in cluster.addresses.items()
            }
            beat = loop.time()
            while True:
                beat += self._every_s
                await asyncio.sleep(max(0.0, beat - LOOK_S - loop.time()))
                looks = {node: loop.create_task(status_of(channel)) for node, channel in channels.items()}
                await asyncio.sleep(max(0.0, beat - loop.time()))
                self._strike({node for node, look in looks.items() if _works(look)})
                for look in looks.values():
                    look.cancel()
                await asyncio.gather(*looks.values(), return_exceptions=True)

    def _strike(self, up: set[str]) -> None:
        cluster = self._cluster
        for node in cluster.failed_nodes():
            self.faults.append(f"{node} ended by itself: {cluster.log_tail(node, 3)}")
            cluster.start_node(node)
        if self._sparing and len(up) < len(cluster.node_ids):
            self.passed += 1
            return
        node = victim(self._dice, cluster.node_ids, up)
        cluster.kill_node(node)
        cluster.start_node(node)
        self.kills += 1
        self.unsafe += len(up - {node}) <= len(cluster.node_ids) // 2


def _works(look: asyncio.Task[object]) -> bool:
    """It has answered, and knows a leader with a majority."""
    if not look.done() or look.cancelled() or look.exception() is not None:
        return False
    return bool(getattr(look.result(), "has_quorum", False))
