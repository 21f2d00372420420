"""Hard filters: each says why a node may not run a task. All of them speak, not only the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from coterie.core.breakers import keys_of
from coterie.core.holdings import lacking
from coterie.core.nouns import Constraints, Node, NodeStatus
from coterie.core.routing.pool import Candidate, Placeable, Pool
from coterie.core.skillbook import PIN

GPU_LABEL = "gpu"


class Objection(NamedTuple):
    """What speaks against a node: the filter's name, and a sentence about the node."""

    filter: str
    reason: str


Fixed = Callable[[str, Constraints, Node], str]
"""Of the task's kind and the node alone: the same for a whole round."""


def _status(type_: str, wanted: Constraints, node: Node) -> str:
    if node.status is not NodeStatus.UP:
        return "is down" + (f": {node.reason}" if node.reason else "")
    return ""


def _draining(type_: str, wanted: Constraints, node: Node) -> str:
    return "is draining" if node.draining else ""


def _slots(type_: str, wanted: Constraints, node: Node) -> str:
    return "" if node.capacity > 0 else "has no slots"


def _skill(type_: str, wanted: Constraints, node: Node) -> str:
    if wanted.skill_version.startswith(PIN):
        return "" if node.confines else f"has no sandbox for the published skill {type_}"
    versions = [skill.version for skill in node.skills if skill.name == type_]
    if not versions:
        return f"lacks skill {type_}"
    if wanted.skill_version and wanted.skill_version not in versions:
        return f"has skill {type_} in revision {', '.join(versions)}, not {wanted.skill_version}"
    return ""


def _target(type_: str, wanted: Constraints, node: Node) -> str:
    if wanted.target_node and node.node_id != wanted.target_node:
        return f"is not the target node {wanted.target_node}"
    return ""


def _gpu(type_: str, wanted: Constraints, node: Node) -> str:
    if wanted.gpus > node.gpus:
        return f"has {node.gpus or 'no'} GPUs, {wanted.gpus} are needed"
    if not wanted.require_gpu or node.gpus:
        return ""
    told = next((label.value for label in node.labels if label.key == GPU_LABEL), "")
    return "has no GPU" if told.lower() in {"", "0", "false", "none"} else ""


def _zone(type_: str, wanted: Constraints, node: Node) -> str:
    if wanted.zones and node.zone not in wanted.zones:
        return f"is in zone {node.zone or 'none'}, not in {' or '.join(wanted.zones)}"
    return ""


def _labels(type_: str, wanted: Constraints, node: Node) -> str:
    has = {(label.key, label.value) for label in node.labels}
    missing = [f"{w.key}={w.value}" for w in wanted.labels if (w.key, w.value) not in has]
    return f"lacks label {', '.join(missing)}" if missing else ""


def _memory(type_: str, wanted: Constraints, node: Node) -> str:
    if wanted.memory_bytes and node.memory_bytes and wanted.memory_bytes > node.memory_bytes:
        return f"has {node.memory_bytes} bytes of memory, {wanted.memory_bytes} are needed"
    return ""


FIXED: tuple[tuple[str, Fixed], ...] = (
    ("status", _status),
    ("draining", _draining),
    ("slots", _slots),
    ("skill", _skill),
    ("target", _target),
    ("gpu", _gpu),
    ("zone", _zone),
    ("labels", _labels),
    ("memory", _memory),
)

Moving = Callable[[Placeable, Candidate, Pool], str]
"""Of what the coordinator sees, too."""


def _standby(task: Placeable, candidate: Candidate, pool: Pool) -> str:
    if candidate.node.standby and candidate.node.node_id not in pool.called:
        return "is on standby, and no other node is missing"
    return ""


def _coordinator(task: Placeable, candidate: Candidate, pool: Pool) -> str:
    leader = pool.sight.leader
    if task.constraints.require_coordinator and candidate.node.node_id != leader:
        return f"is not the coordinator, which is {leader or 'not known now'}"
    return ""


def _latency(task: Placeable, candidate: Candidate, pool: Pool) -> str:
    wanted = task.constraints
    if not wanted.max_latency_ms:
        return ""
    measured = latency_ms(wanted, candidate, pool)
    if measured is not None and measured > wanted.max_latency_ms:
        return f"is {measured:.1f} ms away from {wanted.origin}, more than {wanted.max_latency_ms} ms"
    return ""


def _companions(task: Placeable, candidate: Candidate, pool: Pool) -> str:
    for companion in task.constraints.companions:
        if not companion.required:
            continue
        there = pool.count_companions(candidate, companion)
        if companion.away and there:
            return f"holds {there} tasks that it must be away from"
        if not companion.away and not there:
            return "holds none of the tasks that it must be near to"
    return ""


MOVING: tuple[tuple[str, Moving], ...] = (
    ("standby", _standby),
    ("coordinator", _coordinator),
    ("latency", _latency),
    ("companions", _companions),
)

LASTING = frozenset({*(name for name, _ in FIXED), "standby", "coordinator"})
"""Filters that say the same of a kind and a node until some node is another one, or leads."""


def _breaker(task: Placeable, candidate: Candidate, pool: Pool) -> str:
    found = (pool.breakers.get(key) for key in keys_of(task.type, candidate.node.node_id))
    return next((reason for reason in found if reason), "")


def _capacity(task: Placeable, candidate: Candidate, pool: Pool) -> str:
    if candidate.free <= 0:
        return f"is full ({candidate.held} of {candidate.node.capacity} slots)"
    return lacking(candidate.node, task.constraints, candidate.taken)


def latency_ms(wanted: Constraints, candidate: Candidate, pool: Pool) -> float | None:
    """Round trip between the node that took the task and the candidate; None: not measured."""
    if candidate.node.node_id == wanted.origin:
        return 0.0
    there = candidate.load.rtt_ms.get(wanted.origin) if candidate.load is not None else None
    if there is not None:
        return there
    origin = next((load for id_, load in pool.sight.loads.items() if id_ == wanted.origin), None)
    return origin.rtt_ms.get(candidate.node.node_id) if origin is not None else None


def unfit(task: Placeable, candidate: Candidate, pool: Pool) -> tuple[Objection, ...]:
    """What keeps the node from running such a task however empty it is; by kind of task, once a round."""
    found = [
        Objection(name, reason)
        for name, check in FIXED
        if (reason := check(task.type, task.constraints, candidate.node))
    ]
    found += [Objection(name, reason) for name, look in MOVING if (reason := look(task, candidate, pool))]
    return tuple(found)


def blocked(task: Placeable, candidate: Candidate, pool: Pool) -> Objection | None:
    """What keeps a fit node from taking the task now."""
    if pool.breakers and (reason := _breaker(task, candidate, pool)):
        return Objection("breaker", reason)
    if reason := _capacity(task, candidate, pool):
        return Objection("capacity", reason)
    return None


def refusal(task_type: str, constraints: Constraints, node: Node) -> str:
    """Why the node may not run such a task, by what it has registered; empty when it may."""
    reasons = [reason for _, check in FIXED if (reason := check(task_type, constraints, node))]
    return f"{node.node_id} {told(reasons)}" if reasons else ""


def told(reasons: Sequence[str]) -> str:
    return " and ".join(reasons)
