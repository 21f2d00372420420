"""Virtual time, one log, a coordinator that changes, and commands that come late, twice or never."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import heappop, heappush

from coterie.core.commands import Command, MoveTask, Outcome
from coterie.core.machine import apply
from coterie.core.nouns import NodeId
from coterie.core.routing import NodeLoad, RoutingRules
from coterie.core.scheduler import plan
from coterie.core.state import ClusterState, Moment
from coterie.core.view import PlanPolicy, View
from tests.sim.scheduler.checks import REBALANCE_MS, Checks

Answer = Callable[[Outcome], None]

LATENCY_MS = 25
RETRY_MS = 200
TICK_MS = 100
DOWN_AFTER_MS = 1_000
STRATEGIES = ("least-loaded", "round-robin", "hash", "adaptive", "adaptive")


class World:
    """What happens is in a heap of moments; everything random comes from one seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.state = ClusterState()
        self.checks = Checks(self.state)
        self.now = 1_000_000
        self.calm = False  # the load is over: nothing fails any more
        self.bells: list[Callable[[], None]] = []  # rung after each entry
        self.beats: dict[NodeId, int] = {}  # when each node last reported
        self.in_a_row: dict[NodeId, int] = {}  # reports without a gap, to this coordinator
        self._happenings: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = self._index = self._stamp = 0
        self._skew = self._rebalance_at = 0
        self._leads_from = self.now
        self._planning = False
        rules = RoutingRules(strategy=self.dice.choice(STRATEGIES))
        self.policy = PlanPolicy(
            routing=rules,
            down_after_ms=DOWN_AFTER_MS,
            start_within_ms=2_000,
            rebalance_interval_ms=REBALANCE_MS,
            rebalance_share=0.6,
        )
        self.bells.append(self.wake_coordinator)

    # --- time

    def later(self, delay_ms: int, happening: Callable[[], None]) -> None:
        self._serial += 1
        heappush(self._happenings, (self.now + delay_ms, self._serial, happening))

    def run(self, until_ms: int) -> None:
        """Everything up to that time."""
        while self._happenings and self._happenings[0][0] <= until_ms:
            self.now, _, happening = heappop(self._happenings)
            happening()
        self.now = max(self.now, until_ms)

    # --- the log

    def propose(self, commands: Sequence[Command], answer: Answer | None = None) -> None:
        """As shells do it: until an outcome is known, the same again. An entry may commit without its
        proposer hearing of it, so that some are applied twice."""

        def arrive() -> None:
            if not self.calm and self.dice.random() < 0.03:
                self.later(RETRY_MS, lambda: self.propose(commands, answer))
                if self.dice.random() < 0.5:
                    return
                self.commit(commands)
                return
            outcomes = self.commit(commands)
            if answer is not None:
                answer(outcomes[-1])

        self.later(self.dice.randint(1, LATENCY_MS), arrive)

    def commit(self, commands: Sequence[Command]) -> list[Outcome]:
        """One entry, stamped by the leader's clock, never back."""
        self._index += 1
        self._stamp = max(self._stamp, self.now + self._skew)
        moment = Moment(self._index, self._stamp)
        outcomes = []
        for command in commands:
            outcomes.append(apply(self.state, command, moment))
            self.checks.after(command, outcomes[-1])
            self.state.outbox.clear()
        for bell in self.bells:
            bell()
        return outcomes

    # --- the coordinator

    def change_leader(self) -> None:
        """Nobody plans for a while; the next one has another clock and has heard of no node yet."""
        self._leads_from = self.now + self.dice.randint(100, 800)
        self._skew = self.dice.randint(-1_500, 1_500)
        self.beats = dict.fromkeys(self.beats, self._leads_from)
        self.in_a_row = {}

    def heard(self, node_id: NodeId) -> None:
        """A load report has come."""
        gap_ms = self.now - self.beats.get(node_id, self.now)
        self.in_a_row[node_id] = self.in_a_row.get(node_id, 0) + 1 if gap_ms <= DOWN_AFTER_MS else 1
        self.beats[node_id] = self.now

    def tick(self) -> None:
        self.wake_coordinator()
        self.later(TICK_MS, self.tick)

    def wake_coordinator(self) -> None:
        if not self._planning:
            self._planning = True
            self.later(1, self._plan)

    def _plan(self) -> None:
        self._planning = False
        if self.now < self._leads_from:
            return
        view = self._view()
        commands = plan(self.state, view, self.policy)
        if view.rebalance and (not commands or isinstance(commands[0], MoveTask)):
            self._rebalance_at = self.now + REBALANCE_MS
        if not commands:
            return
        if self.policy.routing.strategy != "adaptive":
            self.checks.order_of(commands, max(view.now_ms, self.state.meta.clock_ms))
        self._planning = True
        self.propose(commands, lambda _: self._planned())

    def _planned(self) -> None:
        self._planning = False
        self.wake_coordinator()

    def _view(self) -> View:
        loads = {}
        for node_id, beat_ms in self.beats.items():
            node = self.state.nodes.get(node_id)
            if node is not None:
                loads[node_id] = NodeLoad(node_id, node.incarnation, max(0, self.now - beat_ms))
        view = View(self.now + self._skew, loads, self.in_a_row, rebalance=self.now >= self._rebalance_at)
        return replace(view, dice=self.dice.getrandbits(32), leader=min(loads, default=NodeId("")))
