"""What operators ask about the members: to add, remove, promote and move them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc

from coterie.core.commands import Rejected, SetDrain
from coterie.core.nouns import NodeId, NodeStatus
from coterie.core.ports import (
    AddMember,
    ChangeRefused,
    Engine,
    Member,
    MembershipChange,
    MoveMember,
    PromoteMember,
    RemoveMember,
    Role,
)
from coterie.core.state import ClusterState
from coterie.core.voters import VoterPolicy
from coterie.node.config.address import WILDCARDS, parse_address
from coterie.node.config.kinds import check_node_id
from coterie.node.errors import ApiError, Violation, from_rejection, invalid, not_found
from coterie.node.loads import LoadBook
from coterie.node.members import may_go
from coterie.node.proposer import Proposer

REFUSED_PAUSE_S = 0.1
ANSWER_S = 0.5  # kept of the caller's time for saying why not


class MemberCalls:
    """On any node. A change that is refused for the moment is tried again while the caller waits."""

    def __init__(
        self,
        engine: Engine,
        state: Callable[[], ClusterState],
        proposer: Proposer,
        book: LoadBook,
        policy: VoterPolicy,
    ) -> None:
        self._engine, self._state, self._proposer = engine, state, proposer
        self._book, self._policy = book, policy

    async def add(self, node_id: str, address: str, timeout_s: float) -> None:
        """Raises ApiError: BAD_FIELD, NODE_EXISTS, CHANGE_REFUSED."""
        _check(node_id, address)
        # It may have been removed a moment ago, through another node.
        await self._engine.read_barrier(timeout_s)
        member = self._member(node_id)
        if member is not None and member.address != address:
            text = (
                f"{node_id} is a member at {member.address}; move it with `coterie node move`, or remove it"
            )
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, "NODE_EXISTS", text)
        voters = sum(member.role is Role.VOTER for member in self._engine.members)
        role = Role.VOTER if voters < self._policy.voters_max else Role.LEARNER
        if member is None:
            await self._change(AddMember(node_id, address, role), timeout_s)

    async def remove(self, node_id: str, deadline_ms: int, force: bool, timeout_s: float) -> bool:
        """Whether it is done; else the node drains, and the leader takes it out when it is empty. Raises
        ApiError: NODE_NOT_FOUND, LAST_VOTER, LAST_NODE, CHANGE_REFUSED."""
        await self._engine.read_barrier(timeout_s)
        state, member = self._state(), self._member(node_id)
        node = state.nodes.get(NodeId(node_id))
        if member is None:
            raise not_found("NODE", node_id)
        if self._is_last_voter(member):
            text = f"{node_id} is the only voter; the cluster would end with it"
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "LAST_VOTER", text)
        if force or node is None or node.status is NodeStatus.DOWN:
            await self._change(RemoveMember(node_id), timeout_s)
            return True
        if not node.leaving:
            command = SetDrain(node.node_id, True, deadline_ms, node.drain_number + 1, leaving=True)
            outcome = await self._proposer.one(command, timeout_s)
            if isinstance(outcome, Rejected):
                raise from_rejection(outcome)
        elif may_go(node, self._engine, state, self._book):
            await self._change(RemoveMember(node_id), timeout_s)
            return True
        return False

    async def drain(self, node_id: str, deadline_ms: int, timeout_s: float) -> None:
        """No new work for the node; what runs there leaves. Raises ApiError: NODE_NOT_FOUND, LAST_NODE,
        STALE_DRAIN; NotCommitted."""
        await self._set_drain(node_id, True, deadline_ms, timeout_s)

    async def undrain(self, node_id: str, timeout_s: float) -> None:
        """Call a drain, or a removal that has not happened, off. Raises as drain does."""
        await self._set_drain(node_id, False, 0, timeout_s)

    async def _set_drain(self, node_id: str, draining: bool, deadline_ms: int, timeout_s: float) -> None:
        """The number says which state the caller knew. It is that of the whole cluster: a replica that lags
        would give a number that is taken."""
        await self._engine.read_barrier(timeout_s)
        node = self._state().nodes.get(NodeId(node_id))
        if node is None:
            raise not_found("NODE", node_id)
        command = SetDrain(node.node_id, draining, deadline_ms, node.drain_number + 1)
        outcome = await self._proposer.one(command, timeout_s)
        if isinstance(outcome, Rejected):
            raise from_rejection(outcome)

    async def promote(self, node_id: str, timeout_s: float) -> None:
        """Raises ApiError: NODE_NOT_FOUND, CHANGE_REFUSED."""
        await self._require(node_id, timeout_s)
        await self._change(PromoteMember(node_id), timeout_s)

    async def move(self, node_id: str, address: str, timeout_s: float) -> None:
        """Raises ApiError: BAD_FIELD, NODE_NOT_FOUND, CHANGE_REFUSED."""
        _check(node_id, address)
        await self._require(node_id, timeout_s)
        await self._change(MoveMember(node_id, address), timeout_s)

    def _member(self, node_id: str) -> Member | None:
        return next((member for member in self._engine.members if member.node_id == node_id), None)

    async def _require(self, node_id: str, timeout_s: float) -> None:
        await self._engine.read_barrier(timeout_s)
        if self._member(node_id) is None:
            raise not_found("NODE", node_id)

    def _is_last_voter(self, member: Member) -> bool:
        others = (other for other in self._engine.members if other.node_id != member.node_id)
        return member.role is Role.VOTER and not any(other.role is Role.VOTER for other in others)

    async def _change(self, change: MembershipChange, timeout_s: float) -> None:
        """Mostly another change is under way, or a leader has just begun: that passes."""
        end = time.monotonic() + max(ANSWER_S, timeout_s - ANSWER_S)
        while True:
            left = end - time.monotonic()
            try:
                await self._engine.change_members(change, max(0.1, left))
                return
            except ChangeRefused as error:
                if left < REFUSED_PAUSE_S:
                    text = str(error)
                    raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "CHANGE_REFUSED", text) from error
            await asyncio.sleep(REFUSED_PAUSE_S)


def _check(node_id: str, address: str) -> None:
    """Raises ApiError with every wrong field."""
    violations = []
    try:
        check_node_id(node_id)
    except ValueError as error:
        violations.append(Violation("node_id", str(error)))
    try:
        parsed = parse_address(address)
        if parsed.port is None or not parsed.host or parsed.host in WILDCARDS:
            text = f"{address!r} cannot be dialled: give host:port, at which the other nodes reach this one"
            violations.append(Violation("address", text))
    except ValueError as error:
        violations.append(Violation("address", str(error)))
    if violations:
        raise invalid(violations)
