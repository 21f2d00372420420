"""Dry runs and explanations: what the router says is what the plan does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from coterie.core.commands import FinishTask
from coterie.core.nouns import Constraints, Data, NodeId, TaskId
from coterie.core.routing import RoutingRules
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from coterie.node.errors import ApiError
from coterie.node.loads import LoadBook
from coterie.node.reads import Found
from coterie.node.routes import Router, RouterParts
from coterie.v1 import peer_pb2, tasks_pb2
from tests.core.builders import CoreCluster, submit_command
from tests.node.test_loads import FakeClock

ME = NodeId("n1")


class Desk:
    """A router over a core of our own."""

    def __init__(self, **rules: Any) -> None:
        self.core = (
            CoreCluster().with_node("n1", zone="a").with_node("n2", zone="b").with_node("n3", zone="b")
        )
        self.clock = FakeClock()
        self.clock.now_ms = lambda: self.core.now_ms  # type: ignore[method-assign]
        self.book = LoadBook(self.clock, 1_000)
        self.rules = RoutingRules(**rules)
        engine: Any = SimpleNamespace(leader="n1", is_leader=True, applied_index=41)
        channels: Any = SimpleNamespace(peers={})
        self.router = Router(
            RouterParts(
                ME, lambda: self.core.state, engine, self.book, channels, self.clock, lambda: self.rules
            )
        )

    def report(self, node_id: str, service_ms: float) -> None:
        report = peer_pb2.LoadReport(node_id=node_id, incarnation=1)
        report.skills.add(skill="echo", service_ms=service_ms, samples=9)
        self.book.note(report)

    def explained(self, task_id: str = "t1", strategy: str = "") -> tasks_pb2.Route:
        return self.router.explain(Found(self.core.task(task_id)), strategy)


def against(route: tasks_pb2.Route) -> dict[str, list[str]]:
    return {c.node_id: [o.reason for o in c.objections] for c in route.candidates}


def test_a_gpu_task_without_a_gpu_node_waits_with_the_reasons_of_every_node() -> None:
    desk = Desk()
    wanted = Constraints(require_gpu=True, zones=("a",))
    desk.core.do(submit_command("t1", constraints=wanted))
    route = desk.explained()
    assert (route.wait_reason, route.node) == (tasks_pb2.NO_NODE, "")
    assert against(route) == {
        "n1": ["has no GPU"],
        "n2": ["has no GPU", "is in zone b, not in a"],
        "n3": ["has no GPU", "is in zone b, not in a"],
    }
    for node_id in ("n1", "n2", "n3"):
        assert f"{node_id} has no GPU" in route.wait_detail
    assert desk.router.dry_run(submit_command("new", constraints=wanted), "").wait_reason == tasks_pb2.NO_NODE


@pytest.mark.parametrize("strategy", ["adaptive", "least-loaded", "round-robin", "hash"])
def test_the_explanation_is_the_plan(strategy: str) -> None:
    """The same function on the same sight: where the plan puts the first task, the explanation has put it."""
    desk = Desk(strategy=strategy)
    for node_id, service_ms in (("n1", 90.0), ("n2", 30.0), ("n3", 60.0)):
        desk.report(node_id, service_ms)
    for number in range(9):
        desk.core.do(submit_command(f"t{number}"))
        route = desk.explained(f"t{number}")
        view = View(desk.clock.now_ms(), desk.book.loads(), leader=ME)
        commands = plan(desk.core.state, view, PlanPolicy(desk.rules))
        assert [getattr(command, "node_id", "") for command in commands] == (
            [route.node] if route.node else []
        )
        assert [c.node_id for c in route.candidates if c.chosen] == ([route.node] if route.node else [])
        costs = [c.cost for c in route.candidates if c.HasField("cost")]
        assert costs == sorted(costs)
        if not commands:  # a slot on the fast node is worth waiting for, and both say so
            assert strategy == "adaptive" and "waits for n2" in route.wait_detail
            return
        desk.core.do(commands[0])


def test_every_term_adds_up_to_the_cost() -> None:
    desk = Desk(affinity=True, locality="cross-zone")
    desk.report("n2", 50.0)
    desk.core.running("t0", "n2")
    task = submit_command("new", constraints=Constraints(prefer_zone="b", session="s"))
    route = desk.router.dry_run(task, "")
    assert {t.name for t in route.candidates[0].terms} >= {"service", "slots", "cpu", "zone", "affinity"}
    for candidate in route.candidates:
        factor = 1.0
        for term in candidate.terms:
            factor *= term.factor
            assert term.detail
        assert candidate.cost == pytest.approx(sum(t.amount for t in candidate.terms) * factor)
    assert route.weights["zone_factor"] == 1.5 and route.applied_index == 41


def test_a_task_that_runs_is_compared_as_if_it_were_not_there_yet() -> None:
    desk = Desk(strategy="least-loaded")
    task = desk.core.running("t1", "n1")
    route = desk.explained()
    assert {c.node_id: c.held for c in route.candidates} == {"n1": 0, "n2": 0, "n3": 0}
    assert route.node == "n1" and route.wait_reason == tasks_pb2.WAIT_REASON_UNSPECIFIED
    desk.core.do(FinishTask(TaskId("t1"), task.attempt, Data()))
    assert not desk.explained().candidates


def test_waiting_has_its_own_reasons() -> None:
    desk = Desk()
    desk.core.do(submit_command("later", start_delay_ms=60_000))
    assert desk.explained("later").wait_reason == tasks_pb2.DELAYED
    for number in range(12):
        desk.core.running(f"r{number}", f"n{number % 3 + 1}")
    desk.core.do(submit_command("t1"))
    route = desk.explained()
    assert route.wait_reason == tasks_pb2.QUEUED and "n1 is full (4 of 4 slots)" in route.wait_detail


def test_another_strategy_may_be_asked_for_and_an_unknown_one_is_refused() -> None:
    desk = Desk()
    assert desk.router.dry_run(submit_command("new"), "hash").strategy == "hash"
    with pytest.raises(ApiError, match="adaptive, hash, least-loaded, round-robin"):
        desk.router.dry_run(submit_command("new"), "best")


def test_what_depends_on_the_node_that_takes_a_task_is_stamped_on_it() -> None:
    desk = Desk()
    plain = submit_command("new")
    assert desk.router.stamped(plain, same_zone=False) is plain, "nothing is stamped that nobody asks for"
    assert desk.router.stamped(plain, same_zone=True).constraints.prefer_zone == "a"
    assert desk.router.stamped(plain, same_zone=True, origin="n2").constraints.prefer_zone == "b"
    near = submit_command("new", constraints=Constraints(max_latency_ms=5))
    assert desk.router.stamped(near, same_zone=False).constraints.origin == "n1"
    local = Desk(locality="same-zone")
    assert local.router.stamped(plain, same_zone=False).constraints.origin == "n1"
    assert local.router.dry_run(local.router.stamped(plain, same_zone=False), "").node == "n1"
