"""Which nodes may run a task, and how good each would be. Pure: state and load reports in, scores out.

To add a strategy: write a function of the `Strategy` shape, enter it in STRATEGIES, name it in the config's
`distribution.strategy` choices, and add a line to tests/core/test_placement.py."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from coterie.core.nouns import NO_NODE, Constraints, Node, NodeId, NodeStatus
from coterie.core.state import ClusterState

GPU_LABEL = "gpu"
ZONE_PENALTY = 1.5  # a task elsewhere than in its preferred zone is expected to take this much longer
DEFAULT_SERVICE_MS = 100.0


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """What a node last said about itself. `age_ms` is by the coordinator's monotonic clock."""

    node_id: NodeId
    incarnation: int
    age_ms: int
    running: int = 0
    cpu: float = 0.0  # share of the node's cores in use, 0..1
    service_ms: Mapping[str, float] = field(default_factory=dict)  # EWMA per skill


@dataclass(slots=True)
class Candidate:
    """A node with room, and what was already given to it in this round."""

    node: Node
    load: NodeLoad | None
    held: int  # tasks it holds, assignments of this round included

    @property
    def free(self) -> int:
        return self.node.capacity - self.held


class Placeable(Protocol):
    """What placement looks at: a task, or the command that will make one."""

    @property
    def type(self) -> str: ...
    @property
    def constraints(self) -> Constraints: ...


Strategy = Callable[[Placeable, Candidate], float]
"""Cost of running the task there; the lowest wins, ties go to the emptiest node, then by id."""


def least_loaded(task: Placeable, candidate: Candidate) -> float:
    """Share of slots in use."""
    return candidate.held / candidate.node.capacity


def adaptive(task: Placeable, candidate: Candidate) -> float:
    """Expected completion: the skill's usual time there, stretched by what already competes for the node."""
    load = candidate.load
    service = load.service_ms.get(task.type, DEFAULT_SERVICE_MS) if load else DEFAULT_SERVICE_MS
    busy = candidate.held / candidate.node.capacity
    cost = service * (1.0 + busy) * (1.0 + (load.cpu if load else 0.0) * 0.25)
    zone = task.constraints.prefer_zone
    return cost * ZONE_PENALTY if zone and zone != candidate.node.zone else cost


def round_robin(task: Placeable, candidate: Candidate) -> float:
    """The number of tasks held: each task goes to the node that got the fewest."""
    return float(candidate.held)


def rendezvous(task: Placeable, candidate: Candidate) -> float:
    """Highest random weight (Thaler and Ravishankar 1996) over the nodes with room, keyed by the task type:
    the same type prefers the same node, and few move when a node comes or goes."""
    seed = f"{task.type}\0{candidate.node.node_id}".encode()
    point = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest(), "big") + 1
    return -candidate.node.capacity / -math.log(point / 2**64) if point < 2**64 else -math.inf


STRATEGIES: dict[str, Strategy] = {
    "adaptive": adaptive,
    "least-loaded": least_loaded,
    "round-robin": round_robin,
    "hash": rendezvous,
}


def refusal(task_type: str, constraints: Constraints, node: Node) -> str:
    """Why the node may not run such a task at all; empty when it may."""
    if node.status is not NodeStatus.UP:
        return f"{node.node_id} is down"
    if node.draining:
        return f"{node.node_id} is draining"
    if all(skill.name != task_type for skill in node.skills):
        return f"{node.node_id} lacks skill {task_type}"
    return _unmet(constraints, node)


def _unmet(constraints: Constraints, node: Node) -> str:
    if constraints.target_node and node.node_id != constraints.target_node:
        return f"{node.node_id} is not the target node {constraints.target_node}"
    labels = {label.key: label.value for label in node.labels}
    if constraints.require_gpu and labels.get(GPU_LABEL, "0") in {"", "0", "false", "none"}:
        return f"{node.node_id} has no GPU"
    if constraints.zones and node.zone not in constraints.zones:
        return f"{node.node_id} is in zone {node.zone or 'none'}"
    for label in constraints.labels:
        if labels.get(label.key) != label.value:
            return f"{node.node_id} lacks label {label.key}={label.value}"
    return ""


def candidates(state: ClusterState, loads: Mapping[NodeId, NodeLoad]) -> list[Candidate]:
    """Nodes that could take work now, free slots or not, by id."""
    return [
        Candidate(node, loads.get(node_id), len(state.indexes.held_by(node_id)))
        for node_id, node in sorted(state.nodes.items())
        if node.status is NodeStatus.UP and not node.draining
    ]


def place(
    task: Placeable, pool: list[Candidate], strategy: Strategy, near: NodeId = NO_NODE
) -> Candidate | None:
    """The best eligible node with a free slot. Among equals the emptiest, then `near`, then by id."""
    free = [c for c in pool if c.free > 0 and not refusal(task.type, task.constraints, c.node)]
    if not free:
        return None

    def rank(candidate: Candidate) -> tuple[float, float, bool, str]:
        node = candidate.node
        busy = candidate.held / node.capacity
        return strategy(task, candidate), busy, node.node_id != near, node.node_id

    return min(free, key=rank)
