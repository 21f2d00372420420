"""Rebalancing: from the full to the empty, queued work first, and never to and fro."""

from __future__ import annotations

import random

import pytest

from coterie.core.agenda import Move, agenda
from coterie.core.commands import (
    Accepted,
    MoveTask,
    PauseTask,
    RecordStep,
    Rejected,
    ReleaseTask,
    SetDrain,
    StartTask,
)
from coterie.core.nouns import NO_DATA, Constraints, NodeId, TaskId, TaskState
from coterie.core.routing import RoutingRules
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, submit_command

N1, N2 = NodeId("n1"), NodeId("n2")
POLICY = PlanPolicy(rebalance_interval_ms=1_000, rebalance_share=0.75)


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster(now_ms=1_000_000).with_node("n1", capacity=4)


def fill(cluster: CoreCluster, count: int, node_id: str = "n1", begun: bool = True, **wanted: object) -> None:
    for _ in range(count):
        task_id = f"t{len(cluster.state.tasks)}"
        cluster.do(submit_command(task_id, **wanted))
        assert isinstance(cluster.assign(task_id, node_id), Accepted)
        if begun:
            cluster.do(StartTask(TaskId(task_id), cluster.task(task_id).attempt))


def moves(cluster: CoreCluster, policy: PlanPolicy = POLICY, due: bool = True) -> list[str]:
    found = plan(cluster.state, View(cluster.now_ms, rebalance=due), policy)
    return [command.task_id for command in found if isinstance(command, MoveTask)]


def test_a_full_node_hands_over_to_an_empty_one_what_it_began_last(cluster: CoreCluster) -> None:
    fill(cluster, 4)
    cluster.with_node("n2", capacity=4)
    assert moves(cluster) == ["t3", "t2"]
    assert moves(cluster, due=False) == []


def test_what_has_not_begun_goes_first(cluster: CoreCluster) -> None:
    fill(cluster, 1, begun=False)
    fill(cluster, 3)
    cluster.with_node("n2", capacity=4)
    assert moves(cluster) == ["t0", "t3"]


def test_nothing_moves_below_the_threshold_or_for_a_small_gain(cluster: CoreCluster) -> None:
    fill(cluster, 2)
    cluster.with_node("n2", capacity=4)
    assert moves(cluster) == []
    fill(cluster, 2)
    fill(cluster, 3, "n2")
    assert moves(cluster) == []


def test_a_move_gains_a_fifth_of_a_nodes_slots_or_is_not_made() -> None:
    for on_the_other, moved in ((8, []), (7, ["t9"])):
        cluster = CoreCluster(now_ms=1_000_000).with_node("n1", capacity=10)
        fill(cluster, 10)
        cluster.with_node("n2", capacity=10)
        fill(cluster, on_the_other, "n2")
        assert moves(cluster) == moved


def test_only_the_adaptive_strategy_moves_work(cluster: CoreCluster) -> None:
    fill(cluster, 4)
    cluster.with_node("n2", capacity=4)
    assert moves(cluster, PlanPolicy(RoutingRules("hash"), rebalance_share=0.75)) == []


def test_what_may_not_run_elsewhere_or_would_begin_anew_stays(cluster: CoreCluster) -> None:
    fill(cluster, 2, constraints=Constraints(target_node="n1"))
    fill(cluster, 2, checkpointing=False)
    cluster.with_node("n2", capacity=4)
    assert moves(cluster) == []


def test_running_work_stays_where_it_is_when_it_is_not_to_be_migrated(cluster: CoreCluster) -> None:
    fill(cluster, 3)
    fill(cluster, 1, begun=False)
    cluster.with_node("n2", capacity=4)
    policy = PlanPolicy(rebalance_interval_ms=1_000, rebalance_share=0.75, migrate_running=False)
    assert moves(cluster, policy) == ["t3"]


def test_a_draining_node_is_none_to_hand_over_to(cluster: CoreCluster) -> None:
    fill(cluster, 4)
    cluster.with_node("n2", capacity=4)
    cluster.do(SetDrain(N2, True, 1_000))
    assert moves(cluster) == []


def test_the_node_learns_of_it_and_the_next_attempt_does_not(cluster: CoreCluster) -> None:
    fill(cluster, 1)
    assert cluster.do(MoveTask(TaskId("t0"), 1, "n2 is emptier")) == Accepted(TaskId("t0"))
    assert agenda(cluster.state, N1, 1, {TaskId("t0"): 1}) == [Move(TaskId("t0"), 1)]
    assert cluster.do(MoveTask(TaskId("t0"), 1)) == Accepted(TaskId("t0"), duplicate=True)
    cluster.do(RecordStep(TaskId("t0"), 1, "s", NO_DATA))
    cluster.do(ReleaseTask(TaskId("t0"), 1, "another node has more room"))
    task = cluster.task("t0")
    assert (task.state, task.step_count, task.losses) == (TaskState.PENDING, 1, 0)
    cluster.assign("t0", "n1")
    assert not any(isinstance(action, Move) for action in agenda(cluster.state, N1, 1, {TaskId("t0"): 2}))
    outcome = cluster.do(MoveTask(TaskId("t0"), 1))
    assert isinstance(outcome, Rejected) and outcome.code == "FENCED"


def test_who_is_to_be_paused_is_not_moved_too(cluster: CoreCluster) -> None:
    fill(cluster, 1)
    cluster.do(PauseTask(TaskId("t0")))
    outcome = cluster.do(MoveTask(TaskId("t0"), 1))
    assert isinstance(outcome, Rejected) and outcome.code == "LEAVING"


def test_a_task_is_left_alone_for_two_intervals(cluster: CoreCluster) -> None:
    fill(cluster, 4)
    cluster.with_node("n2", capacity=4)
    [first, second] = moves(cluster)
    for task_id in (first, second):
        cluster.do(MoveTask(TaskId(task_id), 1))
    cluster.now_ms += 1_000
    assert first not in moves(cluster) and second not in moves(cluster)


@pytest.mark.parametrize("seed", range(30))
def test_it_comes_to_rest(seed: int) -> None:
    """On a random cluster whose tasks never end, with no memory of what was moved: in the end nothing moves,
    and no task has moved more often than there are nodes."""
    dice, cluster = random.Random(seed), CoreCluster(now_ms=1_000_000)
    for number in range(dice.randint(2, 5)):
        cluster.with_node(f"n{number}", capacity=dice.randint(1, 6))
        fill(cluster, dice.randint(0, cluster.state.nodes[NodeId(f"n{number}")].capacity), f"n{number}")
    policy = PlanPolicy(rebalance_interval_ms=0, rebalance_share=dice.choice([0.5, 0.75, 1.0]))
    moved: dict[str, int] = {}
    for _ in range(50):
        asked = [c for c in plan(cluster.state, View(cluster.now_ms, rebalance=True), policy)]
        if not asked:
            break
        for command in asked:
            outcome = cluster.do(command)
            if isinstance(command, MoveTask) and isinstance(outcome, Accepted):
                moved[command.task_id] = moved.get(command.task_id, 0) + 1
                cluster.do(ReleaseTask(command.task_id, command.attempt, "more room"))
    else:
        pytest.fail(f"still moving: {moved}")
    assert max(moved.values(), default=0) <= len(cluster.state.nodes)
