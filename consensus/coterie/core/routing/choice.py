"""The decision about one task: every node refused with reasons, or ranked with every term of its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coterie.core.commands import AssignTask
from coterie.core.kinds import kind
from coterie.core.nouns import NO_NODE, NodeId, TaskId, WaitReason
from coterie.core.routing.filters import LASTING, Objection, blocked, told, unfit
from coterie.core.routing.pool import Candidate, Placeable, Pool, Term
from coterie.core.routing.strategies import NEVER, STRATEGIES
from coterie.core.routing.wishes import wishes


class Ranked(NamedTuple):
    """A fit node. `objection`: what keeps it from taking the task now, as when it is full."""

    cost: float
    candidate: Candidate
    terms: Sequence[Term]
    objection: Objection | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A node that may not run the task, with everything that speaks against it."""

    candidate: Candidate
    objections: tuple[Objection, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Where the task goes now, if anywhere, and why."""

    chosen: Candidate | None
    ranked: Sequence[Ranked]  # fit nodes that were compared, best first
    refused: tuple[Refused, ...]
    wait: WaitReason = WaitReason.NONE
    detail: str = ""
    turn: int = 0
    better_off: int = 0  # tasks of this kind, this one included, that should rather wait for a busy node

    @property
    def unfit(self) -> bool:
        """No node may run the task, and that stays so until the nodes are others."""
        reasons = ({objection.filter for objection in refused.objections} for refused in self.refused)
        return not self.ranked and all(not LASTING.isdisjoint(told) for told in reasons)

    def assignment(self, task_id: TaskId, attempt: int, *, if_first: bool = False) -> AssignTask:
        """The command that carries it out, as that attempt."""
        assert self.chosen is not None
        node = self.chosen.node
        return AssignTask(task_id, node.node_id, node.incarnation, attempt, self.turn, if_first)


def choose(task: Placeable, pool: Pool, near: NodeId = NO_NODE) -> Decision:
    """The best node that can take the task now. Among equal costs the emptiest, then `near`, then by id."""
    fit, refused = _sorted_out(task, pool)
    if not fit:
        reason, detail = _why_none((), refused)
        return Decision(None, (), refused, reason, detail)
    strategy, weighs = STRATEGIES[pool.rules.strategy], wishes(task, pool)
    ranked: list[Ranked] = []
    for candidate, terms in zip(fit, strategy.weigh(task, fit, pool), strict=True):
        objection, delay = blocked(task, candidate, pool), 0.0
        if objection is not None:
            delay = NEVER if objection.filter == "breaker" else strategy.delay_ms(task, candidate, pool)
            if delay < NEVER:
                terms.append(Term("wait", delay, 1.0, "until a slot is free"))
        for weigh in weighs:
            terms.append(weigh(candidate))
        ranked.append(Ranked(_cost(terms) if delay < NEVER else NEVER, candidate, terms, objection))
    if len(ranked) > 1:
        ranked.sort(key=lambda one: _order(one, near))
    return _decide(pool, ranked, refused)


def _order(ranked: Ranked, near: NodeId) -> tuple[float, bool, float, bool, str]:
    node = ranked.candidate.node
    busy = ranked.candidate.held / max(1, node.capacity)
    return ranked.cost, ranked.objection is not None, busy, node.node_id != near, node.node_id


def _cost(terms: list[Term]) -> float:
    total, factor = 0.0, 1.0
    for term in terms:
        total += term.amount
        factor *= term.factor
    return total * factor


def _decide(pool: Pool, ranked: list[Ranked], refused: tuple[Refused, ...]) -> Decision:
    everything = ranked
    free = next((r for r in ranked if r.objection is None), None)
    if free is None:
        reason, detail = _why_none(everything, refused)
        return Decision(None, everything, refused, reason, detail)
    best = ranked[0]
    if best.objection is not None and best.cost * pool.rules.patience < free.cost:
        count = _better_off(best, free, ranked, pool)
        detail = (
            f"it waits for {best.candidate.node.node_id}: about {best.cost:.0f} ms there, "
            f"{free.cost:.0f} ms on {free.candidate.node.node_id}, which is free"
        )
        return Decision(None, everything, refused, WaitReason.QUEUED, detail, better_off=count)
    return Decision(free.candidate, everything, refused, turn=pool.next_turn())


def _better_off(best: Ranked, free: Ranked, ranked: list[Ranked], pool: Pool) -> int:
    """How many such tasks one after the other would wait for busy nodes before the free slot is as good: each
    makes the others wait for another share of a task. They are noted as waiting."""
    busy = [r for r in ranked if r.objection is not None and r.cost < NEVER]
    slots = sum(r.candidate.node.capacity for r in busy)
    service = sum(term.amount for term in best.terms if term.name != "wait")
    gain = free.cost / pool.rules.patience - best.cost
    count = 1 + int(gain * slots / service) if service > 0 else 1
    for place, waited_for in enumerate(busy):
        waited_for.candidate.waiting += count // len(busy) + (place < count % len(busy))
    return count


def _why_none(ranked: Sequence[Ranked], refused: tuple[Refused, ...]) -> tuple[WaitReason, str]:
    if not ranked:
        reasons = [f"{r.candidate.node.node_id} {told([o.reason for o in r.objections])}" for r in refused]
        return WaitReason.NO_NODE, "; ".join(reasons) or "no node has registered"
    reasons = [f"{r.candidate.node.node_id} {r.objection.reason}" for r in ranked if r.objection]
    broken = all(r.objection is not None and r.objection.filter == "breaker" for r in ranked)
    return (WaitReason.CIRCUIT_OPEN if broken else WaitReason.QUEUED), "; ".join(reasons)


def _sorted_out(task: Placeable, pool: Pool) -> tuple[list[Candidate], tuple[Refused, ...]]:
    """Fit nodes and refused ones. The answer is kept for the round, unless the round can change it."""
    keep = not any(companion.required for companion in task.constraints.companions)
    key = ("fit", kind(task)) if keep else None
    if key is not None and key in pool.memo:
        return pool.memo[key]  # type: ignore[return-value]
    fit: list[Candidate] = []
    refused: list[Refused] = []
    for candidate in pool.candidates:
        objections = unfit(task, candidate, pool)
        if objections:
            refused.append(Refused(candidate, objections))
        else:
            fit.append(candidate)
    answer = fit, tuple(refused)
    if key is not None:
        pool.memo[key] = answer
    return answer
