"""The strategies: what running a task on a node costs, in a unit of their own. The lowest cost wins."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from coterie.core.routing.loads import measured_ms
from coterie.core.routing.pool import Candidate, Placeable, Pool, Term

CPU_WEIGHT = 0.25  # of a fully used processor, beside the slots in use
GRAY_FACTOR = 3.0  # on top of what was measured: a gray node is worse than its average says
PROBE_FACTOR = 1e-6  # a probe that is due comes first
NEVER = math.inf


class Strategy(Protocol):
    """See the package for how to add one."""

    def weigh(self, task: Placeable, fit: Sequence[Candidate], pool: Pool) -> list[list[Term]]:
        """For each node that could run it, full or not: terms whose amounts add up to something positive.
        Details are asked for only when `pool.telling`."""

    def delay_ms(self, task: Placeable, candidate: Candidate, pool: Pool) -> float:
        """How long until a full node has a slot for it, when that may be worth waiting for; NEVER: it is not.
        Only strategies that count in milliseconds may say something else."""


class LeastLoaded:
    """The share of slots in use, the task included."""

    def weigh(self, task: Placeable, fit: Sequence[Candidate], pool: Pool) -> list[list[Term]]:
        return [[Term("load", (c.held + 1) / c.node.capacity, 1.0, _slots(c, pool))] for c in fit]

    def delay_ms(self, task: Placeable, candidate: Candidate, pool: Pool) -> float:
        return NEVER


class RoundRobin:
    """Whose turn is the longest ago comes first. The rotation is part of the state: every coordinator goes on
    with it, and a node that is full or refused loses its turn, not its place."""

    def weigh(self, task: Placeable, fit: Sequence[Candidate], pool: Pool) -> list[list[Term]]:
        order = sorted(fit, key=lambda c: (c.turn, c.node.node_id))
        places = {candidate.node.node_id: place for place, candidate in enumerate(order)}
        found = []
        for candidate in fit:
            place = places[candidate.node.node_id]
            detail = f"{place} nodes come before it" if pool.telling else ""
            found.append([Term("turn", 1.0 + place, 1.0, detail)])
        return found

    def delay_ms(self, task: Placeable, candidate: Candidate, pool: Pool) -> float:
        return NEVER


class BoundedHash:
    """Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with
    Bounded Loads", SODA 2018), on weighted rendezvous order (Thaler and Ravishankar 1998) instead of a ring:
    a session, or else a task type, goes to the first node of its order that is not above `bound` times its
    fair share of all that the fit nodes hold. Few keys move when a node comes or goes."""

    def weigh(self, task: Placeable, fit: Sequence[Candidate], pool: Pool) -> list[list[Term]]:
        key = task.constraints.session or task.type
        ranks = {c.node.node_id: _rank(key, c, pool) for c in fit}
        order = sorted(ranks, key=lambda node_id: -ranks[node_id])
        places = {node_id: place for place, node_id in enumerate(order, 1)}
        share = pool.rules.bound * (sum(c.held for c in fit) + 1) / sum(c.node.capacity for c in fit)
        found = []
        for candidate in fit:
            place = places[candidate.node.node_id]
            limit = math.ceil(share * candidate.node.capacity)
            detail = f"place {place} for {key}" if pool.telling else ""
            terms = [Term("hash order", float(place), 1.0, detail)]
            if candidate.held + 1 > limit:
                detail = f"holds {candidate.held} of at most {limit}" if pool.telling else ""
                terms.append(Term("above its bound", float(len(fit)), 1.0, detail))
            found.append(terms)
        return found

    def delay_ms(self, task: Placeable, candidate: Candidate, pool: Pool) -> float:
        return NEVER


class Adaptive:
    """Least expected completion (the minimum completion time rule of Ibarra and Kim 1977): how long the skill
    takes there by measurement, stretched by what already competes for the node; on a full node after the
    wait for a slot. A node that is gray gets one task at a time, and only now and then."""

    def weigh(self, task: Placeable, fit: Sequence[Candidate], pool: Pool) -> list[list[Term]]:
        return [self._terms(task, candidate, pool, len(fit) > 1) for candidate in fit]

    def _terms(self, task: Placeable, candidate: Candidate, pool: Pool, choice: bool) -> list[Term]:
        service = expected_ms(task.type, candidate, pool)
        cpu = candidate.load.cpu if candidate.load is not None else 0.0
        terms = [
            Term("service", service, 1.0, _measured(task, candidate) if pool.telling else ""),
            Term("slots", service * candidate.held / candidate.node.capacity, 1.0, _slots(candidate, pool)),
            Term("cpu", service * cpu * CPU_WEIGHT, 1.0, f"{cpu:.0%} in use" if pool.telling else ""),
        ]
        if choice and pool.measures.is_gray(candidate.node.node_id):
            terms.append(self._gray(candidate, pool))
        return terms

    def _gray(self, candidate: Candidate, pool: Pool) -> Term:
        node_id = candidate.node.node_id
        slower = pool.measures.slowness(node_id)
        told = f"{slower:.1f} times slower than the others"
        if candidate.held:
            return Term("gray", 0.0, slower * GRAY_FACTOR, f"{told}; one task at a time")
        if pool.measures.wants_probe(node_id):
            return Term("gray", 0.0, PROBE_FACTOR, f"{told}; due for a probe")
        return Term("gray", 0.0, GRAY_FACTOR, told)

    def delay_ms(self, task: Placeable, candidate: Candidate, pool: Pool) -> float:
        """By what the tasks there still need: their usual time less what they have had; one that is overdue
        is taken to need as long again."""
        if not measured_ms(candidate.load, task.type) or candidate.held > candidate.node.capacity:
            return NEVER
        left = self._left(candidate, pool)
        place = candidate.waiting + sum(candidate.given.values())
        if place < len(left):
            return left[place]
        service = expected_ms(task.type, candidate, pool)
        return (left[-1] if left else 0.0) + service * (1 + place - len(left)) / candidate.node.capacity

    def _left(self, candidate: Candidate, pool: Pool) -> list[float]:
        """Sorted."""
        node_id = candidate.node.node_id
        key = ("left", node_id)
        if key not in pool.memo:
            tasks = pool.state.tasks
            held = (tasks[task_id] for task_id in pool.state.indexes.held_by(node_id))
            pool.memo[key] = sorted(
                _left_ms(expected_ms(task.type, candidate, pool), pool.sight.now_ms - task.assigned_at_ms)
                for task in held
            )
        return cast("list[float]", pool.memo[key])


def expected_ms(type_: str, candidate: Candidate, pool: Pool) -> float:
    """How long a task of that type takes there, looked up once a round."""
    key = (type_, candidate.node.node_id)
    found = pool.memo.get(key)
    if found is None:
        found = pool.memo[key] = pool.measures.service_ms(candidate.node.node_id, type_)
    return cast("float", found)


def _left_ms(service_ms: float, elapsed_ms: float) -> float:
    return service_ms - elapsed_ms if elapsed_ms < service_ms else max(elapsed_ms, 1.0)


def _measured(task: Placeable, candidate: Candidate) -> str:
    own = measured_ms(candidate.load, task.type)
    return f"measured {own:.0f} ms" if own else "not measured here"


def _slots(candidate: Candidate, pool: Pool) -> str:
    return f"{candidate.held} of {candidate.node.capacity} slots in use" if pool.telling else ""


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
