"""Soft terms: wishes of the task and rules of the cluster, each a factor on the cost of a node. A wish never
keeps a task from running: it makes the other nodes look busier than they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from coterie.core.holdings import SESSION_KEPT_MS
from coterie.core.nouns import Companion
from coterie.core.routing.filters import latency_ms
from coterie.core.routing.pool import Candidate, Placeable, Pool, Term

Wish = Callable[[Placeable, Candidate, Pool], Term | None]


def _zone(task: Placeable, candidate: Candidate, pool: Pool) -> Term | None:
    """Near where the task says, or, with same-zone, near the node that took it."""
    zone = task.constraints.prefer_zone
    if not zone and pool.rules.locality == "same-zone":
        zone = pool.zone_of(task.constraints.origin)
    if not zone:
        return None
    if candidate.node.zone == zone:
        return Term("zone", detail=f"in zone {zone}")
    return Term("zone", factor=pool.rules.zone_factor, detail=f"in zone {candidate.node.zone}, not {zone}")


def _cross_zone(task: Placeable, candidate: Candidate, pool: Pool) -> Term | None:
    """Spread over the zones: the loss of one shall cost the least."""
    if pool.rules.locality != "cross-zone":
        return None
    counts: dict[str, int] = {}
    for other in pool.candidates:
        zone = other.node.zone
        counts[zone] = counts.get(zone, 0) + pool.count_type(other, task.type)
    here, most = counts[candidate.node.zone], max(counts.values())
    return _spread(
        "cross-zone", here, most, pool, f"{here} of type {task.type} in zone {candidate.node.zone}"
    )


def _affinity(task: Placeable, candidate: Candidate, pool: Pool) -> Term | None:
    """Where tasks of the type already are: its code and caches are warm there."""
    if not pool.rules.affinity:
        return None
    if not any(pool.count_type(other, task.type) for other in pool.candidates):
        return None
    here = pool.count_type(candidate, task.type)
    factor = 1.0 if here else pool.rules.affinity_factor
    return Term("affinity", factor=factor, detail=f"holds {here} of type {task.type}")


def _anti_affinity(task: Placeable, candidate: Candidate, pool: Pool) -> Term | None:
    if not pool.rules.anti_affinity:
        return None
    here = pool.count_type(candidate, task.type)
    most = max(pool.count_type(other, task.type) for other in pool.candidates)
    return _spread("anti-affinity", here, most, pool, f"holds {here} of type {task.type}")


def _spread(name: str, here: int, most: int, pool: Pool, detail: str) -> Term:
    share = here / most if most else 0.0
    return Term(name, factor=1.0 + (pool.rules.spread_factor - 1.0) * share, detail=detail)


def _session(task: Placeable, candidate: Candidate, pool: Pool) -> Term | None:
    """Where the session is at home, for as long as it is remembered. The hash strategy has its own way."""
    session = task.constraints.session
    anchor = pool.state.anchors.get(session) if session else None
    if anchor is None or anchor.at_ms + SESSION_KEPT_MS < pool.sight.now_ms:
        return None
    if anchor.node_id == candidate.node.node_id:
        return Term("session", detail="at home here")
    return Term("session", factor=pool.rules.session_factor, detail=f"at home on {anchor.node_id}")


def _latency(task: Placeable, candidate: Candidate, pool: Pool) -> Term | None:
    """Only shown: what is too far away was refused before."""
    wanted = task.constraints
    if not wanted.max_latency_ms:
        return None
    measured = latency_ms(wanted, candidate, pool)
    text = "not measured yet" if measured is None else f"{measured:.1f} ms"
    return Term("latency", detail=f"{text} from {wanted.origin or 'an unknown node'}")


WISHES: tuple[Wish, ...] = (_zone, _cross_zone, _affinity, _anti_affinity, _session, _latency)


def wishes(task: Placeable, candidate: Candidate, pool: Pool) -> Iterator[Term]:
    """The terms that apply."""
    for wish in WISHES:
        term = wish(task, candidate, pool)
        if term is not None:
            yield term
    for companion in task.constraints.companions:
        if not companion.required:
            yield _companion(companion, candidate, pool)


def _companion(companion: Companion, candidate: Candidate, pool: Pool) -> Term:
    there = pool.count_companions(candidate, companion)
    name = "away from" if companion.away else "near to"
    fulfilled = bool(there) != companion.away
    where = f"zone {candidate.node.zone}" if companion.zone else "this node"
    factor = 1.0 if fulfilled else pool.rules.companion_factor
    return Term(name, factor=factor, detail=f"{there} such tasks on {where}")
