"""A plan has time for so many looks at kinds of task that no node takes; tenants share them."""

from __future__ import annotations

import pytest

from coterie.core.commands import AssignTask
from coterie.core.nouns import Companion, Constraints, TaskId
from coterie.core.routing import RoutingRules
from coterie.core.routing.round import KINDS_MOST, Round
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, submit_command


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1", capacity=2)


def chosen(cluster: CoreCluster) -> list[str]:
    """What the plan assigns, without carrying it out."""
    commands = plan(cluster.state, View(cluster.now_ms), PlanPolicy())
    return [command.task_id for command in commands if isinstance(command, AssignTask)]


@pytest.mark.parametrize(("tenants", "kinds"), [(1, 751), (12, 75)])
def test_kinds_of_task_that_no_node_takes_keep_nobody_else_waiting(
    tenants: int, kinds: int, cluster: CoreCluster
) -> None:
    for number in range(tenants * kinds):
        wanted = Constraints(zones=(f"nowhere-{number}",))
        for priority in (1, 2):  # of one kind, which is looked at once
            name = f"a{number}-{priority}"
            tenant = f"a{number % tenants}"
            cluster.do(submit_command(name, tenant=tenant, constraints=wanted, priority=priority))
    cluster.do(submit_command("z", tenant="z"))
    assert chosen(cluster) == ["z"], "tenants that run nothing go first in every plan"


def test_tasks_that_wait_for_others_do_not_put_their_tenant_behind_all_others(cluster: CoreCluster) -> None:
    """Each is of a kind of its own, and that no node takes it now is not for good."""
    for number in range(60):
        wanted = Constraints(companions=(Companion(task_id=TaskId(f"gone{number}"), required=True),))
        cluster.do(submit_command(f"a{number}", tenant="a", constraints=wanted))
    cluster.do(submit_command("plain", tenant="a"))
    for number in range(9):
        for place in range(9):
            cluster.do(submit_command(f"t{number}-{place}", tenant=f"t{number}"))
    assert "plain" in chosen(cluster)


def test_a_plan_takes_so_many_looks_and_no_more(cluster: CoreCluster) -> None:
    for number in range(50):
        for place in range(50):
            wanted = Constraints(zones=(f"nowhere-{number}-{place}",))
            cluster.do(submit_command(f"t{number}-{place}", tenant=f"t{number}", constraints=wanted))
    round_ = Round(cluster.state, View(cluster.now_ms), RoutingRules())
    looks = 0
    for task in list(cluster.state.tasks.values()):
        looks += not round_.over
        if not round_.over:
            round_.place(task)
    assert looks == KINDS_MOST
