"""Nodes: registration, verdicts, drain; placement and the plan."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.agenda import Cancel, GiveBack, Start, Stop, agenda
from coterie.core.commands import (
    Accepted,
    AdvanceClock,
    AssignTask,
    CancelTask,
    ExpireTask,
    MarkNode,
    Rejected,
    ReleaseTask,
    SetDrain,
)
from coterie.core.nouns import (
    STOPPING,
    Constraints,
    Data,
    ExpiryKind,
    Label,
    NodeId,
    NodeStatus,
    SkillRef,
    TaskId,
    TaskState,
    WaitReason,
)
from coterie.core.routing import STRATEGIES, NodeLoad, Pool, RoutingRules, SkillLoad, choose, refusal
from coterie.core.scheduler import next_clock_ms, plan
from coterie.core.transitions import HELD, TERMINAL, TRANSITIONS, is_legal, mermaid
from coterie.core.view import PlanPolicy, View
from coterie.core.waiting import wait_reason
from tests.core.builders import CoreCluster, register_command, submit_command

N1, N2 = NodeId("n1"), NodeId("n2")
T1 = TaskId("t1")


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1").with_node("n2")


def loads(cluster: CoreCluster, **ages_ms: int) -> dict[NodeId, NodeLoad]:
    return {
        node_id: NodeLoad(node_id, node.incarnation, ages_ms.get(node_id, 0))
        for node_id, node in cluster.state.nodes.items()
    }


def planned(cluster: CoreCluster, **ages_ms: int) -> list[object]:
    return list(plan(cluster.state, View(cluster.now_ms, loads(cluster, **ages_ms)), PlanPolicy()))


def code(outcome: object) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def test_a_restarted_node_loses_its_tasks_at_once(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(register_command("n1", incarnation=2))
    assert (cluster.task().state, cluster.task().losses) == (TaskState.PENDING, 1)


def test_registering_again_in_the_same_incarnation_keeps_the_tasks(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.do(register_command("n1", incarnation=1, capacity=9))
    assert cluster.task().state is TaskState.RUNNING
    assert cluster.state.nodes[N1].capacity == 9


def test_a_late_registration_of_an_earlier_process_is_refused(cluster: CoreCluster) -> None:
    cluster.do(register_command("n1", incarnation=5))
    assert code(cluster.do(register_command("n1", incarnation=4))) == "STALE_NODE"


def test_a_node_marked_down_gives_up_everything_oldest_first(cluster: CoreCluster) -> None:
    for name in ("t3", "t1", "t2"):
        cluster.running(name)
    cluster.do(MarkNode(N1, 1, NodeStatus.DOWN, "silent"))
    assert [e.task.task_id for e in cluster.events if e.type == "released"] == ["t3", "t1", "t2"]
    assert cluster.do(MarkNode(N1, 1, NodeStatus.DOWN)) == Accepted(duplicate=True)


def test_verdicts_on_unknown_or_restarted_nodes_are_refused(cluster: CoreCluster) -> None:
    assert code(cluster.do(MarkNode(NodeId("n9"), 1, NodeStatus.DOWN))) == "NODE_NOT_FOUND"
    assert code(cluster.do(MarkNode(N1, 7, NodeStatus.DOWN))) == "STALE_NODE"
    assert code(cluster.do(SetDrain(NodeId("n9"), True))) == "NODE_NOT_FOUND"


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (MarkNode(N1, 1, NodeStatus.DOWN), "NODE_GONE"),
        (SetDrain(N1, True), "NODE_DRAINING"),
        (register_command("n1", incarnation=2), "NODE_GONE"),
    ],
)
def test_a_node_that_cannot_run_it_is_not_given_a_task(
    cluster: CoreCluster, spoil: MarkNode, expected: str
) -> None:
    cluster.do(submit_command())
    cluster.do(spoil)
    assert code(cluster.do(AssignTask(T1, N1, 1, 1))) == expected


def test_capacity_is_kept_by_the_state_machine(cluster: CoreCluster) -> None:
    cluster.do(register_command("n1", capacity=1))
    cluster.running("t1")
    cluster.do(submit_command("t2"))
    assert code(cluster.assign("t2", "n1")) == "NODE_FULL"


def test_an_assignment_must_name_the_next_attempt(cluster: CoreCluster) -> None:
    cluster.do(submit_command())
    assert code(cluster.do(AssignTask(T1, N1, 1, 2))) == "STALE_ASSIGNMENT"
    cluster.assign()
    assert code(cluster.do(AssignTask(T1, N2, 1, 1))) == "STALE_ASSIGNMENT"


def test_draining_again_can_only_bring_the_deadline_forward(cluster: CoreCluster) -> None:
    cluster.do(SetDrain(N1, True, 60_000))
    first = cluster.state.nodes[N1].drain_deadline_at_ms
    assert cluster.do(SetDrain(N1, True, 90_000)) == Accepted(duplicate=True)
    assert cluster.state.nodes[N1].drain_deadline_at_ms == first
    assert cluster.do(SetDrain(N1, True, 5)) == Accepted()
    assert cluster.state.nodes[N1].drain_deadline_at_ms == cluster.now_ms + 5


def test_draining_survives_a_restart_and_ends_on_request(cluster: CoreCluster) -> None:
    cluster.do(SetDrain(N1, True, 50))
    cluster.do(register_command("n1", incarnation=2))
    assert cluster.state.nodes[N1].draining
    assert cluster.do(SetDrain(N1, True)) == Accepted(duplicate=True)
    cluster.do(SetDrain(N1, False))
    assert not cluster.state.nodes[N1].draining


# --- placement


@pytest.mark.parametrize(
    ("constraints", "changes", "fragment"),
    [
        (Constraints(), {"skills": ()}, "lacks skill echo"),
        (Constraints(require_gpu=True), {}, "no GPU"),
        (Constraints(require_gpu=True), {"labels": (Label("gpu", "0"),)}, "no GPU"),
        (Constraints(require_gpu=True), {"labels": (Label("gpu", "1"),)}, ""),
        (Constraints(zones=("b",)), {"zone": "a"}, "zone a"),
        (Constraints(zones=("a",)), {"zone": "a"}, ""),
        (Constraints(labels=(Label("disk", "ssd"),)), {}, "disk=ssd"),
        (Constraints(labels=(Label("disk", "ssd"),)), {"labels": (Label("disk", "ssd"),)}, ""),
        (Constraints(target_node="n2"), {}, "target node"),
    ],
)
def test_hard_constraints(constraints: Constraints, changes: dict[str, Any], fragment: str) -> None:
    cluster = CoreCluster().with_node("n1", **changes)
    said = refusal("echo", constraints, cluster.state.nodes[N1])
    assert (fragment in said) if fragment else said == ""


def test_down_and_draining_nodes_are_refused(cluster: CoreCluster) -> None:
    cluster.do(MarkNode(N1, 1, NodeStatus.DOWN))
    cluster.do(SetDrain(N2, True))
    assert "down" in refusal("echo", Constraints(), cluster.state.nodes[N1])
    assert "draining" in refusal("echo", Constraints(), cluster.state.nodes[N2])


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_fills_the_cluster_and_no_more(strategy: str, cluster: CoreCluster) -> None:
    for number in range(12):
        cluster.do(submit_command(f"t{number}"))
    view = View(cluster.now_ms, loads(cluster))
    commands = plan(cluster.state, view, PlanPolicy(RoutingRules(strategy=strategy)))
    assert len(commands) == 8  # two nodes of four slots
    for command in commands:
        assert isinstance(cluster.do(command), Accepted)


def test_round_robin_and_least_loaded_spread_evenly(cluster: CoreCluster) -> None:
    for strategy in ("round-robin", "least-loaded", "adaptive"):
        for number in range(4):
            cluster.do(submit_command(f"{strategy}{number}"))
        view = View(cluster.now_ms, loads(cluster))
        chosen = [c.node_id for c in plan(cluster.state, view, PlanPolicy(RoutingRules(strategy=strategy)))]  # type: ignore[union-attr]
        assert sorted(chosen) == ["n1", "n1", "n2", "n2"]
        for number in range(4):
            cluster.do(CancelTask(TaskId(f"{strategy}{number}")))


def test_hash_keeps_a_type_on_one_node_and_moves_few_when_one_goes() -> None:
    skills = tuple(SkillRef(f"s{n}", "1") for n in range(200))
    cluster = CoreCluster()
    for node_id in ("n1", "n2", "n3"):
        cluster.with_node(node_id, skills=skills)
    for skill in skills:
        cluster.do(submit_command(skill.name, type=skill.name))
    tasks = list(cluster.state.tasks.values())

    def owners() -> dict[str, str]:
        pool = Pool(cluster.state, View(cluster.now_ms), RoutingRules(strategy="hash"))
        found = {t.type: choose(t, pool).chosen for t in tasks}
        return {name: best.node.node_id for name, best in found.items() if best is not None}

    before = owners()
    assert all(50 <= list(before.values()).count(n) <= 85 for n in ("n1", "n2", "n3"))
    cluster.do(MarkNode(NodeId("n3"), 1, NodeStatus.DOWN))
    after = owners()
    assert all(after[name] == owner for name, owner in before.items() if owner != "n3")


def test_adaptive_prefers_the_node_where_the_skill_is_fast(cluster: CoreCluster) -> None:
    cluster.do(submit_command())
    view = View(
        cluster.now_ms,
        {
            N1: NodeLoad(N1, 1, 0, skills={"echo": SkillLoad(900.0)}),
            N2: NodeLoad(N2, 1, 0, skills={"echo": SkillLoad(100.0)}),
        },
    )
    assert plan(cluster.state, view, PlanPolicy()) == [AssignTask(T1, N2, 1, 1)]


def test_adaptive_honours_a_preferred_zone_softly() -> None:
    cluster = CoreCluster().with_node("n1", zone="a").with_node("n2", zone="b", capacity=1)
    for name in ("t1", "t2"):
        cluster.do(submit_command(name, constraints=Constraints(prefer_zone="b")))
    commands = plan(cluster.state, View(cluster.now_ms, loads(cluster)), PlanPolicy())
    assert [c.node_id for c in commands] == ["n2", "n1"]  # type: ignore[union-attr]


# --- the plan


def test_high_priority_goes_first_and_equals_in_order(cluster: CoreCluster) -> None:
    for name, priority in (("low", 1), ("a", 2), ("b", 2), ("urgent", 4)):
        cluster.do(submit_command(name, priority=priority))
    chosen = [c.task_id for c in plan(cluster.state, View(cluster.now_ms, loads(cluster)), PlanPolicy())]  # type: ignore[union-attr]
    assert chosen == ["urgent", "a", "b", "low"]


def test_a_task_nobody_can_run_does_not_block_the_others(cluster: CoreCluster) -> None:
    cluster.do(submit_command("gpu", constraints=Constraints(require_gpu=True), priority=4))
    cluster.do(submit_command("plain"))
    assert planned(cluster) == [AssignTask(TaskId("plain"), N1, 1, 1)]
    gpu = cluster.task("gpu")
    waits = wait_reason(cluster.state, gpu, cluster.now_ms)
    reason, detail = waits.reason, waits.detail
    assert reason is WaitReason.NO_NODE
    assert "n1 has no GPU" in detail


def test_wait_reasons(cluster: CoreCluster) -> None:
    cluster.do(submit_command("later", start_delay_ms=500))
    cluster.do(submit_command("queued"))
    now = cluster.now_ms
    assert wait_reason(cluster.state, cluster.task("later"), now).reason is WaitReason.DELAYED
    assert wait_reason(cluster.state, cluster.task("queued"), now).reason is WaitReason.QUEUED
    cluster.assign("queued")
    assert wait_reason(cluster.state, cluster.task("queued"), now).reason is WaitReason.NONE
    empty = CoreCluster()
    empty.do(submit_command())
    assert wait_reason(empty.state, empty.task(), now).reason is WaitReason.NO_NODE


def test_a_silent_node_is_marked_down_before_anything_else(cluster: CoreCluster) -> None:
    cluster.do(submit_command())
    assert planned(cluster, n1=5_000) == [MarkNode(N1, 1, NodeStatus.DOWN, "no report for 5000 ms")]


def test_a_node_that_reports_again_comes_back_after_enough_reports(cluster: CoreCluster) -> None:
    cluster.do(MarkNode(N1, 1, NodeStatus.DOWN))
    view = View(cluster.now_ms, loads(cluster), fresh_reports={N1: 1})
    assert plan(cluster.state, view, PlanPolicy()) == []
    view = View(cluster.now_ms, loads(cluster), fresh_reports={N1: 2})
    assert plan(cluster.state, view, PlanPolicy()) == [MarkNode(N1, 1, NodeStatus.UP, "reports again")]


def test_a_node_nobody_has_heard_of_yet_gets_no_verdict(cluster: CoreCluster) -> None:
    assert plan(cluster.state, View(cluster.now_ms), PlanPolicy()) == []


def test_deadlines_and_start_times_come_due(cluster: CoreCluster) -> None:
    cluster.do(submit_command("t1", deadline_after_ms=100))
    cluster.do(submit_command("t2", start_delay_ms=50))
    assert next_clock_ms(cluster.state, cluster.now_ms) == cluster.task("t2").start_at_ms
    assert planned(cluster) == [AssignTask(T1, N1, 1, 1)]
    cluster.now_ms += 60
    advance = AdvanceClock(cluster.now_ms)
    assert planned(cluster) == [advance]
    cluster.do(advance)
    assert {c.task_id for c in planned(cluster)} == {"t1", "t2"}  # type: ignore[attr-defined]
    cluster.now_ms += 60
    assert planned(cluster) == [ExpireTask(T1, 0, ExpiryKind.DEADLINE)]
    assert next_clock_ms(CoreCluster().state, 0) == 0


def test_an_assignment_nobody_starts_is_taken_back(cluster: CoreCluster) -> None:
    cluster.do(submit_command())
    cluster.assign()
    cluster.now_ms += 20_000
    assert planned(cluster) == [ReleaseTask(T1, 1, "nobody started it", lost=True)]


def test_an_attempt_that_outlives_its_timeout_is_expired_by_the_coordinator(
    cluster: CoreCluster,
) -> None:
    cluster.running(attempt_timeout_ms=1_000)
    cluster.now_ms += 10_000
    assert planned(cluster) == [ExpireTask(T1, 1, ExpiryKind.ATTEMPT, 0)]


def test_a_draining_node_gives_back_what_it_has_not_started(cluster: CoreCluster) -> None:
    cluster.running("t1")
    cluster.do(submit_command("t2"))
    cluster.assign("t2", "n1")
    cluster.do(SetDrain(N1, True, 1_000))
    assert planned(cluster) == []  # it may run already, and its start be on its way: the node itself knows
    assert agenda(cluster.state, N1, 1, {T1: 1}) == [GiveBack(TaskId("t2"), 1)]
    assert agenda(cluster.state, N1, 1, {T1: 1, TaskId("t2"): 1}) == []


# --- the agenda


def test_the_agenda_compares_the_state_with_what_runs(cluster: CoreCluster) -> None:
    cluster.running("t1")
    cluster.running("t2")
    cluster.do(CancelTask(TaskId("t2")))
    running = {TaskId("t2"): 1, TaskId("gone"): 3}
    actions = agenda(cluster.state, N1, 1, running)
    assert actions == [
        Stop(TaskId("gone"), 3),
        Start(cluster.task("t1")),
        Cancel(TaskId("t2"), 1),
    ]
    assert agenda(cluster.state, N1, 1, {T1: 1, TaskId("t2"): 1}) == [Cancel(TaskId("t2"), 1)]


def test_an_older_attempt_is_stopped_before_the_new_one_starts(cluster: CoreCluster) -> None:
    cluster.running("t1")
    cluster.do(ReleaseTask(T1, 1, "x"))
    cluster.assign("t1", "n1")
    assert agenda(cluster.state, N1, 1, {T1: 1}) == [Stop(T1, 1), Start(cluster.task("t1"))]


def test_what_an_earlier_process_was_given_is_not_ours(cluster: CoreCluster) -> None:
    cluster.running("t1")
    assert agenda(cluster.state, N1, 2, {}) == []


# --- the table


def test_the_table_is_complete_and_terminal_states_are_left_by_nothing() -> None:
    assert set(TRANSITIONS) == set(TaskState)
    assert {s.name for s in TERMINAL} == {
        "SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "DEAD_LETTERED",
    }  # fmt: skip
    for before in TaskState:
        assert is_legal(before, before) == (before not in TERMINAL)
    assert not is_legal(TaskState.SUCCEEDED, TaskState.RUNNING)
    assert HELD.isdisjoint(TERMINAL)


def test_the_picture_shows_every_transition() -> None:
    picture = mermaid()
    for before, afters in TRANSITIONS.items():
        for after in afters:
            assert f"{before.name} --> {after.name}" in picture


def test_data_of_a_task_is_counted_while_it_lives(cluster: CoreCluster) -> None:
    cluster.running("t1", payload=Data(b"x" * 100))
    assert cluster.state.indexes.live_bytes == 100
    cluster.do(CancelTask(T1))
    cluster.do(ReleaseTask(T1, 1, "stopped"))
    assert cluster.state.indexes.live_bytes == 0


def test_a_node_that_said_it_stops_is_not_brought_back_by_its_last_reports(cluster: CoreCluster) -> None:
    cluster.do(MarkNode(N1, 1, NodeStatus.DOWN, STOPPING))
    view = View(cluster.now_ms, loads(cluster), fresh_reports={N1: 9, N2: 9})
    assert plan(cluster.state, view, PlanPolicy()) == []
    cluster.do(register_command("n1", incarnation=2))
    assert cluster.state.nodes[N1].status is NodeStatus.UP


def test_tasks_that_no_node_can_take_do_not_block_those_behind_them(cluster: CoreCluster) -> None:
    for number in range(3_000):
        cluster.do(submit_command(f"gpu{number}", priority=4, constraints=Constraints(require_gpu=True)))
    cluster.do(submit_command("plain", priority=1))
    assert [command.task_id for command in planned(cluster)] == ["plain"]  # type: ignore[attr-defined]
