"""What each command does to a node, and to the tasks it holds."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.commands import Accepted, MarkNode, Outcome, RegisterNode, Rejected, SetDrain
from coterie.core.nouns import Node, NodeStatus
from coterie.core.state import ClusterState, Moment
from coterie.core.task_rules import release_all


def register(state: ClusterState, command: RegisterNode, moment: Moment) -> Outcome:
    """A node's process says what it offers. Another incarnation than before means: its tasks are lost."""
    before = state.nodes.get(command.node_id)
    if before is not None and before.incarnation > command.incarnation:
        return Rejected("STALE_NODE", f"node {command.node_id} has a newer incarnation")
    if before is not None and before.incarnation < command.incarnation:
        release_all(state, command.node_id, "the node restarted", moment)
    state.nodes[command.node_id] = Node(
        node_id=command.node_id,
        address=command.address,
        incarnation=command.incarnation,
        capacity=command.capacity,
        zone=command.zone,
        labels=command.labels,
        skills=command.skills,
        version=command.version,
        draining=before.draining if before else False,
        drain_deadline_at_ms=before.drain_deadline_at_ms if before else 0,
        changed_at_ms=moment.at_ms,
    )
    return Accepted()


def mark(state: ClusterState, command: MarkNode, moment: Moment) -> Outcome:
    node = state.nodes.get(command.node_id)
    if node is None:
        return Rejected("NODE_NOT_FOUND", f"no node {command.node_id}")
    if node.incarnation != command.incarnation:
        return Rejected("STALE_NODE", f"node {command.node_id} has restarted since")
    if node.status is command.status:
        return Accepted(duplicate=True)
    state.nodes[node.node_id] = replace(
        node, status=command.status, reason=command.reason, changed_at_ms=moment.at_ms
    )
    if command.status is NodeStatus.DOWN:
        release_all(state, node.node_id, command.reason or "the node is down", moment)
    return Accepted()


def set_drain(state: ClusterState, command: SetDrain, moment: Moment) -> Outcome:
    node = state.nodes.get(command.node_id)
    if node is None:
        return Rejected("NODE_NOT_FOUND", f"no node {command.node_id}")
    deadline = moment.at_ms + command.deadline_after_ms if command.draining else 0
    hastier = command.draining and command.deadline_after_ms > 0 and deadline < node.drain_deadline_at_ms
    if node.draining == command.draining and not hastier:
        return Accepted(duplicate=True)
    state.nodes[node.node_id] = replace(
        node, draining=command.draining, drain_deadline_at_ms=deadline, changed_at_ms=moment.at_ms
    )
    return Accepted()
