"""Nodes that come and go: how long one has to prove itself before it gets work again.

A node that was given up is back after `healthyThreshold` reports in a row. Each further loss within the
policy's `flap_memory_ms` doubles that number (the idea of route flap damping, RFC 2439, without its decay),
also when the node restarted before anybody had given it up. How often it was lost is committed; the reports
are counted by the coordinator, by its monotonic clock. Nobody waits while fewer than half of all work."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.nouns import STOPPING, Node, NodeStatus
from coterie.core.state import ClusterState

RESTARTS_FREE = 2  # lately, that a restarted node does not pay for
DOUBLINGS_MAX = 6


def lost(state: ClusterState, node: Node, at_ms: int) -> Node:
    """The node as it is after it was lost once more."""
    if not state.meta.policy.flap_memory_ms:
        return node
    return replace(node, flaps=flaps_lately(state, node, at_ms) + 1, flapped_at_ms=at_ms)


def flaps_lately(state: ClusterState, node: Node, at_ms: int) -> int:
    """How often the node was lost, unless the last time is long ago."""
    return node.flaps if at_ms - node.flapped_at_ms < state.meta.policy.flap_memory_ms else 0


def restarted(state: ClusterState, before: Node, after: Node, at_ms: int) -> Node:
    """`after`, which has just registered, with what is remembered of the earlier process: that was lost
    unless it said good-bye. A node that was lost too often takes no work before it has proved itself."""
    if not state.meta.policy.flap_memory_ms:
        return after
    after = replace(after, flaps=before.flaps, flapped_at_ms=before.flapped_at_ms)
    if before.incarnation == after.incarnation:
        return replace(after, status=before.status, reason=before.reason)  # proposed twice
    if before.status is NodeStatus.UP and before.reason != STOPPING:
        after = lost(state, after, at_ms)
    lately = flaps_lately(state, after, at_ms)
    if lately <= RESTARTS_FREE or not enough_others(state, after):
        return after
    reason = f"on probation: lost {lately} times lately"
    return replace(after, status=NodeStatus.DOWN, reason=reason)


def reports_wanted(state: ClusterState, node: Node, threshold: int) -> int:
    """How many reports in a row bring back a node that is down."""
    if not enough_others(state, node):
        return threshold
    lately = flaps_lately(state, node, state.meta.clock_ms)
    return threshold << min(max(0, lately - 1), DOUBLINGS_MAX)


def enough_others(state: ClusterState, node: Node) -> bool:
    """At least half of the nodes take work without this one."""
    serving = sum(
        other.status is NodeStatus.UP and not other.draining
        for other in state.nodes.values()
        if other.node_id != node.node_id
    )
    return 2 * serving >= len(state.nodes)
