"""Runs of large graphs begin when every node has had time to read them, and read nothing when submitted."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.commands import Accepted, CancelTask, PauseTask, Rejected, ResumeTask
from coterie.core.graph import reading
from coterie.core.nouns import Data, TaskState
from coterie.core.runs.commands import AddNodes, RunWorkflow
from coterie.core.runs.outline import LARGE_BYTES, known_outline, reading_ms
from coterie.core.runs.run import WORKFLOW, Phase
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, World, echo, raw

PAD = "x" * LARGE_BYTES


def large(**graph: Any) -> World:
    world = World()
    assert isinstance(world.run(echo("a", input=PAD), echo("b", "a", input="{{ a }}"), **graph), Accepted)
    return world


def begun(world: World) -> World:
    world.pass_time(reading_ms(len(world.state.runs[RUN].head.graph)))
    return world


def test_nothing_begins_before_its_time_has_come() -> None:
    world = large()
    assert world.open() == []
    assert world.state.runs[RUN].head.phase is Phase.NEW
    world.pass_time(1)
    assert world.open() == []
    begun(world)
    world.give("a", 1)
    world.give("b", 2)
    assert world.result() == {"b": 2}


def test_to_submit_one_reads_nothing() -> None:
    world = World()
    graph = raw({"nodes": [echo("a", input=PAD)]})
    for remembered in (reading.small_graph_of, reading.large_graph_of):
        remembered.cache_clear()
    known_outline.cache_clear()
    submit = submit_command(RUN, type=WORKFLOW, payload=Data(b"{}"))
    assert isinstance(world.do(RunWorkflow(submit, graph)), Accepted)
    assert reading.small_graph_of.cache_info().misses == reading.large_graph_of.cache_info().misses == 0


@pytest.mark.parametrize(
    ("graph", "payload", "told"),
    [
        (b'{"nodes":7,"name":"' + PAD.encode() + b'"}', b"{}", "nodes"),
        (b"[" + PAD.encode(), b"{}", "not JSON"),
        (b'{"nodes":[],"inputs":[{"name":"n"}],"name":"' + PAD.encode() + b'"}', b'{"m":1}', "not given n"),
    ],
)
def test_what_cannot_be_read_fails_when_it_should_begin(graph: bytes, payload: bytes, told: str) -> None:
    world = World().with_node("n1")
    assert isinstance(world, World)
    submit = submit_command(RUN, type=WORKFLOW, payload=Data(payload))
    assert isinstance(world.do(RunWorkflow(submit, graph)), Accepted)
    assert isinstance(world.do(AddNodes(RUN, graph)), Rejected)
    begun(world)
    task = world.ended()
    assert task.state is TaskState.FAILED
    assert task.error is not None
    assert task.error.code == "BAD_WORKFLOW"
    assert told in task.error.message


def test_it_may_be_cancelled_before_it_begins() -> None:
    world = large()
    world.do(CancelTask(RUN, "no more"))
    assert world.ended().state is TaskState.CANCELLED
    assert set(world.states().values()) == {"SKIPPED"}


def test_one_that_is_paused_begins_when_it_goes_on() -> None:
    world = large()
    world.do(PauseTask(RUN, "wait"))
    begun(world)
    assert world.open() == []
    world.do(ResumeTask(RUN))
    begun(world)
    assert world.open() == [f"{RUN}~a~0"]


def test_nodes_may_be_added_before_it_begins() -> None:
    world = large()
    assert isinstance(world.do(AddNodes(RUN, raw_nodes(echo("c", "b")))), Accepted)
    assert world.open() == []
    begun(world)
    for name in "abc":
        world.give(name, name)
    assert world.result() == {"c": "c"}


def raw_nodes(*nodes: dict[str, Any]) -> bytes:
    found, problems = reading.read_graph({"nodes": list(nodes)})
    assert problems == []
    return reading.graph_bytes(found)
