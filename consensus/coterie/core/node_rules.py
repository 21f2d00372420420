"""What each command does to a node, and to the tasks it holds."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.bounds64 import later_ms
from coterie.core.breaker_rules import forget_node
from coterie.core.commands import (
    Accepted,
    BeginLeadership,
    ForgetNode,
    MarkNode,
    Outcome,
    RegisterNode,
    Rejected,
    SetDrain,
)
from coterie.core.flaps import lost, restarted
from coterie.core.nouns import STOPPING, Node, NodeStatus, evolve
from coterie.core.retry_rules import release_all
from coterie.core.state import ClusterState, Moment


def register(state: ClusterState, command: RegisterNode, moment: Moment) -> Outcome:
    """A node's process says what it offers. Another incarnation than before means: its tasks are lost."""
    before = state.nodes.get(command.node_id)
    if before is not None and before.incarnation > command.incarnation:
        return Rejected("STALE_NODE", f"node {command.node_id} has a newer incarnation")
    if before is not None and before.incarnation < command.incarnation:
        release_all(state, command.node_id, "the node restarted", moment)
    node = Node(
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
        drain_number=before.drain_number if before else 0,
        leaving=before.leaving if before else False,
        memory_bytes=command.memory_bytes,
        gpus=command.gpus,
        standby=command.standby,
        confines=command.confines,
        turn=before.turn if before else 0,
    )
    if before is not None:
        node = restarted(state, before, node, moment.at_ms)
    state.nodes[node.node_id] = node
    return Accepted()


def begin_leadership(state: ClusterState, command: BeginLeadership, moment: Moment) -> Outcome:
    known = state.meta.lead_term
    if command.term < known:
        return Rejected("STALE_LEADER", f"term {known} has begun after term {command.term}")
    if command.term > known:
        state.meta = evolve(state.meta, lead_term=command.term)
    return Accepted(duplicate=command.term == known)


def mark(state: ClusterState, command: MarkNode, moment: Moment) -> Outcome:
    node = state.nodes.get(command.node_id)
    if node is None:
        return Rejected("NODE_NOT_FOUND", f"no node {command.node_id}")
    if 0 < command.term < state.meta.lead_term:
        # A verdict may be proposed again for seconds, also by way of the successor, who knows better.
        return Rejected("STALE_LEADER", f"term {state.meta.lead_term} has begun after term {command.term}")
    if node.incarnation != command.incarnation:
        return Rejected("STALE_NODE", f"node {command.node_id} has restarted since")
    if node.status is command.status:
        return Accepted(duplicate=True)
    after = replace(node, status=command.status, reason=command.reason, changed_at_ms=moment.at_ms)
    gone = command.status is NodeStatus.DOWN and command.reason != STOPPING
    state.nodes[node.node_id] = lost(state, after, moment.at_ms) if gone else after
    if command.status is NodeStatus.DOWN:
        release_all(state, node.node_id, command.reason or "the node is down", moment)
    return Accepted()


def set_drain(state: ClusterState, command: SetDrain, moment: Moment) -> Outcome:
    """Refused when nobody would be left to work, and when somebody else has decided meanwhile. Version 0.1
    wrote commands without a number, whose outcomes stay what they were."""
    node = state.nodes.get(command.node_id)
    if node is None:
        return Rejected("NODE_NOT_FOUND", f"no node {command.node_id}")
    deadline = later_ms(moment.at_ms, command.deadline_after_ms) if command.draining else 0
    hastier = command.draining and command.deadline_after_ms > 0 and deadline < node.drain_deadline_at_ms
    leaving = command.draining and (command.leaving or node.leaving)
    if node.draining == command.draining and node.leaving == leaving and not hastier:
        return Accepted(duplicate=True)
    if 0 < command.number <= node.drain_number:
        return Rejected(
            "STALE_DRAIN", f"node {command.node_id} was drained or undrained meanwhile; ask again"
        )
    if command.number and command.draining and not node.draining and not _others_work(state, node):
        text = f"{command.node_id} is the last node that takes work; undrain another one first"
        return Rejected("LAST_NODE", text)
    if command.draining and node.draining and not hastier:
        deadline = node.drain_deadline_at_ms  # a deadline that was promised is only brought forward
    state.nodes[node.node_id] = replace(
        node,
        draining=command.draining,
        drain_deadline_at_ms=deadline,
        changed_at_ms=moment.at_ms,
        drain_number=max(node.drain_number, command.number),
        leaving=leaving,
    )
    return Accepted()


def _others_work(state: ClusterState, node: Node) -> bool:
    others = [other for other in state.nodes.values() if other.node_id != node.node_id]
    takes_none = node.status is not NodeStatus.UP
    return takes_none or any(other.status is NodeStatus.UP and not other.draining for other in others)


def forget(state: ClusterState, command: ForgetNode, moment: Moment) -> Outcome:
    node = state.nodes.get(command.node_id)
    if node is None:
        return Accepted(duplicate=True)
    if node.incarnation > command.incarnation:
        return Rejected("STALE_NODE", f"node {command.node_id} has restarted since")
    release_all(state, node.node_id, "the node was removed", moment)
    del state.nodes[node.node_id]
    forget_node(state, node.node_id)
    return Accepted()
