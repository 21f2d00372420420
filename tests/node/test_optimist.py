"""Assignments that travel with what makes the tasks: ends of tasks in runs, and beginnings of runs."""

from __future__ import annotations

from coterie.core.commands import Accepted, AssignTask, FinishTask
from coterie.core.graph.reading import graph_bytes, read_graph
from coterie.core.nouns import Companion, Constraints, Data, NodeId, TaskId, TaskState
from coterie.core.routing import RoutingRules
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.run import WORKFLOW
from coterie.node.clock import Clock
from coterie.node.loads import LoadBook
from coterie.node.optimist import Optimist
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, World, echo


def optimist(world: World) -> Optimist:
    clock = Clock()
    return Optimist(
        NodeId("n1"), lambda: world.state, LoadBook(clock, 60_000), clock, lambda: "n1", RoutingRules
    )


def test_the_end_of_a_task_brings_along_where_the_next_ones_go() -> None:
    world = World()
    world.run(echo("a"), echo("b", "a"), echo("c", "a"))
    held = world.hold("a")
    with optimist(world).with_next(FinishTask(held.task_id, held.attempt, Data(b"1"))) as commands:
        assert [type(command) for command in commands] == [FinishTask, AssignTask, AssignTask]
    assert [world.do(command) for command in commands] == [
        Accepted(held.task_id),
        Accepted(TaskId("r~b~0")),
        Accepted(TaskId("r~c~0")),
    ]
    assert world.task("r~b~0").state is TaskState.SCHEDULED


def test_a_run_brings_along_where_its_first_tasks_go() -> None:
    world = World()
    world.with_node("n1", capacity=1)
    graph, _ = read_graph({"nodes": [echo("a"), echo("b"), echo("c", "a")]})
    command = RunWorkflow(submit_command(RUN, type=WORKFLOW, payload=Data(b"{}")), graph_bytes(graph))
    with optimist(world).with_next(command) as commands:
        assert [one.task_id for one in commands if isinstance(one, AssignTask)] == ["r~a~0"], "one slot"


def test_what_waits_in_the_queue_goes_first_and_promises_are_kept() -> None:
    world = World()
    world.run(echo("a"), echo("z"), echo("b", "a"))
    held = world.hold("a")
    end = FinishTask(held.task_id, held.attempt, Data(b"1"))
    hopeful = optimist(world)
    with hopeful.with_next(end) as commands:
        assert commands == [end], "z waits"
    world.hold("z")
    with hopeful.with_next(end) as first:
        assert len(first) == 2 and sum(hopeful._promised.values()) == 1
    assert not +hopeful._promised


def test_where_others_run_is_left_to_the_leader() -> None:
    world = World()
    world.with_node("n1", capacity=4)
    near = Constraints(companions=(Companion(type="echo", away=True, required=True),))
    submits = [submit_command("s1"), submit_command("s2", constraints=near)]
    with optimist(world).with_assignments(submits) as (commands, _):
        assert [one.task_id for one in commands if isinstance(one, AssignTask)] == ["s1"]
    graph, _ = read_graph({"nodes": [echo("a")]})
    command = RunWorkflow(
        submit_command(RUN, type=WORKFLOW, payload=Data(b"{}"), constraints=near), graph_bytes(graph)
    )
    with optimist(world).with_next(command) as commands:
        assert commands == [command]
