"""Dry runs and explanations: what the coordinator would decide now, with everything that counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import grpc

from coterie.core.commands import SubmitTask
from coterie.core.nouns import NodeId, Task, WaitReason
from coterie.core.ports import Engine
from coterie.core.routing import STRATEGIES, Decision, Pool, Ranked, RoutingRules, choose
from coterie.core.state import ClusterState
from coterie.core.transitions import HELD, TERMINAL
from coterie.core.view import View
from coterie.core.waiting import wait_reason
from coterie.node.clock import Clock
from coterie.node.errors import Violation, invalid
from coterie.node.links import PeerChannels, outliving
from coterie.node.loads import LoadBook
from coterie.node.observability import get_logger
from coterie.node.reads import Found
from coterie.v1 import tasks_pb2, tasks_pb2_grpc

log = get_logger(__name__)

ASK_TIMEOUT_S = 2.0
_WEIGHTS = (
    "affinity_factor",
    "spread_factor",
    "zone_factor",
    "node_factor",
    "session_factor",
    "companion_factor",
    "bound",
    "patience",
)


@dataclass(frozen=True, slots=True)
class RouterParts:
    """What the router works on."""

    me: NodeId
    state: Callable[[], ClusterState]
    engine: Engine
    book: LoadBook
    channels: PeerChannels
    clock: Clock
    rules: Callable[[], RoutingRules]


class Router:
    """Answers on any node; load reports are the leader's, so it is asked when it can be reached."""

    def __init__(self, parts: RouterParts) -> None:
        self._parts = parts

    def stamped(self, command: SubmitTask, *, same_zone: bool, origin: str = "") -> SubmitTask:
        """The command with what depends on the node that took it (this one, unless `origin` says otherwise):
        its id, and its zone when that is wished."""
        parts, wanted = self._parts, command.constraints
        origin = origin or parts.me
        if same_zone and not wanted.prefer_zone:
            taker = parts.state().nodes.get(NodeId(origin))
            wanted = replace(wanted, prefer_zone=taker.zone if taker is not None else "")
        if wanted.max_latency_ms or parts.rules().locality == "same-zone":
            wanted = replace(wanted, origin=origin)
        return command if wanted is command.constraints else replace(command, constraints=wanted)

    async def ask_leader(self, request: tasks_pb2.RouteTaskRequest) -> tasks_pb2.Route | None:
        """The leader's answer; None: this node has to answer by what it knows."""
        parts, leader = self._parts, self._parts.engine.leader
        if request.local or parts.engine.is_leader or leader not in parts.channels.peers:
            return None
        onward = tasks_pb2.RouteTaskRequest()
        onward.CopyFrom(request)
        onward.local, onward.origin = True, request.origin or parts.me
        stub: Any = tasks_pb2_grpc.TasksStub(parts.channels.channel(leader, "bulk"))
        try:
            with outliving(leader):
                answer: tasks_pb2.Route = await stub.RouteTask(onward, timeout=ASK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
                return None  # it is said here in the same words
            log.debug("the leader was not asked", extra={"leader": leader, "error": str(error)[:200]})
            return None
        return answer

    def dry_run(self, command: SubmitTask, strategy: str) -> tasks_pb2.Route:
        """Where the task would go if it were submitted now and were first in the queue."""
        pool = self._pool(strategy)
        return self._told(choose(command, pool, near=self._parts.me), pool)

    def explain(self, found: Found, strategy: str) -> tasks_pb2.Route:
        """Why a task waits, or how its node compares with the others now."""
        task, pool = found.task, self._pool(strategy)
        if task.state in TERMINAL:
            return self._head(pool)
        if task.state in HELD:
            _take_back(task, pool)
        route = self._told(choose(task, pool), pool)
        waits = wait_reason(self._parts.state(), task, self._parts.clock.now_ms())
        if waits.reason is not WaitReason.QUEUED:
            route.wait_reason, route.wait_detail = int(waits.reason), waits.detail  # type: ignore[assignment]
        elif not route.wait_detail:
            route.wait_reason = tasks_pb2.QUEUED
            route.wait_detail = "a node has room: its turn comes with the next plan"
        return route

    def _pool(self, strategy: str) -> Pool:
        parts = self._parts
        rules = parts.rules()
        if strategy and strategy not in STRATEGIES:
            known = ", ".join(sorted(STRATEGIES))
            raise invalid([Violation("strategy", f"{strategy!r} is not known; write one of {known}")])
        rules = replace(rules, strategy=strategy) if strategy else rules
        view = View(parts.clock.now_ms(), parts.book.loads(), leader=NodeId(parts.engine.leader))
        return Pool(parts.state(), view, rules, telling=True)

    def _head(self, pool: Pool) -> tasks_pb2.Route:
        parts = self._parts
        return tasks_pb2.Route(
            strategy=pool.rules.strategy,
            weights={name: getattr(pool.rules, name) for name in _WEIGHTS},
            decided_by=parts.me,
            applied_index=parts.engine.applied_index,
        )

    def _told(self, decision: Decision, pool: Pool) -> tasks_pb2.Route:
        route = self._head(pool)
        route.node = decision.chosen.node.node_id if decision.chosen is not None else ""
        route.wait_reason = int(decision.wait)  # type: ignore[assignment]
        route.wait_detail = decision.detail
        for ranked in decision.ranked:
            _add_ranked(route, ranked, chosen=ranked.candidate is decision.chosen)
        for refused in decision.refused:
            candidate = refused.candidate
            shown = route.candidates.add(
                node_id=candidate.node.node_id, held=candidate.held, capacity=candidate.node.capacity
            )
            for objection in refused.objections:
                shown.objections.add(filter=objection.filter, reason=objection.reason)
        return route


def _take_back(task: Task, pool: Pool) -> None:
    """Look at its node as if the task were not there."""
    candidate = pool.by_id.get(task.node_id)
    if candidate is not None:
        candidate.held -= 1
        wanted, taken = task.constraints, candidate.taken
        candidate.taken = replace(
            taken, memory_bytes=taken.memory_bytes - wanted.memory_bytes, gpus=taken.gpus - wanted.gpus
        )


def _add_ranked(route: tasks_pb2.Route, ranked: Ranked, *, chosen: bool) -> None:
    candidate = ranked.candidate
    shown = route.candidates.add(
        node_id=candidate.node.node_id,
        fit=True,
        chosen=chosen,
        held=candidate.held,
        capacity=candidate.node.capacity,
    )
    if ranked.cost != float("inf"):
        shown.cost = ranked.cost
    for term in ranked.terms:
        shown.terms.add(name=term.name, amount=term.amount, factor=term.factor, detail=term.detail)
    if ranked.objection is not None:
        shown.objections.add(filter=ranked.objection.filter, reason=ranked.objection.reason)
