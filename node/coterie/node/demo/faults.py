"""kill -9 of the leader and of another node at set points of the work; each comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from coterie.client import Cluster, NodeInfo
from coterie.node.demo.journal import Journal, Kill
from coterie.node.localcluster import LocalCluster

RESTART_AFTER_S = 2.0
POLL_S = 0.1
BACK_MAX_S = 30.0


def choose_victim(nodes: Sequence[NodeInfo], leader: str, role: str, spared: Sequence[str]) -> NodeInfo:
    """The leader, or the busiest node that does not lead; one that was not killed before if there is one."""
    if role == "leader":
        return next(node for node in nodes if node.id == leader)
    others = [node for node in nodes if node.id != leader and node.state == "ACTIVE"]
    return min(others, key=lambda node: (node.id in spared, -node.running, node.id))


class Faults:
    """Kills while the work goes on. Only one node is down at a time, so a majority of three remains."""

    def __init__(self, nodes: LocalCluster, cluster: Cluster, journal: Journal) -> None:
        self._nodes = nodes
        self._cluster = cluster
        self._journal = journal

    async def run(self) -> None:
        """The leader at one third, another node at two thirds."""
        for part, role in ((1, "leader"), (2, "follower")):
            await self._journal.until_done(max(1, self._journal.total * part // 3))
            await self._kill(role)

    async def _kill(self, role: str) -> None:
        status = await self._cluster.get_status()
        spared = [kill.node_id for kill in self._journal.kills]
        victim = choose_victim(status.nodes, status.leader, role, spared)
        kill = Kill(
            node_id=victim.id,
            role=role,
            at=time.monotonic(),
            wall=time.time(),
            done=self._journal.done,
            running=victim.running,
        )
        self._nodes.kill_node(victim.id)
        self._journal.kills.append(kill)
        self._journal.say(f"kill -9 {victim.id} (the {role}) after {kill.done} documents")
        await self._watch_takeover(kill, status.term)
        await asyncio.sleep(max(0.0, RESTART_AFTER_S - (time.monotonic() - kill.at)))
        self._nodes.start_node(victim.id)
        self._journal.say(f"{victim.id} started again")
        await self._until_back(kill, victim.raw.incarnation)

    async def _watch_takeover(self, kill: Kill, term: int) -> None:
        if kill.role != "leader":
            return
        deadline = kill.at + RESTART_AFTER_S
        while time.monotonic() < deadline:
            status = await self._cluster.get_status(stale=True)
            if status.term > term and status.leader and status.leader != kill.node_id:
                seconds = time.monotonic() - kill.at
                self._journal.say(
                    f"{status.leader} leads (term {status.term}), {seconds:.2f} s after the kill"
                )
                return
            await asyncio.sleep(POLL_S / 4)

    async def _until_back(self, kill: Kill, before: int) -> None:
        deadline = time.monotonic() + BACK_MAX_S
        while time.monotonic() < deadline:
            nodes = await self._cluster.list_nodes()
            # The incarnation tells the new process from the old one, which may not be missed yet.
            if any(
                n.id == kill.node_id and n.state == "ACTIVE" and n.raw.incarnation != before for n in nodes
            ):
                kill.back_s = time.monotonic() - kill.at
                self._journal.say(f"{kill.node_id} is active again, {kill.back_s:.1f} s after the kill")
                return
            await asyncio.sleep(POLL_S)
        self._journal.say(f"{kill.node_id} did not become active within {BACK_MAX_S:g} s")
