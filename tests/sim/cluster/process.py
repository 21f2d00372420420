"""One start of a node: gateway, coordinator, worker and load reports around one member, as the product wires
them; plan, agenda, optimist, load book and lease are the product's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from coterie.core.nouns import NodeId
from coterie.core.state import ClusterState
from coterie.node.clock import Clock
from coterie.node.loads import Lease, LoadBook
from coterie.node.optimist import Optimist
from coterie.v1 import peer_pb2
from tests.sim.cluster.coordinator import SimCoordinator
from tests.sim.cluster.gateway import SimGateway
from tests.sim.cluster.machine import ClusterMachine
from tests.sim.cluster.proposer import SimProposer
from tests.sim.cluster.settings import (
    DOWN_AFTER_MS,
    ELECTION_MS,
    IDLE_MS,
    LEASE_MS,
    MILLISECOND,
    PLAN_POLICY,
    REPORT_MS,
)
from tests.sim.cluster.worker import SimWorker
from tests.sim.raft.node import SimNode

if TYPE_CHECKING:
    from tests.sim.cluster.world import ClusterWorld


class ProcessClock(Clock):
    """The clock of a simulated node, with dice of this process."""

    def __init__(self, node: SimNode, rng: random.Random) -> None:
        self._node, self._rng = node, rng

    def now_ms(self) -> int:
        return int(self._node.clock.wall_ms())

    def monotonic(self) -> float:
        return float(self._node.clock.monotonic())

    def dice(self) -> int:
        return self._rng.getrandbits(32)


class Process:
    """Everything here dies with the process; what must last is in the log."""

    def __init__(self, world: ClusterWorld, node: SimNode) -> None:
        assert isinstance(node.machine, ClusterMachine)
        self.world, self.node, self.machine = world, node, node.machine
        self.me = NodeId(node.node_id)
        self.incarnation = node.starts
        self.dead = False
        self.frozen = False  # when paused: its skills stand still too
        self.clock = ProcessClock(node, random.Random(world.rng.random()))
        self.book = LoadBook(self.clock, DOWN_AFTER_MS)
        self.lease = Lease(self.clock, LEASE_MS, lambda left_ms: None)
        self.proposer = SimProposer(self)
        self.optimist = Optimist(
            self.me,
            lambda: self.state,
            self.book,
            self.clock,
            lambda: str(node.member.leader),
            lambda: PLAN_POLICY.routing,
        )
        self.gateway = SimGateway(self)
        self.coordinator = SimCoordinator(self)
        self.worker = SimWorker(self)
        self._rung = False
        self.machine.on_change = self.ring
        self._idle()
        self._report()

    @property
    def state(self) -> ClusterState:
        return self.machine.state

    @property
    def has_quorum(self) -> bool:
        """As the engine's: this node leads or follows a leader that it heard from lately."""
        return bool(self.node.member.has_quorum)

    # --- time ---

    def later(self, delay_us: int, what: Callable[[], None]) -> None:
        """In this process, unless it is dead by then; when it is stopped, as soon as it goes on."""
        self.world.later(delay_us, lambda: self.run(what))

    def run(self, what: Callable[[], None]) -> None:
        if not self.dead:
            self.world._to(self.node, lambda: None if self.dead else what())

    def in_skill(self, delay_us: int, what: Callable[[], None]) -> None:
        """In a child process, which goes on when only the node's own process is stopped."""

        def arrive() -> None:
            if self.dead:
                return
            if self.node.paused and self.frozen:
                self.node.backlog.append(lambda: None if self.dead else what())
            else:
                what()

        self.world.later(delay_us, arrive)

    def kick(self) -> None:
        self.world._kick(self.node)

    def ring(self) -> None:
        """Something changed: coordinator and worker look at the state soon, once."""
        if not self._rung:
            self._rung = True
            self.later(self.world.rng.randint(50, 1_000), self._look)

    def _look(self) -> None:
        self._rung = False
        self.coordinator.look()
        self.worker.look()

    def _idle(self) -> None:
        self._look()
        self.later(IDLE_MS * MILLISECOND, self._idle)

    # --- load reports ---

    def _report(self) -> None:
        member = self.node.member
        report = peer_pb2.LoadReport(
            node_id=self.me,
            incarnation=self.incarnation,
            sent_at_us=int(self.clock.monotonic() * 1_000_000),
            running=len(self.worker.jobs),
        )
        if member.is_leader:
            self.book.note(report)
            if self.book.grants(self.me):
                self.lease.extend_from(member.quorum_contact_at())
        elif member.leader:
            sent = self.clock.monotonic()
            self.world.message(self, member.leader, lambda leader: leader.take_report(self, report, sent))
        self.later(REPORT_MS * MILLISECOND, self._report)

    def take_report(self, sender: Process, report: peer_pb2.LoadReport, sent: float) -> None:
        member = self.node.member
        age_s = self.clock.monotonic() - member.quorum_contact_at()
        leads = bool(member.is_leader) and age_s <= ELECTION_MS / 1000
        if not leads:
            return
        self.book.note(report)
        lease = self.book.grants(sender.me)
        ack = peer_pb2.ReportAck(sent_at_us=report.sent_at_us, lease=lease, leader=self.me)
        for other, age_ms in self.book.reports():
            ack.loads.add(report=other, age_ms=age_ms)
        self.world.message(self, sender.me, lambda there: there.take_ack(sender, ack, sent))

    def take_ack(self, asked_by: Process, ack: peer_pb2.ReportAck, sent: float) -> None:
        if asked_by is self and ack.lease and not self.node.member.is_leader:
            self.book.copy_from(ack)
            self.lease.extend_from(sent)
