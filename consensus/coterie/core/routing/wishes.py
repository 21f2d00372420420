"""Soft terms: wishes of the task and rules of the cluster, each a factor on the cost of a node. A wish never
keeps a task from running: it makes the other nodes look busier than they are."""

from __future__ import annotations

from collections.abc import Callable

from coterie.core.holdings import SESSION_KEPT_MS
from coterie.core.nouns import Companion, Task
from coterie.core.routing.filters import latency_ms
from coterie.core.routing.pool import Candidate, Placeable, Pool, Term

CRASH_FACTOR = 100.0  # above what any other wish and measurement say

Weigh = Callable[[Candidate], Term]
"""The term of one node. What is the same for all nodes was looked up before."""
Wish = Callable[[Placeable, Pool], Weigh | None]
"""None: nobody wishes it."""


def _zone(task: Placeable, pool: Pool) -> Weigh | None:
    """Near where the task says, or, with same-zone, near the node that took it."""
    zone = task.constraints.prefer_zone
    if not zone and pool.rules.locality == "same-zone" and task.constraints.origin:
        zone = pool.zone_of(task.constraints.origin)
    if not zone:
        return None

    def weigh(candidate: Candidate) -> Term:
        if candidate.node.zone == zone:
            return Term("zone", 0.0, 1.0, f"in zone {zone}")
        detail = f"in zone {candidate.node.zone or 'none'}, not {zone}"
        return Term("zone", 0.0, pool.rules.zone_factor, detail)

    return weigh


def _node(task: Placeable, pool: Pool) -> Weigh | None:
    """Where a dry run would have placed it a moment ago; elsewhere when that node is gone or far busier."""
    advised = task.constraints.prefer_node
    if not advised:
        return None

    def weigh(candidate: Candidate) -> Term:
        factor = 1.0 if candidate.node.node_id == advised else pool.rules.node_factor
        return Term("node", 0.0, factor, f"{advised} was advised")

    return weigh


def _cross_zone(task: Placeable, pool: Pool) -> Weigh | None:
    """Spread over the zones: the loss of one shall cost the least."""
    if pool.rules.locality != "cross-zone":
        return None
    counts: dict[str, int] = {}
    for other in pool.candidates:
        zone = other.node.zone
        counts[zone] = counts.get(zone, 0) + pool.count_type(other, task.type)
    most = max(counts.values(), default=0)

    def weigh(candidate: Candidate) -> Term:
        here = counts[candidate.node.zone]
        detail = f"{here} of type {task.type} in zone {candidate.node.zone or 'none'}" if pool.telling else ""
        return Term("cross-zone", 0.0, _spread(here, most, pool), detail)

    return weigh


def _affinity(task: Placeable, pool: Pool) -> Weigh | None:
    """Where tasks of the type already are: its code and caches are warm there."""
    if not pool.rules.affinity:
        return None
    if not any(pool.count_type(other, task.type) for other in pool.candidates):
        return None

    def weigh(candidate: Candidate) -> Term:
        here = pool.count_type(candidate, task.type)
        factor = 1.0 if here else pool.rules.affinity_factor
        return Term("affinity", 0.0, factor, _holds(here, task, pool))

    return weigh


def _anti_affinity(task: Placeable, pool: Pool) -> Weigh | None:
    if not pool.rules.anti_affinity:
        return None
    most = max((pool.count_type(other, task.type) for other in pool.candidates), default=0)

    def weigh(candidate: Candidate) -> Term:
        here = pool.count_type(candidate, task.type)
        return Term("anti-affinity", 0.0, _spread(here, most, pool), _holds(here, task, pool))

    return weigh


def _session(task: Placeable, pool: Pool) -> Weigh | None:
    """Where the session is at home, for as long as it is remembered. The hash strategy has its own way."""
    session = task.constraints.session
    anchor = pool.state.anchors.get(session) if session else None
    if anchor is None or anchor.at_ms + SESSION_KEPT_MS < pool.sight.now_ms:
        return None
    home = anchor.node_id

    def weigh(candidate: Candidate) -> Term:
        if candidate.node.node_id == home:
            return Term("session", 0.0, 1.0, "at home here")
        return Term("session", 0.0, pool.rules.session_factor, f"at home on {home}")

    return weigh


def _latency(task: Placeable, pool: Pool) -> Weigh | None:
    """Only shown: what is too far away was refused before."""
    wanted = task.constraints
    if not wanted.max_latency_ms:
        return None

    def weigh(candidate: Candidate) -> Term:
        measured = latency_ms(wanted, candidate, pool)
        text = "not measured yet" if measured is None else f"{measured:.1f} ms"
        return Term("latency", 0.0, 1.0, f"{text} from {wanted.origin or 'an unknown node'}")

    return weigh


def _crashed(task: Placeable, pool: Pool) -> Weigh | None:
    """Away from where it died before: perhaps it was the node. If it was the task, it is known to be poison
    the sooner, for that takes several nodes."""
    crashes = task.crashes if isinstance(task, Task) else ()
    if not crashes:
        return None
    there = {crash.node_id for crash in crashes}

    def weigh(candidate: Candidate) -> Term:
        died = candidate.node.node_id in there
        detail = "its process died here" if died else "it has not died here"
        return Term("crashed", 0.0, CRASH_FACTOR if died else 1.0, detail)

    return weigh


WISHES: tuple[Wish, ...] = (
    _crashed,
    _node,
    _zone,
    _cross_zone,
    _affinity,
    _anti_affinity,
    _session,
    _latency,
)


def wishes(task: Placeable, pool: Pool) -> list[Weigh]:
    """Those that somebody has for this task, now."""
    found = [weigh for wish in WISHES if (weigh := wish(task, pool)) is not None]
    return found + [_companion(c, pool) for c in task.constraints.companions if not c.required]


def _companion(companion: Companion, pool: Pool) -> Weigh:
    name = "away from" if companion.away else "near to"

    def weigh(candidate: Candidate) -> Term:
        there = pool.count_companions(candidate, companion)
        where = f"zone {candidate.node.zone or 'none'}" if companion.zone else "this node"
        factor = 1.0 if bool(there) != companion.away else pool.rules.companion_factor
        return Term(name, 0.0, factor, f"{there} such tasks on {where}")

    return weigh


def _spread(here: int, most: int, pool: Pool) -> float:
    return 1.0 + (pool.rules.spread_factor - 1.0) * here / most if most else 1.0


def _holds(count: int, task: Placeable, pool: Pool) -> str:
    return f"holds {count} of type {task.type}" if pool.telling else ""
