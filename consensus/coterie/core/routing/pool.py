"""The nodes as one round of planning sees them, with what the round has already given away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast

from coterie.core.breakers import keys_of, open_ones, permits, why
from coterie.core.holdings import SetAside, set_aside
from coterie.core.nouns import Companion, Constraints, Node, NodeId, NodeStatus, TaskId
from coterie.core.routing.loads import Measures, NodeLoad
from coterie.core.state import ClusterState

ROTATING = "round-robin"  # the strategy that takes turns


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """How nodes are chosen. Factors multiply the cost of a node that does not do what is wished."""

    strategy: str = "adaptive"
    affinity: bool = False  # tasks of one type near each other
    anti_affinity: bool = False  # tasks of one type spread out
    locality: str = "any"  # same-zone: where the task came from; cross-zone: spread over the zones
    affinity_factor: float = 1.1
    spread_factor: float = 1.5
    zone_factor: float = 1.5
    node_factor: float = 4.0  # of every node but the one that a dry run had advised
    session_factor: float = 4.0
    companion_factor: float = 3.0
    bound: float = 1.25  # of the hash strategy: no node above so many times its fair share
    patience: float = 1.5  # waiting for a busy node must be so many times better than a free slot now


class Sight(Protocol):
    """What the coordinator sees outside the state."""

    @property
    def now_ms(self) -> int: ...
    @property
    def loads(self) -> Mapping[NodeId, NodeLoad]: ...
    @property
    def leader(self) -> NodeId: ...


class Placeable(Protocol):
    """What is placed: a task, or the command that will make one."""

    @property
    def task_id(self) -> TaskId: ...
    @property
    def type(self) -> str: ...
    @property
    def constraints(self) -> Constraints: ...


class Term(NamedTuple):
    """One part of a cost: cost = sum of the amounts x product of the factors."""

    name: str
    amount: float = 0.0
    factor: float = 1.0
    detail: str = ""


@dataclass(slots=True)
class Candidate:
    """A node, and what it holds: assignments of this round included."""

    node: Node
    load: NodeLoad | None
    held: int
    taken: SetAside
    turn: int
    given: dict[str, int] = field(default_factory=dict)  # type -> how many in this round
    placed: list[Placeable] = field(default_factory=list)  # the same, one by one
    waiting: int = 0  # tasks of this round that are better off waiting for it

    @property
    def free(self) -> int:
        return self.node.capacity - self.held


class Pool:
    """Every registered node by id, and what is looked up again and again during a round."""

    def __init__(
        self, state: ClusterState, sight: Sight, rules: RoutingRules, *, telling: bool = False
    ) -> None:
        """`telling`: somebody is going to read the details of the terms."""
        self.state, self.sight, self.rules, self.telling = state, sight, rules, telling
        self.measures = Measures(sight.loads)
        self.candidates = [
            Candidate(
                node,
                sight.loads.get(node_id),
                len(state.indexes.held_by(node_id)),
                set_aside(state, node_id),
                node.turn,
            )
            for node_id, node in sorted(state.nodes.items())
        ]
        self.by_id = {candidate.node.node_id: candidate for candidate in self.candidates}
        self.free = sum(max(0, c.free) for c in self.candidates if takes_work(c.node))
        self.called = standbys_called(state)
        self.breakers: dict[str, str] = {}  # through which nobody passes any more, and why
        self.permits: dict[str, int] = {}  # how many may still pass, of half-open ones
        self._look_at_breakers()
        self.memo: dict[object, object] = {}  # of filters and strategies, by keys of their own

    def _look_at_breakers(self) -> None:
        policy, now_ms = self.state.meta.policy, max(self.sight.now_ms, self.state.meta.clock_ms)
        for breaker in open_ones(self.state.breakers.values(), now_ms):
            reason = why(breaker, policy, now_ms)
            if reason:
                self.breakers[breaker.key] = reason
            else:
                self.permits[breaker.key] = permits(breaker, policy, now_ms)

    def give(self, task: Placeable, candidate: Candidate) -> None:
        """The task goes there: the rest of the round sees it."""
        candidate.held += 1
        self.free -= 1
        wanted = task.constraints
        candidate.given[task.type] = candidate.given.get(task.type, 0) + 1
        candidate.placed.append(task)
        if wanted.memory_bytes or wanted.gpus:
            taken = candidate.taken
            candidate.taken = SetAside(taken.memory_bytes + wanted.memory_bytes, taken.gpus + wanted.gpus)
        if self.permits:
            self._use_permits(task, candidate)
        if self.rules.strategy == ROTATING:
            candidate.turn = self.next_turn()

    def _use_permits(self, task: Placeable, candidate: Candidate) -> None:
        for key in keys_of(task.type, candidate.node.node_id):
            left = self.permits.get(key)
            if left is not None:
                self.permits[key] = left - 1
                if left <= 1:
                    self.breakers[key] = f"breaker {key} is half-open, and all its probes are on their way"

    def next_turn(self) -> int:
        """Of the rotation; 0 when the strategy knows no turns."""
        if self.rules.strategy != ROTATING:
            return 0
        return max((candidate.turn for candidate in self.candidates), default=0) + 1

    def zone_of(self, node_id: str) -> str:
        candidate = self.by_id.get(NodeId(node_id))
        return candidate.node.zone if candidate is not None else ""

    def count_type(self, candidate: Candidate, type_: str) -> int:
        """Tasks of that type the node holds."""
        held = self.state.indexes.held_types.get((candidate.node.node_id, type_), 0)
        return held + candidate.given.get(type_, 0)

    def count_companions(self, candidate: Candidate, companion: Companion) -> int:
        """Tasks on the node, or in its zone, that the wish is about."""
        places = [candidate]
        if companion.zone:
            places = [c for c in self.candidates if c.node.zone == candidate.node.zone]
        return sum(self._count_matching(place, companion) for place in places)

    def _count_matching(self, candidate: Candidate, companion: Companion) -> int:
        key = ("companions", candidate.node.node_id, companion)
        found = self.memo.get(key)
        if found is None:
            tasks = self.state.tasks
            held = self.state.indexes.held_by(candidate.node.node_id)
            found = self.memo[key] = sum(_matches(tasks[task_id], companion) for task_id in held)
        return cast("int", found) + sum(_matches(task, companion) for task in candidate.placed)


def takes_work(node: Node) -> bool:
    return node.status is NodeStatus.UP and not node.draining


def standbys_called(state: ClusterState) -> frozenset[NodeId]:
    """Standby nodes that stand in: as many, by id, as other nodes are down or draining."""
    nodes = [node for _, node in sorted(state.nodes.items())]
    missing = sum(not takes_work(node) for node in nodes if not node.standby)
    active = sum(takes_work(node) for node in nodes if not node.standby)
    ready = [node.node_id for node in nodes if node.standby and takes_work(node)]
    return frozenset(ready[:missing] if active else ready)


def _matches(task: Placeable, companion: Companion) -> bool:
    if companion.task_id and task.task_id != companion.task_id:
        return False
    if companion.type and task.type != companion.type:
        return False
    if not companion.label_key:
        return True
    return any(
        label.key == companion.label_key and companion.label_value in ("", label.value)
        for label in getattr(task, "labels", ())
    )
