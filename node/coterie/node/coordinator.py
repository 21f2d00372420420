"""The leader's loop: compare the state with the load reports, propose what the plan says."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from coterie.core.cluster_config import newest
from coterie.core.commands import (
    Accepted,
    BeginLeadership,
    Command,
    ConfigureCluster,
    DeleteLimit,
    MarkNode,
    MoveTask,
    Rejected,
    SetLimit,
)
from coterie.core.config_commands import ApplyConfig
from coterie.core.nouns import NodeId, NodeStatus, Policy
from coterie.core.ports import Engine, NotCommitted, Role
from coterie.core.quotas import Limit
from coterie.core.routing.unfit import Unfit
from coterie.core.scheduler import next_clock_ms, plan
from coterie.core.state import ClusterState
from coterie.core.view import PlanPolicy, View
from coterie.node.breakers import BreakerLog
from coterie.node.clock import Clock, LogTime
from coterie.node.coordination.firing import Firing
from coterie.node.failover import FailoverWatch
from coterie.node.hub import Bell, wait_for_bell
from coterie.node.loads import LoadBook
from coterie.node.observability import get_logger
from coterie.node.proposer import Proposer
from coterie.node.security.tickets import SEAL_BYTES
from coterie.raft.errors import TransferFailed

log = get_logger(__name__)

PROPOSE_TIMEOUT_S = 5.0
IDLE_S = 0.1  # at most this long between two looks at the load reports
RUNNING_LIMIT = "config.maxRunning"
HANDOVER_S = 2.0
PLANS_MAX = 16  # of one round: what follows them has its turn, however much there is to plan
FIRE_AGAIN_MS = 500
FIRE_MORE_MS = 100  # while there are others that had no room beside those that were refused
HANDOVER_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class ClusterNaming:
    """What a new cluster is called and the configuration it starts with; then, the one that holds."""

    name: str
    policy: Policy
    max_running: int = 0  # tasks in the whole cluster at once; 0: no limit
    document: str = "{}"  # see coterie.node.config.document


@dataclass(frozen=True, slots=True)
class CoordinatorParts:
    """What the coordinator is given."""

    me: NodeId
    engine: Engine
    state: Callable[[], ClusterState]
    proposer: Proposer
    book: LoadBook
    bell: Bell
    clock: Clock
    policy: Callable[[], PlanPolicy]
    naming: Callable[[], ClusterNaming]
    failovers: FailoverWatch | None = None


class Coordinator:
    """Runs on every node, acts only on the one that leads."""

    def __init__(self, parts: CoordinatorParts) -> None:
        self._me, self._engine, self._state = parts.me, parts.engine, parts.state
        self._proposer, self._book, self._clock = parts.proposer, parts.book, parts.clock
        self._policy, self._naming, self._failovers = parts.policy, parts.naming, parts.failovers
        self._time = LogTime(parts.clock, lambda: parts.state().meta.clock_ms)
        self._bell = parts.bell.listener()
        self._term = 0  # of the leadership the load book belongs to
        self._kept_to = -1  # the revision of the configuration that was carried out
        self._looked_at_ms = 0
        self._rebalance_at = 0.0  # monotonic
        self._hand_over_at = float("-inf")  # monotonic: not before
        self._firing, self._fire_at_ms = Firing(), 0
        self._condemned: set[NodeId] = set()  # a verdict that they are down is on its way
        self._breaker_log, self._unfit = BreakerLog(), Unfit()
        self._book.grants = self.may_lease

    async def run(self) -> None:
        while True:
            await wait_for_bell(self._bell, self._pause_s())
            self._looked_at_ms = self._time.now_ms()
            if not self._engine.is_leader:
                continue
            try:
                await self._lead()
            except NotCommitted as error:
                # What was proposed may yet be applied, until an entry that was proposed later is.
                self._term = 0
                log.debug("plan not committed", extra={"error": str(error)})
            except Exception:
                log.exception("the coordinator failed; it starts again")
                await asyncio.sleep(IDLE_S)

    def _pause_s(self) -> float:
        """Until the next clock runs out; one that ran out before the last look waits for something else."""
        due = next_clock_ms(self._state(), self._time.now_ms())
        if self._engine.is_leader:
            due = self._firing.earlier(due)
        if due <= self._looked_at_ms:
            return IDLE_S
        return min(IDLE_S, max(0.001, (due - self._time.now_ms()) / 1000))

    async def _lead(self) -> None:
        """One round. A leadership begins only when everything committed before it is applied here."""
        if self._term != self._engine.term and not await self._begin():
            return
        await self._keep_to_config()
        for _ in range(PLANS_MAX):
            commands = self._plan() if self._may_plan() else []
            if not commands or not await self._carry_out(commands):
                break
        else:
            self._bell.set()  # where work comes and goes all the time there is always more to plan
        if self._failovers is not None:
            self._failovers.look(self._state())
        if self._state().breakers:
            self._breaker_log.look(self._state().breakers)
        await self._fire_schedules()
        await self._hand_over_when_draining()

    async def _begin(self) -> bool:
        """Whether this leadership has begun: from its entry on, verdicts of earlier ones are refused."""
        await self._engine.read_barrier(PROPOSE_TIMEOUT_S)
        term = self._engine.term
        outcome = await self._proposer.one(BeginLeadership(self._me, term), PROPOSE_TIMEOUT_S)
        if not isinstance(outcome, Accepted):
            return False
        self._term = term
        self._condemned.clear()
        self._rebalance_at = self._clock.monotonic() + self._policy().rebalance_interval_ms / 1000
        self._book.begin(list(self._state().nodes))
        if self._failovers is not None:
            self._failovers.begin(self._state())
        log.info("leading", extra={"term": term})
        self._kept_to = -1
        await self._configure()
        return True

    async def _fire_schedules(self) -> None:
        """Once a round. What the queue has no room for is tried again after a while."""
        if self._time.now_ms() < self._fire_at_ms:
            return
        for _ in iter(lambda: self._firing.look(self._state()), False):
            await asyncio.sleep(0)
        if not self._may_plan():
            return
        now_ms = self._time.now_ms()
        commands = self._firing.plan(self._state(), now_ms)
        outcomes = await self._proposer.propose(commands, PROPOSE_TIMEOUT_S)
        if any(isinstance(outcome, Rejected) for outcome in outcomes):
            self._fire_at_ms = now_ms + (FIRE_MORE_MS if self._firing.more else FIRE_AGAIN_MS)

    def _may_plan(self) -> bool:
        """This leadership is still the one the load book belongs to, and a majority answers it. A leader that
        was stopped for a while wakes up with old reports, and believes in itself until somebody answers: its
        verdicts would reach the log by way of its successor."""
        engine = self._engine
        return engine.is_leader and engine.term == self._term and engine.has_quorum

    def may_lease(self, node_id: NodeId) -> bool:
        """Whether that node may run skills on this leader's word. Not one that was given up, or is being
        given up: its tasks are elsewhere, and its replica may not know that yet."""
        node = self._state().nodes.get(node_id)
        given_up = node_id in self._condemned or (node is not None and node.status is NodeStatus.DOWN)
        return self._may_plan() and not given_up

    def _plan(self) -> list[Command]:
        state = self._state()
        self._book.retain(state.nodes)
        for node in state.nodes.values():
            self._book.expect(node.node_id, node.incarnation)
        book = self._book
        view = View(
            self._time.now_ms(),
            book.loads(),
            book.fresh(),
            self._clock.dice(),
            self._term,
            self._me,
            rebalance=self._clock.monotonic() >= self._rebalance_at,
            unfit=self._unfit,
        )
        policy = self._policy()
        commands = plan(state, view, policy)
        if view.rebalance and (not commands or isinstance(commands[0], MoveTask)):
            self._rebalance_at = self._clock.monotonic() + policy.rebalance_interval_ms / 1000
        return commands

    async def _carry_out(self, commands: list[Command]) -> bool:
        """Whether to look again at once."""
        down = {c.node_id for c in commands if isinstance(c, MarkNode) and c.status is NodeStatus.DOWN}
        self._condemned |= down
        outcomes = await self._proposer.propose(commands, PROPOSE_TIMEOUT_S)
        self._condemned -= down
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(command, MarkNode) and isinstance(outcome, Accepted):
                level = log.warning if command.status is NodeStatus.DOWN else log.info
                fields = {"node": command.node_id, "reason": command.reason}
                level(f"node is {command.status.name.lower()}", extra=fields)
        if not any(isinstance(outcome, Accepted) for outcome in outcomes):
            await asyncio.sleep(0.01)  # the state moved on under the plan: look again, not in a spin
        # A successor has begun, of which this node will hear soon.
        return not any(isinstance(o, Rejected) and o.code == "STALE_LEADER" for o in outcomes)

    async def _configure(self) -> None:
        naming, meta, last = self._naming(), self._state().meta, newest(self._state())
        if not meta.cluster_id or not meta.seal:
            command = ConfigureCluster(
                meta.cluster_id or self._clock.new_id(),
                meta.cluster_name or naming.name,
                meta.policy if meta.cluster_id else naming.policy,
                meta.seal or secrets.token_bytes(SEAL_BYTES),
            )
            await self._proposer.one(command, PROPOSE_TIMEOUT_S)
        if last is None or last.policy != naming.policy:
            note = "as this version reads it" if last is not None else "from this node's file, at the start"
            number, by = meta.config_revision, f"node:{self._me}"
            applied = ApplyConfig(naming.document, naming.policy, number, by, note)
            await self._proposer.one(applied, PROPOSE_TIMEOUT_S)

    async def _keep_to_config(self) -> None:
        """What follows from a revision and is a thing of its own in the state."""
        revision = self._state().meta.config_revision
        if revision != self._kept_to:
            await self._limit_running()
            self._kept_to = revision

    async def _limit_running(self) -> None:
        """The limit that the configuration sets is a limit like any other, under a name of its own."""
        wanted = Limit(RUNNING_LIMIT, concurrent=self._naming().max_running)
        known = self._state().limits.get(RUNNING_LIMIT)
        if wanted.concurrent and known != wanted:
            await self._proposer.one(SetLimit(wanted), PROPOSE_TIMEOUT_S)
        elif not wanted.concurrent and known is not None:
            await self._proposer.one(DeleteLimit(RUNNING_LIMIT), PROPOSE_TIMEOUT_S)

    async def _hand_over_when_draining(self) -> None:
        """To a node that stays. Planning waits meanwhile, so a failure is not tried again at once."""
        state = self._state()
        me = state.nodes.get(self._me)
        if me is None or not me.draining or state.indexes.held_by(self._me) or not self._may_plan():
            return
        now = self._clock.monotonic()
        if now < self._hand_over_at:
            return
        self._hand_over_at = now + HANDOVER_PAUSE_S
        voters = {member.node_id for member in self._engine.members if member.role is Role.VOTER}
        for node in sorted(state.nodes.values(), key=lambda node: node.node_id):
            stays = node.status is NodeStatus.UP and not node.draining and node.node_id in voters
            if stays and await self._hand_over(node.node_id):
                return

    async def _hand_over(self, node_id: NodeId) -> bool:
        try:
            await self._engine.transfer_leadership(node_id, HANDOVER_S)
        except (TransferFailed, NotCommitted) as error:
            log.info("leadership did not move", extra={"node": node_id, "error": str(error)})
            return False
        return True
