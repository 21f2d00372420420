"""What runs make counts like everything else: quotas bind it, and one entry does only so much."""

from __future__ import annotations

from typing import Any

from coterie.core.commands import Accepted, ConfigureCluster, ExpireTask, SetTenant
from coterie.core.machine import apply
from coterie.core.nouns import ExpiryKind, Policy, TaskId, TaskState
from coterie.core.quotas import Tenant
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.run import WORKFLOW
from coterie.core.runs.walk import BEGUN_WORK, WORK_MAX
from coterie.core.state import Moment
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, World, echo, raw

BEGUN_MAX = WORK_MAX // BEGUN_WORK


def each(count: int, **more: Any) -> dict[str, Any]:
    return {"id": "m", "type": "map", "over": list(range(count)), "window": count, **more}


def nested(count: int, depth: int) -> dict[str, Any]:
    inner = each(count, skill="echo") if depth == 1 else nested(count, depth - 1)
    return each(count, body={"nodes": [inner]})


def bounded(queued_max: int) -> World:
    world = World()
    world.do(SetTenant(Tenant("default", weight=1, pending_tasks_max=queued_max)))
    return world


def finish_all(world: World, rounds: int) -> None:
    """Tasks end one after the other, and time passes, until the run has ended."""
    for _ in range(rounds):
        if RUN not in world.state.tasks:
            return
        for name in world.open()[:3]:
            world.give(name, 1)
        world.pass_time(1)


def test_a_map_begins_as_many_as_the_quota_leaves_room_for() -> None:
    world = bounded(10)
    world.run(each(50, skill="echo"))
    assert world.state.indexes.queued_of("default") == 10
    world.give("r~m~0", 0)
    assert world.state.indexes.queued_of("default") == 10, "a place that is free is taken"
    finish_all(world, 100)
    assert len(world.result()["m"]) == 50


def test_room_that_others_leave_is_found_by_the_clock() -> None:
    world = bounded(10)
    for number in range(8):
        world.do(submit_command(f"other{number}"))
    world.run(each(5, skill="echo"))
    assert world.open().count("r~m~1") == 0 and world.task("r~m~0").state is TaskState.PENDING
    for number in range(8):
        world.assign(f"other{number}")
    world.pass_time(60_000)
    assert sum(name.startswith("r~m~") for name in world.open()) == 5


def test_maps_inside_maps_keep_to_the_quota_and_come_to_their_end() -> None:
    """Runs count too: when nothing but runs is queued, each of them may still have one task under way."""
    world, most = bounded(4), 0
    world.run(nested(4, depth=3))
    for _ in range(2_000):
        if RUN not in world.state.tasks:
            break
        most = max(most, world.state.indexes.queued_of("default"))
        finish_all(world, 1)
    assert world.result() and most <= 4 * 4, "one task of each run beyond the quota, in each generation"


def test_a_full_cluster_leaves_each_run_one_task() -> None:
    world = World()
    world.do(ConfigureCluster("c", "c", Policy(pending_tasks_max=3)))
    world.run(*(echo(name) for name in "abcd"))
    assert len(world.open()) == 2
    finish_all(world, 20)
    assert world.result()


def test_bytes_that_live_tasks_hold_bound_runs_too() -> None:
    world = World()
    world.do(ConfigureCluster("c", "c", Policy(live_bytes_max=20_000)))
    world.run(each(20, skill="echo", input="x" * 4_000))
    assert len(world.open()) <= 5


def test_nodes_without_tasks_need_no_room() -> None:
    world = bounded(1)
    world.run(echo("a"), {"id": "c", "type": "condition", "expr": "true"}, echo("b", "c"))
    assert world.open() == ["r~a~0"] and world.state.runs[RUN].nodes["c"].outcome == "true"


def test_all_commands_of_an_entry_together_begin_only_so_much() -> None:
    world = World()
    graph = raw({"nodes": [each(BEGUN_MAX, skill="echo")], "max_parallel": BEGUN_MAX})
    submits = [submit_command(f"r{number}", type=WORKFLOW) for number in range(4)]
    moment = Moment(1, 1_000)
    assert all(isinstance(apply(world.state, RunWorkflow(one, graph), moment), Accepted) for one in submits)
    assert len(world.open()) <= BEGUN_MAX + 4
    for index in range(2, 8):
        moment, before = Moment(index, 1_000 + index), len(world.state.tasks)
        for one in submits:
            apply(world.state, ExpireTask(one.task_id, 0, ExpiryKind.WAIT), moment)
        assert len(world.state.tasks) - before <= BEGUN_MAX + 4
    assert len(world.open()) == 4 * BEGUN_MAX


def test_who_came_away_with_nothing_goes_first_in_the_next_entry() -> None:
    world = World()
    graph = raw({"nodes": [each(3 * BEGUN_MAX, skill="echo")], "max_parallel": 3 * BEGUN_MAX})
    for number in range(2):
        submit = submit_command(f"r{number}", type=WORKFLOW)
        apply(world.state, RunWorkflow(submit, graph), Moment(1, 1_000))
    first = world.state.tasks[TaskId("r0")]
    apply(world.state, ExpireTask(first.task_id, 0, ExpiryKind.WAIT), Moment(2, 1_001))
    waits = [task_id for _, task_id in world.state.indexes.waits.items()]
    assert waits == ["r1", "r0"]
