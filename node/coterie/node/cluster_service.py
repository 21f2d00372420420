"""The Cluster service: what the nodes are and do, and what an operator tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from coterie.core.canonical import state_hash
from coterie.core.ports import Engine, Member, Role
from coterie.core.state import ClusterState
from coterie.core.transitions import TERMINAL
from coterie.core.voters import VoterPolicy
from coterie.node import convert
from coterie.node.admission import DURATION_MS_MAX
from coterie.node.backup.making import Backups
from coterie.node.clock import Clock
from coterie.node.errors import Violation, invalid, not_found
from coterie.node.links import PeerChannels, outliving
from coterie.node.loads import LoadBook
from coterie.node.member_calls import MemberCalls
from coterie.node.members import membership_warnings
from coterie.node.proposer import Proposer
from coterie.node.rpc import Context, seconds_left, streaming, unary
from coterie.node.version import VERSION
from coterie.v1 import cluster_pb2, cluster_pb2_grpc, peer_pb2, tasks_pb2

PROPOSE_MAX_S = 30.0
LOADS_TIMEOUT_S = 0.5
DRAIN_DEADLINE_MS = 30_000
PAGE_MAX = 1_000


@dataclass(frozen=True, slots=True)
class ClusterParts:
    """What the Cluster service works on."""

    me: str
    state: Callable[[], ClusterState]
    engine: Engine
    proposer: Proposer
    book: LoadBook
    channels: PeerChannels
    policy: VoterPolicy
    clock: Clock
    suspect_ms: int  # a report older than this is late
    backups: Backups


class ClusterService(cluster_pb2_grpc.ClusterServicer):
    """Status and node management, on any node."""

    def __init__(self, parts: ClusterParts) -> None:
        self._parts, self._hashing = parts, asyncio.Lock()
        self._members = MemberCalls(parts.engine, parts.state, parts.proposer, parts.book, parts.policy)

    @unary
    async def GetStatus(
        self, request: cluster_pb2.GetStatusRequest, context: Context
    ) -> cluster_pb2.ClusterStatus:
        """From this node's replica unless LINEARIZABLE is asked for: it must work without a quorum."""
        if request.read_mode == tasks_pb2.LINEARIZABLE:
            await self._parts.engine.read_barrier(seconds_left(context))
        if not request.include_state_hash:
            return (await self._status())[0]
        async with self._hashing:  # each takes a thread, and together they would leave the loop no time
            status, state = await self._status()
            status.state_hash = await hash_of(state)
            return status

    async def _status(self) -> tuple[cluster_pb2.ClusterStatus, ClusterState]:
        """The status, and the state of that very moment."""
        parts, engine = self._parts, self._parts.engine
        nodes = await self._nodes()
        state = parts.state()
        status = cluster_pb2.ClusterStatus(
            cluster_name=state.meta.cluster_name,
            cluster_id=state.meta.cluster_id,
            leader=engine.leader,
            term=engine.term,
            commit_index=engine.commit_index,
            applied_index=engine.applied_index,
            has_quorum=engine.has_quorum,
            active_nodes=sum(node.state == cluster_pb2.ACTIVE for node in nodes),
            total_nodes=len(nodes),
            voters=sum(node.role == cluster_pb2.VOTER for node in nodes),
            warnings=membership_warnings(engine.members),
            active_tasks=len(state.tasks),
            tasks_by_state=_by_state(state),
            served_by=parts.me,
            version=VERSION,
            nodes=nodes,
            tasks_finished_total=state.meta.finished_total,
            steps_recorded_total=state.meta.steps_total,
        )
        status.time.FromMilliseconds(parts.clock.now_ms())
        return status, state

    @unary
    async def ListNodes(
        self, request: cluster_pb2.ListNodesRequest, context: Context
    ) -> cluster_pb2.ListNodesResponse:
        if request.page_size < 0:
            raise invalid([Violation("page_size", f"{request.page_size} is negative; use 0 to {PAGE_MAX}")])
        nodes = [node for node in await self._nodes() if node.node_id > request.page_token]
        limit = min(request.page_size or PAGE_MAX, PAGE_MAX)
        warnings = membership_warnings(self._parts.engine.members)
        response = cluster_pb2.ListNodesResponse(nodes=nodes[:limit], warnings=warnings)
        if len(nodes) > limit:
            response.next_page_token = nodes[limit - 1].node_id
        response.unreachable.extend(n.node_id for n in nodes if n.state == cluster_pb2.DOWN)
        return response

    @unary
    async def DrainNode(self, request: cluster_pb2.DrainNodeRequest, context: Context) -> cluster_pb2.Node:
        await self._members.drain(request.node_id, _deadline(request.deadline_ms), _patience(context))
        return await self._node(request.node_id)

    @unary
    async def UndrainNode(
        self, request: cluster_pb2.UndrainNodeRequest, context: Context
    ) -> cluster_pb2.Node:
        await self._members.undrain(request.node_id, _patience(context))
        return await self._node(request.node_id)

    @unary
    async def AddNode(self, request: cluster_pb2.AddNodeRequest, context: Context) -> cluster_pb2.Node:
        await self._members.add(request.node_id, request.address, _patience(context))
        return await self._node(request.node_id)

    @unary
    async def RemoveNode(
        self, request: cluster_pb2.RemoveNodeRequest, context: Context
    ) -> cluster_pb2.RemoveNodeResponse:
        deadline = _deadline(request.deadline_ms)
        if await self._members.remove(request.node_id, deadline, request.force, _patience(context)):
            return cluster_pb2.RemoveNodeResponse(removed=True)
        return cluster_pb2.RemoveNodeResponse(node=await self._node(request.node_id))

    @unary
    async def PromoteNode(
        self, request: cluster_pb2.PromoteNodeRequest, context: Context
    ) -> cluster_pb2.Node:
        await self._members.promote(request.node_id, _patience(context))
        return await self._node(request.node_id)

    @unary
    async def MoveNode(self, request: cluster_pb2.MoveNodeRequest, context: Context) -> cluster_pb2.Node:
        await self._members.move(request.node_id, request.address, _patience(context))
        return await self._node(request.node_id)

    async def _node(self, node_id: str) -> cluster_pb2.Node:
        found = next((node for node in await self._nodes() if node.node_id == node_id), None)
        return found or cluster_pb2.Node(node_id=node_id, report_age_ms=-1)

    @unary
    async def TransferLeadership(
        self, request: cluster_pb2.TransferLeadershipRequest, context: Context
    ) -> cluster_pb2.TransferLeadershipResponse:
        parts, timeout = self._parts, min(seconds_left(context), PROPOSE_MAX_S)
        members = {member.node_id for member in parts.engine.members}
        if request.node_id and request.node_id not in members:
            raise not_found("NODE", request.node_id)
        leader = parts.engine.leader
        if parts.engine.is_leader or leader not in parts.channels.peers:
            leader = await parts.engine.transfer_leadership(request.node_id, timeout)
            return cluster_pb2.TransferLeadershipResponse(leader=leader)
        stub: Any = cluster_pb2_grpc.ClusterStub(parts.channels.channel(leader, "bulk"))
        with outliving(leader):
            answer: cluster_pb2.TransferLeadershipResponse = await stub.TransferLeadership(
                request, timeout=timeout
            )
        return answer

    @streaming
    async def CreateBackup(
        self, request: cluster_pb2.CreateBackupRequest, context: Context
    ) -> AsyncIterator[cluster_pb2.BackupPart]:
        making = self._parts.backups.make(not request.without_history, _patience(context))
        async with aclosing(making) as pieces:
            async for piece in pieces:
                yield piece

    async def _nodes(self) -> list[cluster_pb2.Node]:
        """Registered nodes by id, then members that never registered. A registered node without a role was
        removed a moment ago."""
        parts = self._parts
        loads = await self._loads()
        state = parts.state()
        nodes = []
        for node_id, node in sorted(state.nodes.items()):
            report, age_ms = loads.get(node_id, (None, -1))
            held = len(state.indexes.held_by(node_id))
            nodes.append(
                convert.node_to_pb(node, held, parts.engine.leader, report, age_ms, parts.suspect_ms)
            )
        members = {member.node_id: member for member in parts.engine.members}
        nodes += [_unregistered(member) for name, member in members.items() if name not in state.nodes]
        for message in nodes:
            member = members.get(message.node_id)
            if member is not None:
                message.role, message.disk_id = _ROLES[member.role], member.disk_id
        return nodes

    async def _loads(self) -> dict[str, tuple[peer_pb2.LoadReport, int]]:
        """Load reports as the leader has them; none when it cannot be asked."""
        parts = self._parts
        if parts.engine.is_leader:
            return {report.node_id: (report, age) for report, age in parts.book.reports()}
        leader = parts.engine.leader
        if leader not in parts.channels.peers:
            return {}
        try:
            with outliving(leader):
                answer = await parts.channels.stub(leader).GetLoads(
                    peer_pb2.GetLoadsRequest(),
                    metadata=parts.channels.metadata,
                    timeout=LOADS_TIMEOUT_S,
                )
        except grpc.aio.AioRpcError:
            return {}
        return {load.report.node_id: (load.report, load.age_ms) for load in answer.loads}


_ROLES = {Role.VOTER: cluster_pb2.VOTER, Role.LEARNER: cluster_pb2.RUNNER}


def _patience(context: Context) -> float:
    return min(seconds_left(context), PROPOSE_MAX_S)


def _deadline(deadline_ms: int) -> int:
    if not 0 <= deadline_ms <= DURATION_MS_MAX:
        text = f"{deadline_ms} is not in 0..{DURATION_MS_MAX} ms"
        raise invalid([Violation("deadline_ms", text)])
    return deadline_ms or DRAIN_DEADLINE_MS


def _unregistered(member: Member) -> cluster_pb2.Node:
    return cluster_pb2.Node(
        node_id=member.node_id,
        address=member.address,
        state=cluster_pb2.DOWN,
        reason="has not registered yet",
        report_age_ms=-1,
    )


async def hash_of(state: ClusterState) -> str:
    """Of this very moment, whatever changes meanwhile. In a thread: of a large state it takes seconds."""
    return await asyncio.to_thread(state_hash, state.copy())


def _by_state(state: ClusterState) -> dict[str, int]:
    """Live tasks by state; terminal states count what the state still holds."""
    return {
        task_state.name: count
        for task_state, count in state.indexes.by_state.items()
        if count and task_state not in TERMINAL
    }
