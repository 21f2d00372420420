"""Where a task would go, and why: the coordinator's decision with everything that counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coterie.client.models import TaskInfo
from coterie.v1 import tasks_pb2


@dataclass(frozen=True, slots=True)
class RouteTerm:
    """One part of a cost: cost = sum of the amounts x product of the factors."""

    name: str
    amount: float
    factor: float
    detail: str


@dataclass(frozen=True, slots=True)
class RouteCandidate:
    """A node. `fit`: it may run the task, now or when it has room; `cost` is None where it was not compared.
    `objections` are (filter, reason) pairs: all that speaks against it."""

    node: str
    fit: bool
    chosen: bool
    cost: float | None
    held: int
    capacity: int
    terms: tuple[RouteTerm, ...]
    objections: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Route:
    """`node` is "" when no node can take the task now; `wait_reason` and `wait_detail` then say why.
    Candidates come best first, the refused ones after them. `task`: the task it is about, if that exists."""

    node: str
    wait_reason: str
    wait_detail: str
    candidates: tuple[RouteCandidate, ...]
    strategy: str
    weights: Mapping[str, float]
    decided_by: str
    applied_index: int
    task: TaskInfo | None
    raw: tasks_pb2.Route

    @classmethod
    def of(cls, raw: tasks_pb2.Route) -> Route:
        """The dataclass for a message."""
        reason = tasks_pb2.WaitReason.Name(raw.wait_reason) if raw.wait_reason else ""
        return cls(
            node=raw.node,
            wait_reason=reason,
            wait_detail=raw.wait_detail,
            candidates=tuple(_candidate(candidate) for candidate in raw.candidates),
            strategy=raw.strategy,
            weights=dict(raw.weights),
            decided_by=raw.decided_by,
            applied_index=raw.applied_index,
            task=TaskInfo.of(raw.task) if raw.HasField("task") else None,
            raw=raw,
        )


def _candidate(raw: tasks_pb2.RouteCandidate) -> RouteCandidate:
    return RouteCandidate(
        node=raw.node_id,
        fit=raw.fit,
        chosen=raw.chosen,
        cost=raw.cost if raw.HasField("cost") else None,
        held=raw.held,
        capacity=raw.capacity,
        terms=tuple(RouteTerm(t.name, t.amount, t.factor, t.detail) for t in raw.terms),
        objections=tuple((o.filter, o.reason) for o in raw.objections),
    )
