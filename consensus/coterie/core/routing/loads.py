"""What nodes report about themselves, and what follows from comparing them: how long a skill takes where,
and which node is gray (alive, and much slower than the others)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from coterie.core.nouns import NodeId

DEFAULT_SERVICE_MS = 100.0  # of a skill that nobody has measured
GRAY_RATIO = 3.0  # so many times slower than the others' median is gray
GRAY_MORE_MS = 20.0  # and at least so much slower: millisecond skills jitter more than threefold
HALF_LIFE_MS = 10_000.0  # of a difference to the others that is not measured again
PROBE_AFTER_MS = 15_000  # a gray node that has run nothing for so long gets one task, to see


@dataclass(frozen=True, slots=True)
class SkillLoad:
    """One skill on one node, by the node's own monotonic clock."""

    service_ms: float  # EWMA of successful attempts; 0: none yet
    samples: int = 1
    idle_ms: int = 0  # since the last of them
    running: int = 0
    running_ms: float = 0.0  # how long those that run have been running: the lower median


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """What a node last said about itself. `age_ms` is by the coordinator's monotonic clock."""

    node_id: NodeId
    incarnation: int
    age_ms: int
    running: int = 0
    cpu: float = 0.0  # share of the node's cores in use, 0..1
    skills: Mapping[str, SkillLoad] = field(default_factory=dict)
    rtt_ms: Mapping[str, float] = field(default_factory=dict)  # to other nodes, as it measured it


def measured_ms(load: NodeLoad | None, skill: str) -> float:
    """How long the skill takes there by what is known; 0: nothing is. Attempts that run for longer while none
    was finished are evidence too: a node that is stuck never finishes one."""
    known = load.skills.get(skill) if load is not None else None
    if known is None:
        return 0.0
    if not known.running:
        return known.service_ms
    unfinished = min(known.running_ms, known.idle_ms) if known.samples else known.running_ms
    return max(known.service_ms, unfinished)


def idle_ms(load: NodeLoad, skill: str) -> int:
    """Since the node last learned something about the skill."""
    known = load.skills.get(skill)
    if known is None or known.running:
        return 0
    return known.idle_ms + load.age_ms


def median(values: Iterable[float]) -> float:
    """The lower median; 0 of nothing."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2] if ordered else 0.0


class Measures:
    """Comparisons between the nodes, each made when it is first asked for."""

    def __init__(self, loads: Mapping[NodeId, NodeLoad]) -> None:
        self._loads = loads
        self._usual: dict[tuple[NodeId, str], float] = {}
        self._slowness: dict[NodeId, float] = {}

    def usual_ms(self, node_id: NodeId, skill: str) -> float:
        """The median of what the other nodes measured; 0: none did."""
        key = (node_id, skill)
        if key not in self._usual:
            others = (measured_ms(load, skill) for other, load in self._loads.items() if other != node_id)
            self._usual[key] = median(value for value in others if value > 0)
        return self._usual[key]

    def slowness(self, node_id: NodeId) -> float:
        """How many times longer than elsewhere work takes there: the median over the skills that others have
        measured too, nothing faded. 1: nobody to compare with, or not slower."""
        if node_id not in self._slowness:
            self._slowness[node_id] = self._compare(node_id)
        return self._slowness[node_id]

    def is_gray(self, node_id: NodeId) -> bool:
        return self.slowness(node_id) >= GRAY_RATIO

    def wants_probe(self, node_id: NodeId) -> bool:
        """A gray node about which nothing was learned for a while."""
        load = self._loads.get(node_id)
        if load is None or not self.is_gray(node_id):
            return False
        return all(idle_ms(load, skill) >= PROBE_AFTER_MS for skill in load.skills)

    def service_ms(self, node_id: NodeId, skill: str) -> float:
        """How long the skill is expected to take there. What was measured long ago fades into what the others
        measure, so that a node which has recovered, or cooled down, is tried again."""
        usual = self.usual_ms(node_id, skill)
        load = self._loads.get(node_id)
        own = measured_ms(load, skill)
        if own <= 0 or load is None:
            return (usual or DEFAULT_SERVICE_MS) * max(1.0, self.slowness(node_id))
        if usual <= 0:
            return own
        return float(usual + (own - usual) * 0.5 ** (idle_ms(load, skill) / HALF_LIFE_MS))

    def _compare(self, node_id: NodeId) -> float:
        load = self._loads.get(node_id)
        ratios = []
        for skill in load.skills if load is not None else ():
            own, usual = measured_ms(load, skill), self.usual_ms(node_id, skill)
            if own > 0 and usual > 0:
                slower = own - usual >= GRAY_MORE_MS
                ratios.append(own / usual if slower else min(1.0, own / usual))
        return max(1.0, median(ratios)) if ratios else 1.0
