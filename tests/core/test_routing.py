"""Each filter and wish decides, and shows; gray nodes; waiting for a better node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coterie.core.breaker_commands import TripBreaker
from coterie.core.commands import (
    Accepted,
    AssignTask,
    ConfigureCluster,
    FailAttempt,
    FinishTask,
    MarkNode,
    Rejected,
)
from coterie.core.holdings import SESSION_KEPT_MS, SESSIONS_KEPT_MAX
from coterie.core.nouns import (
    Companion,
    Constraints,
    Data,
    Label,
    NodeId,
    NodeStatus,
    Policy,
    RetryPolicy,
    SkillRef,
    TaskError,
    TaskId,
    WaitReason,
)
from coterie.core.routing import Decision, NodeLoad, Pool, Round, RoutingRules, SkillLoad, choose
from coterie.core.routing.loads import PROBE_AFTER_MS, Measures
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, submit_command

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1", zone="a").with_node("n2", zone="b").with_node("n3", zone="b")


def decide(
    cluster: CoreCluster, view: View | None = None, rules: RoutingRules | None = None, **wanted: Any
) -> Decision:
    rules = rules or RoutingRules("least-loaded")
    pool = Pool(cluster.state, view or View(cluster.now_ms), rules, telling=True)
    return choose(submit_command("new", constraints=Constraints(**wanted)), pool)


def chosen(decision: Decision) -> str:
    return decision.chosen.node.node_id if decision.chosen else ""


def reasons(decision: Decision) -> dict[str, str]:
    return {r.candidate.node.node_id: "; ".join(o.reason for o in r.objections) for r in decision.refused}


def factor(decision: Decision, node_id: str, name: str) -> float:
    [ranked] = [r for r in decision.ranked if r.candidate.node.node_id == node_id]
    [term] = [t for t in ranked.terms if t.name == name]
    assert term.detail
    return term.factor


# --- filters


def test_memory_and_gpus_are_set_aside_and_given_back() -> None:
    cluster = CoreCluster().with_node("n1", memory_bytes=100, gpus=1)
    wanted = Constraints(memory_bytes=60, gpus=1)
    task = cluster.running("t1", constraints=wanted)
    cluster.do(submit_command("t2", constraints=wanted))
    full = decide(cluster, memory_bytes=60)
    assert full.wait is WaitReason.QUEUED and "memory: 40 of 100 bytes are free" in full.detail
    assert "GPUs: 0 of 1 are free" in decide(cluster, gpus=1).detail
    refused = cluster.assign("t2")
    assert isinstance(refused, Rejected) and refused.code == "NODE_FULL", "the state machine refuses it too"
    assert chosen(decide(cluster, memory_bytes=40)) == "n1"
    cluster.do(FinishTask(TaskId("t1"), task.attempt, Data()))
    assert cluster.state.indexes.reserved == {} and isinstance(cluster.assign("t2"), Accepted)


def test_a_node_that_says_nothing_about_its_memory_is_not_asked_for_any() -> None:
    assert chosen(decide(CoreCluster().with_node("n1"), memory_bytes=1 << 40)) == "n1"


def test_a_skill_in_another_revision_is_another_skill(cluster: CoreCluster) -> None:
    cluster.with_node("n2", skills=(SkillRef("echo", "2.0"),))
    decision = decide(cluster, skill_version="2.0")
    assert chosen(decision) == "n2"
    assert reasons(decision)["n1"] == "has skill echo in revision 1.0, not 2.0"


def test_only_the_coordinator_or_nobody(cluster: CoreCluster) -> None:
    assert chosen(decide(cluster, View(0, leader=N3), require_coordinator=True)) == "n3"
    nobody = decide(cluster, require_coordinator=True)
    assert nobody.wait is WaitReason.NO_NODE and "not known now" in nobody.detail


def test_what_is_too_far_away_is_refused_and_what_is_not_measured_is_not(cluster: CoreCluster) -> None:
    loads = {N2: NodeLoad(N2, 1, 0, rtt_ms={"n1": 80.0}), N1: NodeLoad(N1, 1, 0, rtt_ms={"n2": 70.0})}
    decision = decide(cluster, View(0, loads), max_latency_ms=50, origin="n1")
    assert reasons(decision) == {"n2": "is 80.0 ms away from n1, more than 50 ms"}
    assert {r.candidate.node.node_id for r in decision.ranked} == {"n1", "n3"}
    assert factor(decision, "n3", "latency") == 1.0
    assert (
        chosen(decide(cluster, View(0, {N1: loads[N1]}), max_latency_ms=75, origin="n1", target_node="n2"))
        == "n2"
    )


def trip(cluster: CoreCluster, *keys: str) -> CoreCluster:
    """A cluster whose breakers of these keys are open for ten seconds and more."""
    policy = Policy(breaker_failures=5, breaker_recovery_ms=10_000, breaker_probes=1)
    cluster.do(ConfigureCluster("c1", "test", policy))
    for key in keys:
        assert cluster.do(TripBreaker(key, 0, "5 failures")) == Accepted()
    return cluster


def test_open_breakers_are_waited_for(cluster: CoreCluster) -> None:
    assert chosen(decide(trip(cluster, "node:n1"))) == "n2"
    every = decide(trip(cluster, "skill:echo"))
    assert every.wait is WaitReason.CIRCUIT_OPEN
    assert "breaker skill:echo is open for" in every.detail and "5 failures" in every.detail


def test_breakers_of_other_skills_and_nodes_bother_nobody(cluster: CoreCluster) -> None:
    assert chosen(decide(trip(cluster, "skill:echo@n1", "skill:map", "node:n9"))) == "n2"


def test_a_round_gives_a_half_open_node_no_more_than_its_probes(cluster: CoreCluster) -> None:
    trip(cluster, "node:n1", "skill:echo@n2", "skill:echo@n3")
    view = View(max(b.until_ms for b in cluster.state.breakers.values()))
    placing = Round(cluster.state, view, RoutingRules("least-loaded"))
    found = [placing.place(submit_command(f"t{number}")) for number in range(4)]
    assert [one and one.chosen and one.chosen.node.node_id for one in found] == ["n1", "n2", "n3", None]


def test_a_round_sets_aside_what_it_has_given_away() -> None:
    cluster = CoreCluster().with_node("n1", capacity=9, memory_bytes=100, gpus=2)
    placing = Round(cluster.state, View(cluster.now_ms), RoutingRules("least-loaded"))
    tasks = [
        submit_command("t1", constraints=Constraints(memory_bytes=60)),
        submit_command("t2", constraints=Constraints(memory_bytes=60)),
        submit_command("t3", constraints=Constraints(memory_bytes=40, gpus=1)),
        submit_command("t4", constraints=Constraints(gpus=2)),
        submit_command("t5", constraints=Constraints(gpus=1)),
    ]
    assert [placing.place(task) is not None for task in tasks] == [True, False, True, False, True]


def test_a_companion_is_recognised_by_all_that_is_said_of_it(cluster: CoreCluster) -> None:
    cluster.running("t1", "n2", labels=(Label("job", "7"),))
    for wanted, where in (
        (Companion(type="echo", label_key="job", required=True), {"n2"}),
        (Companion(type="other", label_key="job", required=True), set()),
        (Companion(task_id=TaskId("t1"), required=True), {"n2"}),
        (Companion(task_id=TaskId("t9"), type="echo", required=True), set()),
    ):
        assert {"n1", "n2", "n3"} - set(reasons(decide(cluster, companions=(wanted,)))) == where


def test_standby_nodes_stand_in_for_as_many_as_are_missing() -> None:
    cluster = CoreCluster().with_node("n1").with_node("n2")
    cluster.with_node("s1", standby=True).with_node("s2", standby=True)
    assert reasons(decide(cluster)) == dict.fromkeys(
        ("s1", "s2"), "is on standby, and no other node is missing"
    )
    cluster.do(MarkNode(N1, 1, NodeStatus.DOWN))
    assert set(reasons(decide(cluster))) == {"n1", "s2"}
    cluster.do(MarkNode(N2, 1, NodeStatus.DOWN))
    assert set(reasons(decide(cluster))) == {"n1", "n2"}
    cluster.do(MarkNode(N1, 1, NodeStatus.UP))
    cluster.do(MarkNode(N2, 1, NodeStatus.UP))
    assert set(reasons(decide(cluster))) == {"s1", "s2"}, "back on standby"


def test_companions_may_be_a_condition(cluster: CoreCluster) -> None:
    cluster.running("t1", "n2", labels=(Label("job", "7"),))
    near = (Companion(label_key="job", label_value="7", required=True),)
    away = (Companion(type="echo", away=True, required=True, zone=True),)
    assert chosen(decide(cluster, companions=near)) == "n2"
    alone = decide(cluster, companions=away)
    assert (chosen(alone), set(reasons(alone))) == ("n1", {"n2", "n3"}), "n3 is in the zone of n2"
    gone = decide(cluster, companions=(Companion(task_id="t9", required=True),))
    assert gone.wait is WaitReason.NO_NODE and "none of the tasks" in gone.detail


@pytest.mark.parametrize(("zone", "expected"), [(False, ["n1", "n2", "n3"]), (True, ["n1", "n2"])])
def test_tasks_that_must_be_apart_are_so_when_one_round_places_them_all(
    zone: bool, expected: list[str], cluster: CoreCluster
) -> None:
    apart = Companion(label_key="app", label_value="db", away=True, required=True, zone=zone)
    wanted = {"labels": (Label("app", "db"),), "constraints": Constraints(companions=(apart,))}
    for number in range(5):
        cluster.do(submit_command(f"t{number}", **wanted))
    commands = plan(cluster.state, View(cluster.now_ms), PlanPolicy())
    assert [one.node_id for one in commands if isinstance(one, AssignTask)] == expected


# --- wishes


def test_every_wish_shows_and_moves_the_task(cluster: CoreCluster) -> None:
    cluster.running("t1", "n2")
    plain = RoutingRules("least-loaded")
    cases: list[tuple[Decision, str, str, str]] = [
        (decide(cluster, prefer_zone="b"), "n3", "zone", "n1"),
        (decide(cluster, prefer_node="n3"), "n3", "node", "n1"),
        (decide(cluster, prefer_node="n2"), "n2", "node", "n1"),
        (decide(cluster, rules=replace(plain, locality="same-zone"), origin="n3"), "n3", "zone", "n1"),
        (decide(cluster, rules=replace(plain, locality="cross-zone")), "n1", "cross-zone", "n3"),
        (decide(cluster, rules=replace(plain, anti_affinity=True)), "n1", "anti-affinity", "n2"),
        (decide(cluster, rules=replace(plain, affinity=True, affinity_factor=3.0)), "n2", "affinity", "n1"),
        (decide(cluster, companions=(Companion(task_id="t1"),)), "n2", "near to", "n1"),
        (decide(cluster, companions=(Companion(type="echo", away=True),)), "n1", "away from", "n2"),
    ]
    for decision, node_id, term, worse in cases:
        assert chosen(decision) == node_id, term
        assert factor(decision, worse, term) > 1.0, term


def test_affinity_has_bounds(cluster: CoreCluster) -> None:
    """Some tasks of a type gather, many spread."""
    rules = RoutingRules("least-loaded", affinity=True)
    big = CoreCluster().with_node("n1", capacity=20).with_node("n2", capacity=20)
    placing = Round(big.state, View(0), rules)
    for number in range(20):
        assert placing.place(submit_command(f"t{number}")) is not None
    held = {c.node.node_id: c.held for c in placing.pool.candidates}
    assert min(held.values()) >= 8, held


def test_a_session_is_at_home_where_it_last_ran_while_that_is_remembered(cluster: CoreCluster) -> None:
    cluster.running("t1", "n3", constraints=Constraints(session="s"))
    assert chosen(decide(cluster, session="s")) == "n3", "half a slot more does not drive it away"
    assert factor(decide(cluster, session="s"), "n1", "session") == 4.0
    later = View(cluster.now_ms + SESSION_KEPT_MS + 1)
    assert chosen(decide(cluster, later, session="s")) == "n1"
    cluster.now_ms += SESSION_KEPT_MS + 1
    cluster.running("t2", "n1", constraints=Constraints(session="other"))
    assert list(cluster.state.anchors) == ["other"], "forgotten by the next assignment"


def test_sessions_are_kept_within_a_limit(cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SESSIONS_KEPT_MAX == 50_000
    monkeypatch.setattr("coterie.core.holdings.SESSIONS_KEPT_MAX", 2)
    for number in range(4):
        cluster.running(f"t{number}", "n1", constraints=Constraints(session=f"s{number}"))
    assert list(cluster.state.anchors) == ["s2", "s3"]


# --- measurement


def loads(**service_ms: SkillLoad) -> dict[NodeId, NodeLoad]:
    return {NodeId(n): NodeLoad(NodeId(n), 1, 0, skills={"echo": load}) for n, load in service_ms.items()}


def test_a_gray_node_gets_one_task_now_and_then() -> None:
    usual, gray = SkillLoad(100.0), SkillLoad(1_000.0, 9, idle_ms=2_000)
    cluster = CoreCluster().with_node("n1").with_node("n2").with_node("n3")
    rules = RoutingRules("adaptive")
    sick = View(0, loads(n1=gray, n2=usual, n3=usual))
    assert chosen(decide(cluster, sick, rules)) == "n2"
    assert factor(decide(cluster, sick, rules), "n1", "gray") == 3.0
    due = View(0, loads(n1=replace(gray, idle_ms=PROBE_AFTER_MS), n2=usual, n3=usual))
    assert chosen(decide(cluster, due, rules)) == "n1", "to see"
    cluster.running("t1", "n1")
    assert chosen(decide(cluster, due, rules)) == "n2", "one at a time"
    assert factor(decide(cluster, due, rules), "n1", "gray") > 3.0
    well = View(0, loads(n1=replace(gray, service_ms=150.0), n2=usual, n3=usual))
    assert not [t for r in decide(cluster, well, rules).ranked for t in r.terms if t.name == "gray"]


def test_a_gray_node_still_takes_what_only_it_may_run() -> None:
    cluster = CoreCluster().with_node("n1").with_node("n2").with_node("n3")
    view = View(0, loads(n1=SkillLoad(9_000.0), n2=SkillLoad(10.0), n3=SkillLoad(10.0)))
    assert chosen(decide(cluster, view, RoutingRules("adaptive"), target_node="n1")) == "n1"


def test_a_stuck_node_is_found_though_it_finishes_nothing() -> None:
    stuck = SkillLoad(100.0, 9, idle_ms=5_000, running=4, running_ms=5_000.0)
    busy = SkillLoad(100.0, 9, idle_ms=50, running=4, running_ms=5_000.0)  # one long task among short ones
    assert Measures(loads(n1=stuck, n2=SkillLoad(100.0), n3=SkillLoad(100.0))).is_gray(N1)
    assert not Measures(loads(n1=busy, n2=SkillLoad(100.0), n3=SkillLoad(100.0))).is_gray(N1)


def test_only_a_gray_node_is_tried_to_see_how_it_is() -> None:
    gray, usual = SkillLoad(1_000.0, 9, idle_ms=PROBE_AFTER_MS), SkillLoad(100.0, 9, idle_ms=PROBE_AFTER_MS)
    measures = Measures(loads(n1=gray, n2=usual, n3=usual))
    assert [measures.wants_probe(one) for one in (N1, N2, NodeId("unheard"))] == [True, False, False]


def test_what_is_not_measured_again_fades() -> None:
    def expected(idle_ms: int) -> float:
        known = loads(n1=SkillLoad(200.0, 9, idle_ms), n2=SkillLoad(100.0), n3=SkillLoad(100.0))
        return Measures(known).service_ms(N1, "echo")

    assert expected(0) == 200.0
    assert expected(10_000) == pytest.approx(150.0)
    assert expected(60_000) == pytest.approx(100.0, abs=2.0)
    assert Measures({}).service_ms(N1, "echo") == 100.0, "nobody knows"


# --- waiting for a better node


def test_a_task_waits_for_a_fast_node_rather_than_take_a_very_slow_one() -> None:
    cluster = (
        CoreCluster().with_node("fast", capacity=2).with_node("slow", capacity=2).with_node("x", capacity=1)
    )
    cluster.do(MarkNode(NodeId("x"), 1, NodeStatus.DOWN))
    for number in range(2):
        cluster.running(f"t{number}", "fast")
    view = View(cluster.now_ms, loads(fast=SkillLoad(100.0), slow=SkillLoad(2_000.0), x=SkillLoad(100.0)))
    decision = decide(cluster, view, RoutingRules("adaptive"))
    assert decision.chosen is None and decision.wait is WaitReason.QUEUED
    assert "it waits for fast" in decision.detail and decision.better_off > 1
    near = replace(view, loads=loads(fast=SkillLoad(100.0), slow=SkillLoad(140.0), x=SkillLoad(100.0)))
    assert chosen(decide(cluster, near, RoutingRules("adaptive"))) == "slow", "not worth the wait"
    unknown = replace(view, loads=loads(slow=SkillLoad(2_000.0)))
    assert chosen(decide(cluster, unknown, RoutingRules("adaptive"))) == "slow", "no guess makes a task wait"


def test_a_long_queue_reaches_the_slow_node_too() -> None:
    """Those in front wait for the fast node; for one far behind the slow node is sooner."""
    cluster = CoreCluster().with_node("fast", capacity=2).with_node("slow", capacity=2).with_node("x")
    cluster.do(MarkNode(NodeId("x"), 1, NodeStatus.DOWN))
    for number in range(2):
        cluster.running(f"t{number}", "fast")
    view = View(cluster.now_ms, loads(fast=SkillLoad(100.0), slow=SkillLoad(1_000.0), x=SkillLoad(100.0)))
    placing = Round(cluster.state, view, RoutingRules("adaptive"))
    placed = [placing.place(submit_command(f"q{number}")) for number in range(200)]
    first = next(place for place, decision in enumerate(placed) if decision is not None)
    found = placed[first]
    assert 3 <= first <= 100 and found is not None and chosen(found) == "slow"
    for number in range(first):
        cluster.do(submit_command(f"q{number}"))
    cluster.do(submit_command("only-there", constraints=Constraints(target_node="slow")))
    policy = PlanPolicy(routing=RoutingRules("adaptive"))
    given = [c for c in plan(cluster.state, view, policy) if isinstance(c, AssignTask)]
    assert [(c.task_id, c.node_id) for c in given] == [("only-there", "slow")], "none is held up by those"


def test_an_assignment_carries_its_turn(cluster: CoreCluster) -> None:
    cluster.do(submit_command("new"))
    decision = decide(cluster, rules=RoutingRules("round-robin"))
    assert decision.assignment(TaskId("new"), 1) == AssignTask(TaskId("new"), N1, 1, 1, turn=1)
    cluster.do(decision.assignment(TaskId("new"), 1))
    assert cluster.state.nodes[N1].turn == 1
    assert chosen(decide(cluster, rules=RoutingRules("round-robin"))) == "n2"
    assert decide(cluster, rules=RoutingRules("hash")).turn == 0


def test_a_task_goes_where_its_process_has_not_died_yet() -> None:
    """A task that only ever crashed the fastest node would never be known as poison."""
    cluster = CoreCluster().with_node("n1").with_node("n2").with_node("n3")
    died: list[str] = []
    retry = RetryPolicy(attempts_max=10, backoff_initial_ms=1, backoff_max_ms=1)
    cluster.do(submit_command("t1", retry=retry))
    for _ in range(3):
        cluster.now_ms += 10
        task = cluster.state.tasks[TaskId("t1")]
        pool = Pool(cluster.state, View(cluster.now_ms), RoutingRules("least-loaded"), telling=True)
        decision = choose(task, pool)
        node_id = chosen(decision)
        assert node_id not in died
        assert all(factor(decision, one, "crashed") > 1.0 for one in died)
        cluster.assign("t1", node_id)
        attempt = cluster.state.tasks[TaskId("t1")].attempt
        cluster.do(FailAttempt(TaskId("t1"), attempt, TaskError("SKILL_CRASHED", "SIGABRT"), 0))
        died.append(node_id)
    assert sorted(died) == ["n1", "n2", "n3"]
    assert cluster.types("t1")[-1] == "dead_lettered"
