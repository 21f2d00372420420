"""The loop of coterie.node.coordinator in virtual time, around the product's `plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coterie.core.commands import (
    Accepted,
    BeginLeadership,
    Command,
    ConfigureCluster,
    MarkNode,
    Outcome,
)
from coterie.core.nouns import NodeId, NodeStatus
from coterie.core.scheduler import plan
from coterie.core.view import View
from coterie.node.clock import LogTime
from tests.sim.cluster.settings import PLAN_POLICY, POLICY

if TYPE_CHECKING:
    from tests.sim.cluster.process import Process

PROPOSE_MS = 1_500
BARRIER_S = 1.0


class SimCoordinator:
    """Looks on every node, acts on the one that leads."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._time = LogTime(process.clock, lambda: process.state.meta.clock_ms)
        self._term = 0  # of the leadership the load book belongs to
        self._busy = False
        self._condemned: set[NodeId] = set()
        process.book.grants = self.may_lease

    def look(self) -> None:
        member = self._process.node.member
        if self._busy or not member.is_leader:
            return
        if self._term != member.term:
            self._begin()
        elif self.may_plan():
            self._propose(self._plan())

    def may_plan(self) -> bool:
        """See coterie.node.coordinator."""
        member = self._process.node.member
        return bool(member.is_leader) and member.term == self._term and self._process.has_quorum

    def may_lease(self, node_id: NodeId) -> bool:
        """See coterie.node.coordinator."""
        node = self._process.state.nodes.get(node_id)
        given_up = node_id in self._condemned or (node is not None and node.status is NodeStatus.DOWN)
        return self.may_plan() and not given_up

    def _begin(self) -> None:
        """A leadership begins when everything before it is applied here, with an entry of its own."""
        process = self._process
        self._busy = True

        def ready(answer: int | Exception) -> None:
            process.later(10, lambda: self._declare(answer))

        process.node.member.read(BARRIER_S, ready)
        process.kick()

    def _declare(self, answer: int | Exception) -> None:
        term = self._process.node.member.term
        if not isinstance(answer, int):
            self._proposed(None, 0)
            return

        def done(outcomes: list[Outcome] | None, tries: int) -> None:
            if outcomes is not None and isinstance(outcomes[0], Accepted):
                self._begun(term)
            self._proposed(outcomes, tries)

        self._process.proposer.propose([BeginLeadership(self._process.me, term)], PROPOSE_MS, done)

    def _begun(self, term: int) -> None:
        self._term = term
        self._condemned.clear()
        self.begin_book()
        if not self._process.state.meta.cluster_id:
            command = ConfigureCluster("c1", "simulated", POLICY)
            self._process.proposer.propose([command], PROPOSE_MS, lambda outcomes, tries: None)

    def begin_book(self) -> None:
        self._process.book.begin(list(self._process.state.nodes))

    def _plan(self) -> list[Command]:
        process = self._process
        for node in process.state.nodes.values():
            process.book.expect(node.node_id, node.incarnation)
        book = process.book
        dice, me = process.clock.dice(), process.me
        view = View(self._time.now_ms(), book.loads(), book.fresh(), dice, self._term, leader=me)
        return plan(process.state, view, PLAN_POLICY)

    def _propose(self, commands: list[Command]) -> None:
        if commands:
            self._busy = True
            down = {c.node_id for c in commands if isinstance(c, MarkNode) and c.status is NodeStatus.DOWN}
            self._condemned |= down

            def done(outcomes: list[Outcome] | None, tries: int) -> None:
                if outcomes is not None:
                    self._condemned -= down
                self._proposed(outcomes, tries)

            self._process.proposer.propose(commands, PROPOSE_MS, done)

    def _proposed(self, outcomes: list[Outcome] | None, tries: int) -> None:
        self._busy = False
        if outcomes is None:
            self._term = 0
        self._process.ring()
