"""Kinds of task that no node takes are found out once, until the nodes are others: what stands behind very
many of them has its turn."""

from __future__ import annotations

import pytest

from coterie.core import scheduler
from coterie.core.commands import AssignTask, CancelTask, SetDrain
from coterie.core.nouns import Companion, Constraints, NodeId, TaskId
from coterie.core.routing import Round
from coterie.core.routing.round import KINDS_FREE, KINDS_MAX
from coterie.core.routing.unfit import SLACK, Unfit
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, register_command, submit_command

N1, N2 = NodeId("n1"), NodeId("n2")


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1").with_node("n2")


def queue(cluster: CoreCluster, *zones: str) -> None:
    for zone in zones:
        cluster.do(submit_command(f"in-{zone}", constraints=Constraints(zones=(zone,))))


def planned(cluster: CoreCluster, unfit: Unfit, leader: NodeId = N1) -> list[str]:
    view = View(cluster.now_ms, leader=leader, unfit=unfit)
    commands = plan(cluster.state, view, PlanPolicy())
    return [one.task_id for one in commands if isinstance(one, AssignTask)]


def test_what_stands_behind_very_many_of_them_has_its_turn(cluster: CoreCluster) -> None:
    queue(cluster, *(f"{number}" for number in range(2 * (KINDS_FREE + KINDS_MAX))))
    cluster.do(submit_command("last"))
    unfit = Unfit()
    assert [planned(cluster, unfit) for _ in range(3)] == [[], [], ["last"]]
    assert planned(cluster, Unfit()) == [], "who knows nothing begins at the first one"


def test_they_are_looked_at_once(cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    class Counted(Round):
        def place(self, task: object) -> object:  # type: ignore[override]
            looked.append(task.task_id)  # type: ignore[attr-defined]
            return super().place(task)  # type: ignore[arg-type]

    monkeypatch.setattr(scheduler, "Round", Counted)
    queue(cluster, "a", "b")
    unfit = Unfit()
    for _ in range(3):
        planned(cluster, unfit)
    assert looked == ["in-a", "in-b"]


def test_other_nodes_are_looked_at_anew(cluster: CoreCluster) -> None:
    queue(cluster, "a", "b")
    unfit = Unfit()
    assert planned(cluster, unfit) == [] and len(unfit) == 2
    cluster.do(register_command("n3", zone="b"))
    assert planned(cluster, unfit) == ["in-b"]
    cluster.do(SetDrain(NodeId("n3"), True))
    assert planned(cluster, unfit) == [] and len(unfit) == 2
    cluster.do(SetDrain(NodeId("n3"), False))
    assert planned(cluster, unfit) == ["in-b"]


def test_another_leader_is_another_coordinator(cluster: CoreCluster) -> None:
    wanted = Constraints(require_coordinator=True, target_node="n2")
    cluster.do(submit_command("t", constraints=wanted))
    unfit = Unfit()
    assert planned(cluster, unfit) == [] and len(unfit) == 1
    assert planned(cluster, unfit, N2) == ["t"]


def test_what_other_tasks_may_change_is_not_taken_for_lasting(cluster: CoreCluster) -> None:
    near = Constraints(companions=(Companion(task_id="first", required=True),))
    cluster.do(submit_command("second", constraints=near))
    unfit = Unfit()
    assert planned(cluster, unfit) == [] and not len(unfit)
    cluster.running("first")
    assert planned(cluster, unfit) == ["second"]


def test_groups_that_are_gone_are_forgotten(cluster: CoreCluster) -> None:
    unfit, zones = Unfit(), [f"{number}" for number in range(3 * SLACK)]
    queue(cluster, *zones)
    planned(cluster, unfit)
    assert len(unfit) == len(zones)
    for zone in zones[1:]:
        cluster.do(CancelTask(TaskId(f"in-{zone}"), "enough"))
    planned(cluster, unfit)
    assert len(unfit) == 1
