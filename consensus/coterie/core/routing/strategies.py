"""The strategies: what running a task on a node costs, in a unit of their own. The lowest cost wins."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Protocol, cast

from coterie.core.routing.loads import DEFAULT_SERVICE_MS, measured_ms
from coterie.core.routing.pool import Candidate, Placeable, Pool, Term

CPU_WEIGHT = 0.25  # of a fully used processor, beside the slots in use
NEVER = math.inf


class Strategy(Protocol):
    """See the package for how to add one."""

    def amounts(self, task: Placeable, candidate: Candidate, pool: Pool, fit: list[Candidate]) -> list[Term]:
        """Terms whose amounts add up to something positive. `fit`: all nodes that could run it, or full."""

    def delay_ms(self, task: Placeable, candidate: Candidate, pool: Pool) -> float:
        """How long until a full node has a slot for it, when that may be worth waiting for; NEVER: it is not.
        Only strategies that count in milliseconds may say something else."""


class LeastLoaded:
    """The share of slots in use, the task included."""

    def amounts(self, task: Placeable, candidate: Candidate, pool: Pool, fit: list[Candidate]) -> list[Term]:
        share = (candidate.held + 1) / candidate.node.capacity
        return [Term("load", share, detail=f"{candidate.held} of {candidate.node.capacity} slots")]

    def delay_ms(self, task: Placeable, candidate: Candidate, pool: Pool) -> float:
        return NEVER


class RoundRobin:
    """Whose turn is the longest ago comes first. The rotation is part of the state: every coordinator goes on
    with it, and a node that is full or refused loses its turn, not its place."""

    def amounts(self, task: Placeable, candidate: Candidate, pool: Pool, fit: list[Candidate]) -> list[Term]:
        earlier = sum(
            (other.turn, other.node.node_id) < (candidate.turn, candidate.node.node_id) for other in fit
        )
        return [Term("turn", 1.0 + earlier, detail=f"{earlier} nodes come before it")]

    def delay_ms(self, task: Placeable, candidate: Candidate, pool: Pool) -> float:
        return NEVER


class BoundedHash:
    """Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with
    Bounded Loads", SODA 2018), on weighted rendezvous order (Thaler and Ravishankar 1998) instead of a ring:
    a session, or else a task type, goes to the first node of its order that is not above `bound` times its
    fair share of all that the fit nodes hold. Few keys move when a node comes or goes."""

    def amounts(self, task: Placeable, candidate: Candidate, pool: Pool, fit: list[Candidate]) -> list[Term]:
        key = task.constraints.session or task.type
        mine = _rank(key, candidate, pool)
        place = 1 + sum(_rank(key, other, pool) > mine for other in fit)
        terms = [Term("hash order", float(place), detail=f"place {place} for {key}")]
        limit = bound(candidate, fit, pool.rules.bound)
        if candidate.held + 1 > limit:
            terms.append(Term("above its bound", float(len(fit)), detail=f"{candidate.held} of {limit}"))
        return terms

    def delay_ms(self, task: Placeable, candidate: Candidate, pool: Pool) -> float:
        return NEVER


class Adaptive:
    """Least expected completion (the minimum completion time rule of Ibarra and Kim 1977): how long the skill
    takes there by measurement, stretched by what already competes for the node; on a full node after the
    wait for a slot. A node that is gray gets one task at a time, and only now and then."""

    def amounts(self, task: Placeable, candidate: Candidate, pool: Pool, fit: list[Candidate]) -> list[Term]:
        node, measures = candidate.node, pool.measures
        service = measures.service_ms(node.node_id, task.type)
        own = measured_ms(candidate.load, task.type)
        told = f"measured {own:.0f} ms" if own else "not measured here"
        cpu = candidate.load.cpu if candidate.load is not None else 0.0
        busy = candidate.held / node.capacity
        terms = [
            Term("service", service, detail=told),
            Term("slots", service * busy, detail=f"{candidate.held} of {node.capacity} slots in use"),
            Term("cpu", service * cpu * CPU_WEIGHT, detail=f"{cpu:.0%} in use"),
        ]
        if measures.is_gray(node.node_id) and len(fit) > 1:
            terms.append(self._gray(candidate, pool))
        return terms

    def _gray(self, candidate: Candidate, pool: Pool) -> Term:
        node_id = candidate.node.node_id
        slower = pool.measures.slowness(node_id)
        if not candidate.held and pool.measures.wants_probe(node_id):
            return Term("gray", factor=PROBE_FACTOR, detail=f"{slower:.1f} times slower; due for a probe")
        if candidate.held:
            detail = f"{slower:.1f} times slower than the others; one task at a time"
            return Term("gray", factor=slower * GRAY_FACTOR, detail=detail)
        return Term("gray", factor=GRAY_FACTOR, detail=f"{slower:.1f} times slower than the others")

    def delay_ms(self, task: Placeable, candidate: Candidate, pool: Pool) -> float:
        """By what the tasks there still need: their usual time less what they have had; one that is overdue
        is taken to need as long again."""
        if not measured_ms(candidate.load, task.type) or candidate.held > candidate.node.capacity:
            return NEVER
        left = self._left(candidate, pool)
        place = candidate.waiting + sum(candidate.given.values())
        service = pool.measures.service_ms(candidate.node.node_id, task.type)
        if place < len(left):
            return left[place]
        return (left[-1] if left else 0.0) + service * (1 + place - len(left)) / candidate.node.capacity

    def _left(self, candidate: Candidate, pool: Pool) -> list[float]:
        node_id = candidate.node.node_id
        key = ("left", node_id)
        if key not in pool.memo:
            tasks = pool.state.tasks
            held = (tasks[task_id] for task_id in pool.state.indexes.held_by(node_id))
            pool.memo[key] = sorted(
                _left_ms(
                    pool.measures.service_ms(node_id, task.type) or DEFAULT_SERVICE_MS,
                    pool.sight.now_ms - task.assigned_at_ms,
                )
                for task in held
            )
        return cast("list[float]", pool.memo[key])


GRAY_FACTOR = 3.0  # on top of what was measured: a gray node is worse than its average says
PROBE_FACTOR = 1e-6  # a probe that is due comes first


def _left_ms(service_ms: float, elapsed_ms: float) -> float:
    return service_ms - elapsed_ms if elapsed_ms < service_ms else max(elapsed_ms, 1.0)


def bound(candidate: Candidate, fit: list[Candidate], factor: float) -> int:
    """The most tasks the node may hold by its share of capacity, counting the one that is placed."""
    slots = sum(other.node.capacity for other in fit)
    held = sum(other.held for other in fit) + 1
    return math.ceil(factor * held * candidate.node.capacity / slots)


def _rank(key: str, candidate: Candidate, pool: Pool) -> float:
    """Highest random weight: the order of nodes for a key, larger first, weighted by capacity."""
    at = ("hash", key, candidate.node.node_id)
    if at not in pool.memo:
        seed = f"{key}\0{candidate.node.node_id}".encode()
        point = (int.from_bytes(hashlib.blake2b(seed, digest_size=7).digest(), "big") + 0.5) / 2**56
        pool.memo[at] = candidate.node.capacity / -math.log(point)
    return cast("float", pool.memo[at])


STRATEGIES: Mapping[str, Strategy] = {
    "adaptive": Adaptive(),
    "least-loaded": LeastLoaded(),
    "round-robin": RoundRobin(),
    "hash": BoundedHash(),
}
