"""The leader's other loop: who belongs to the cluster, and who of them votes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from coterie.core.commands import ForgetNode
from coterie.core.nouns import Node, NodeId, NodeStatus
from coterie.core.ports import (
    ChangeRefused,
    Engine,
    Member,
    MembershipChange,
    MoveMember,
    NotCommitted,
    RemoveMember,
    Role,
)
from coterie.core.state import ClusterState
from coterie.core.voters import Health, VoterPolicy, next_change
from coterie.node.clock import Clock
from coterie.node.config.check import voters_warning
from coterie.node.loads import LoadBook
from coterie.node.observability import get_logger
from coterie.node.proposer import Proposer

log = get_logger(__name__)

LOOK_S = 0.25
CHANGE_S = 5.0
REFUSED_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class KeeperParts:
    """What the keeper is given."""

    me: NodeId
    engine: Engine
    state: Callable[[], ClusterState]
    proposer: Proposer
    book: LoadBook
    clock: Clock
    policy: VoterPolicy


class MembershipKeeper:
    """Runs on every node, acts only on the one that leads. Level-triggered: what an operator wants is in the
    state (`leaving`) or in the log (the members), so any leader finishes what another one began."""

    def __init__(self, parts: KeeperParts) -> None:
        self._parts = parts
        self._term = 0
        self._down_since: dict[str, float] = {}
        self._refused = ""
        self._warned = ""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._warn()
            if not self._parts.engine.is_leader or not self._parts.engine.has_quorum:
                continue
            try:
                await self._lead()
            except NotCommitted as error:
                log.debug("membership change not known to be committed", extra={"error": str(error)})
            except Exception:
                log.exception("the keeper of the members failed; it starts again")
                await asyncio.sleep(REFUSED_PAUSE_S)

    def _warn(self) -> None:
        """Once for each number of voters that is none to be wished for."""
        text = "; ".join(membership_warnings(self._parts.engine.members))
        if text != self._warned:
            self._warned = text
            if text:
                log.warning("membership warning", extra={"warning": text})

    async def _lead(self) -> None:
        engine = self._parts.engine
        if self._term != engine.term:
            await engine.read_barrier(CHANGE_S)
            self._term, self._down_since = engine.term, {}
        await self._forget()
        change = self._next()
        if change is None:
            self._refused = ""
            return
        try:
            await engine.change_members(change, CHANGE_S)
        except ChangeRefused as error:
            if str(error) != self._refused:
                self._refused = str(error)
                log.info("membership change refused", extra={"change": str(change), "reason": str(error)})
            await asyncio.sleep(REFUSED_PAUSE_S)
        else:
            log.info("membership changed", extra={"change": str(change)})

    def _next(self) -> MembershipChange | None:
        state, members = self._parts.state(), self._parts.engine.members
        for member in members:
            node = state.nodes.get(NodeId(member.node_id))
            if node is None:
                continue
            if may_go(node, self._parts.engine, state, self._parts.book):
                return RemoveMember(member.node_id)
            if node.status is NodeStatus.UP and node.address and node.address != member.address:
                return MoveMember(member.node_id, node.address)
        return next_change(self._parts.me, members, self._health(state, members), self._parts.policy)

    def _health(self, state: ClusterState, members: tuple[Member, ...]) -> dict[str, Health]:
        """Since when a member is down is counted on this leader's monotonic clock, from its first look on."""
        now = self._parts.clock.monotonic()
        found = {}
        for member in members:
            node = state.nodes.get(NodeId(member.node_id))
            if node is not None and node.status is NodeStatus.UP:
                self._down_since.pop(member.node_id, None)
                found[member.node_id] = Health(up=True, leaving=node.leaving)
            else:
                since = self._down_since.setdefault(member.node_id, now)
                found[member.node_id] = Health(up=False, down_s=now - since)
        return found

    async def _forget(self) -> None:
        """Nodes that were removed, or registered again with their last breath."""
        members = {member.node_id for member in self._parts.engine.members}
        for node_id, node in list(self._parts.state().nodes.items()):
            if members and node_id not in members:
                await self._parts.proposer.one(ForgetNode(node_id, node.incarnation), CHANGE_S)
                log.info("node forgotten", extra={"node": node_id})


def staying_voters(members: tuple[Member, ...], state: ClusterState) -> frozenset[str]:
    """Who votes and is not about to leave: on a majority of these must be what shall last."""
    voters = (member.node_id for member in members if member.role is Role.VOTER)
    leaving = {node.node_id for node in state.nodes.values() if node.leaving}
    return frozenset(voter for voter in voters if voter not in leaving)


def may_go(node: Node, engine: Engine, state: ClusterState, book: LoadBook) -> bool:
    """Whether a node that leaves has nothing left that the others would miss. A leader hands over first."""
    if not node.leaving or node.node_id == engine.leader:
        return False
    if node.status is NodeStatus.DOWN:
        return True
    report = book.report(node.node_id)
    kept_for = frozenset(report.blobs_kept_for) if report is not None else frozenset()
    return not state.indexes.held_by(node.node_id) and kept_for == staying_voters(engine.members, state)


def membership_warnings(members: tuple[Member, ...]) -> list[str]:
    """What is wrong with how many vote."""
    text = voters_warning(sum(member.role is Role.VOTER for member in members))
    return [text] if text else []
