"""Connections between the nodes: made, broken, refused, made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from coterie.raft.errors import LinkRefused, RemovedFromCluster, Why
from tests.sim.raft.network import Network
from tests.sim.raft.node import SimNode, summary
from tests.sim.raft.timeline import MILLISECOND, Timeline


class Links(Timeline):
    """The part of the world between the nodes."""

    ids: list[str]
    nodes: dict[str, SimNode]
    network: Network
    trace: Callable[[str], None] | None = None

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.refusals: Counter[str] = Counter()

    def break_link(self, a: str, b: str) -> None:
        if not self.network.link(a, b).up:
            return
        self.network.disconnect(a, b)
        for here, there in ((a, b), (b, a)):
            node = self.nodes[here]
            self._to(node, lambda node=node, there=there: self._link_down(node, there))  # type: ignore[misc]
        self._reconnect_later(a, b)

    def _link_down(self, node: SimNode, there: str) -> None:
        node.member.link_down(there)
        self._arm(node)  # when it never knew of that link nothing has happened

    def _link_up(self, node: SimNode, there: SimNode) -> bool:
        try:
            node.member.link_up(there.node_id, there.member.disk_id)
        except LinkRefused as refused:
            self.refusals[str(refused.why)] += 1
            self.break_link(node.node_id, there.node_id)
            self._tell_refused(there, node.node_id, refused.why)
            return False
        self._kick(node)
        return True

    def _tell_refused(self, node: SimNode, by: str, why: Why) -> None:
        try:
            node.member.link_refused(by, why)
        except RemovedFromCluster as error:
            self.leave(node, error)

    def _reconnect_later(self, a: str, b: str) -> None:
        self.later(self.rng.randint(1, 60) * MILLISECOND, lambda: self._reconnect(a, b))

    def _reconnect(self, a: str, b: str) -> None:
        here, there = self.nodes[a], self.nodes[b]
        if self.network.link(a, b).up or not (here.is_up and there.is_up):
            return
        if here.paused or there.paused or frozenset((a, b)) in self.network.blocked:
            self._reconnect_later(a, b)
            return
        if (here.address or there.address) and not (here.dials(there) or there.dials(here)):
            self._reconnect_later(a, b)
            return
        self.network.connect(a, b)
        if self._link_up(here, there):
            self._link_up(there, here)

    def block(self, a: str, b: str) -> None:
        self.network.blocked.add(frozenset((a, b)))
        self.break_link(a, b)

    def unblock_all(self) -> None:
        self.network.blocked.clear()

    def _deliver(self, sender: str, receiver: str, frame: bytes) -> None:
        node = self.nodes[receiver]
        if self.trace is not None:
            self.say(f"{sender} > {receiver}", *summary(frame))
        if node.paused:
            self._to(node, lambda: self._receive(node, sender, frame))
        elif node.member is not None:
            self._receive(node, sender, frame)

    def _receive(self, node: SimNode, sender: str, frame: bytes) -> None:
        try:
            node.member.receive(sender, frame)
        except LinkRefused:
            self.break_link(sender, node.node_id)
        self._kick(node)

    # --- what the rest of the world does ---

    def say(self, *what: object) -> None:
        """One line of the trace, for people."""
        raise NotImplementedError

    def leave(self, node: SimNode, error: RemovedFromCluster) -> None:
        raise NotImplementedError

    def _kick(self, node: SimNode, delay_us: int | None = None) -> None:
        raise NotImplementedError

    def _arm(self, node: SimNode) -> None:
        raise NotImplementedError

    def _to(self, node: SimNode, what: Callable[[], Any]) -> None:
        raise NotImplementedError
