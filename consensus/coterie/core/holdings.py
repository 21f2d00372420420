"""What the tasks that nodes hold add up to, and what an assignment leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coterie.core.nouns import Anchor, Constraints, Node, NodeId, Task
from coterie.core.state import ClusterState, Moment

SESSIONS_KEPT_MAX = 50_000
SESSION_KEPT_MS = 3_600_000  # a session that placed nothing for so long has no node any more


@dataclass(frozen=True, slots=True)
class SetAside:
    """Memory in bytes and whole GPUs that tasks have reserved."""

    memory_bytes: int = 0
    gpus: int = 0


def set_aside(state: ClusterState, node_id: NodeId) -> SetAside:
    """Reserved by the tasks the node holds."""
    memory, gpus = state.indexes.reserved.get(node_id, (0, 0))
    return SetAside(memory, gpus)


def lacking(node: Node, constraints: Constraints, taken: SetAside) -> str:
    """What the node has too little of for one more such task; empty when it has enough. A node that does not
    say how much memory it has is not asked for any."""
    memory = taken.memory_bytes + constraints.memory_bytes
    if constraints.memory_bytes and node.memory_bytes and memory > node.memory_bytes:
        left = max(0, node.memory_bytes - taken.memory_bytes)
        return f"memory: {left} of {node.memory_bytes} bytes are free, {constraints.memory_bytes} are needed"
    if constraints.gpus and taken.gpus + constraints.gpus > node.gpus:
        left = max(0, node.gpus - taken.gpus)
        return f"GPUs: {left} of {node.gpus} are free, {constraints.gpus} are needed"
    return ""


def note_assignment(state: ClusterState, task: Task, node: Node, turn: int, moment: Moment) -> None:
    """Remember where the session of the task is at home, and whose turn it was."""
    if turn > node.turn:
        state.nodes[node.node_id] = replace(node, turn=turn)
    session = task.constraints.session
    if session:
        state.anchors.pop(session, None)  # to the end: eviction takes the oldest
        state.anchors[session] = Anchor(session, node.node_id, moment.at_ms)
    while state.anchors:
        oldest = next(iter(state.anchors.values()))
        expired = oldest.at_ms + SESSION_KEPT_MS < moment.at_ms
        if not expired and len(state.anchors) <= SESSIONS_KEPT_MAX:
            return
        del state.anchors[oldest.session]
