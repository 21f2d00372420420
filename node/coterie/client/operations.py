"""What an operator does with a cluster: nodes come, go, move and rest."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from coterie.client.backup import BackupFile, create_backup
from coterie.client.connection import Connection
from coterie.client.errors import Aborted, InvalidRequest, NotFound, WaitTimeout
from coterie.client.models import NodeInfo
from coterie.client.rpc_errors import invalid
from coterie.client.units import Duration, duration_ms, optional_seconds
from coterie.v1 import cluster_pb2, tasks_pb2

_LOOK_S = 0.25  # between two looks at a node that is being removed


class Operations:
    """The part of a Cluster that is about its nodes."""

    @property
    def _open(self) -> Connection:
        raise NotImplementedError

    async def drain_node(self, node: str | NodeInfo, *, deadline: Duration | None = None) -> NodeInfo:
        """Empties a node before maintenance: no new work, running tasks checkpoint and move, leadership
        goes elsewhere. After `deadline` running skills are stopped. Returns at once, with the node's state.
        Raises FailedPrecondition when it is the last one that takes work."""
        request_id = uuid.uuid4().hex
        request = cluster_pb2.DrainNodeRequest(
            node_id=required_node_id(node), deadline_ms=_deadline_ms(deadline), request_id=request_id
        )
        raw = await self._open.caller.unary(
            lambda endpoint: endpoint.cluster.DrainNode, request, request_id=request_id
        )
        return NodeInfo.of(raw)

    async def undrain_node(self, node: str | NodeInfo) -> NodeInfo:
        """Lets a drained or draining node take work again; one that was to be removed stays."""
        request_id = uuid.uuid4().hex
        request = cluster_pb2.UndrainNodeRequest(node_id=required_node_id(node), request_id=request_id)
        raw = await self._open.caller.unary(
            lambda endpoint: endpoint.cluster.UndrainNode, request, request_id=request_id
        )
        return NodeInfo.of(raw)

    async def add_node(self, node_id: str, address: str) -> NodeInfo:
        """Makes a node a member; `address` is the host:port of its listener. Start it with `join` before or
        after: it catches up, then votes (`role` VOTER) unless there are enough voters. Adding it again
        changes nothing. Raises AlreadyExists when a member of that id has another address."""
        request = cluster_pb2.AddNodeRequest(node_id=required_node_id(node_id), address=address)
        return NodeInfo.of(await self._open.caller.unary(lambda e: e.cluster.AddNode, request))

    async def remove_node(
        self,
        node: str | NodeInfo,
        *,
        deadline: Duration | None = None,
        force: bool = False,
        timeout: Duration | None = None,
    ) -> None:
        """Takes a node out for good: it is drained as by `drain_node`, hands leadership over, is removed, and
        its process stops. `force` leaves the draining out; a node that is down has nothing to drain anyway.

        Returns when it is done. Raises NotFound, FailedPrecondition when the others would have no majority,
        WaitTimeout after `timeout` (default: none): the removal goes on, undrain_node ends it; and Aborted
        when somebody has ended it so."""
        node_id = required_node_id(node)
        request = cluster_pb2.RemoveNodeRequest(
            node_id=node_id, deadline_ms=_deadline_ms(deadline), force=force
        )
        seconds = optional_seconds(timeout)
        try:
            async with asyncio.timeout(seconds) as scope:
                await self._remove(request)
        except TimeoutError:
            if not scope.expired():
                raise
            raise WaitTimeout(f"{node_id} is not removed after {seconds:g} s; it goes on") from None

    async def _remove(self, request: cluster_pb2.RemoveNodeRequest) -> None:
        # When an answer is lost the call is made again, and then finds the node gone.
        asked = request.node_id in {node.node_id for node in await self._open.nodes()}
        while True:
            try:
                answer = await self._open.caller.unary(lambda e: e.cluster.RemoveNode, request)
            except NotFound:
                if not asked:
                    raise
                return
            if answer.removed:
                return
            asked = True
            await asyncio.sleep(_LOOK_S)
            await self._refuse_called_off(request.node_id)

    async def _refuse_called_off(self, node_id: str) -> None:
        """Asking again would begin anew what somebody else has ended."""
        request = cluster_pb2.GetStatusRequest(read_mode=tasks_pb2.LINEARIZABLE)
        status = await self._open.caller.unary(lambda e: e.cluster.GetStatus, request)
        node = next((node for node in status.nodes if node.node_id == node_id), None)
        if node is not None and not node.leaving:
            raise Aborted(f"the removal of {node_id} was called off: somebody has undrained it")

    async def promote_node(self, node: str | NodeInfo) -> NodeInfo:
        """Makes a runner that has caught up a voter. Raises FailedPrecondition while it has not."""
        request = cluster_pb2.PromoteNodeRequest(node_id=required_node_id(node))
        return NodeInfo.of(await self._open.caller.unary(lambda e: e.cluster.PromoteNode, request))

    async def move_node(self, node: str | NodeInfo, address: str) -> NodeInfo:
        """Tells the others a new address of a node. One that starts at another address says so itself."""
        request = cluster_pb2.MoveNodeRequest(node_id=required_node_id(node), address=address)
        return NodeInfo.of(await self._open.caller.unary(lambda e: e.cluster.MoveNode, request))

    async def transfer_leadership(self, node: str | NodeInfo | None = None) -> str:
        """Moves leadership to a node (None: the most up-to-date follower). Returns the leader's id."""
        request = cluster_pb2.TransferLeadershipRequest(node_id=given_node_id(node) or "")
        answer = await self._open.caller.unary(lambda endpoint: endpoint.cluster.TransferLeadership, request)
        return answer.leader

    async def create_backup(self, path: str | Path, *, history: bool = True) -> BackupFile:
        """Writes everything that was acknowledged before this call into one new file, while the cluster goes
        on. `history`: with the tasks that have ended, and all events. Needs the role admin.
        `coterie backup verify` and `restore` read it. Raises InvalidRequest when something is at `path`;
        Unavailable when the node went away: then call again."""
        return await create_backup(lambda: self._open, Path(path), history=history)


def given_node_id(node: str | NodeInfo | None) -> str | None:
    """The id of a node that was given as itself or by its id."""
    return node.id if isinstance(node, NodeInfo) else node


def required_node_id(node: str | NodeInfo) -> str:
    """The id; raises InvalidRequest when there is none."""
    node_id = given_node_id(node)
    if not isinstance(node_id, str) or not node_id:
        raise invalid([("node", f"{node!r} is not a node id: list_nodes() shows them")])
    return node_id


def _deadline_ms(deadline: Duration | None) -> int:
    if deadline is None:
        return 0
    try:
        return duration_ms(deadline)
    except ValueError as error:
        raise InvalidRequest(
            f"deadline: {error}", violations=[("deadline", str(error))], reason="BAD_FIELD"
        ) from None
