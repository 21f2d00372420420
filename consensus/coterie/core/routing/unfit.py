"""Groups of the queue whose tasks no node takes, whatever the nodes hold: found out once, and known until the
nodes are others. Without it a plan would have to find that out anew each time, has time for so many looks
only, and what stands behind very many such groups would never be looked at."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.nouns import NO_NODE, Node, NodeId
from coterie.core.state import ClusterState
from coterie.core.workqueue import Group

SLACK = 64


class Unfit:
    """What earlier plans have found out, for the next ones. A new one knows nothing."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._leader = NO_NODE
        self._groups: set[Group] = set()

    def __len__(self) -> int:
        return len(self._groups)

    def __contains__(self, group: Group) -> bool:
        return group in self._groups

    def begin(self, state: ClusterState, leader: NodeId) -> None:
        """A plan begins. Whose turn it is makes no node another one."""
        nodes = [replace(node, turn=0) for node in state.nodes.values()]
        if (nodes, leader) != (self._nodes, self._leader):
            self._nodes, self._leader = nodes, leader
            self._groups.clear()
        queue = state.indexes.queue
        if len(self._groups) > 2 * queue.group_count + SLACK:
            self._groups = {group for group in self._groups if queue.holds(group)}

    def add(self, group: Group) -> None:
        """No node may run tasks of this group, by what it has registered."""
        self._groups.add(group)
