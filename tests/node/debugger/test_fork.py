"""A fork goes on from its point with what was completed before; everything wrong with one is said at once."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from coterie.core.commands import Accepted, RecordStep
from coterie.core.graph.model import Graph, GraphNode, NodeType, OnFailure
from coterie.core.graph.reading import graph_bytes, graph_of
from coterie.core.nouns import Data, Step, TaskId, TaskState
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.run import WORKFLOW
from coterie.node.debugger.fork import Changes, Fork, fork_run, fork_task, read_changes
from coterie.node.errors import Violation
from coterie.node.workflows.runs import done_anew, graph_left_by, kept_steps
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, World, echo
from tests.sim.workflows.drive import Drive, table_of
from tests.sim.workflows.graphs import random_graph
from tests.sim.workflows.reference import Interpreter, Meaning

ORDERLY = (OnFailure.CONTINUE, OnFailure.SKIP_DEPENDENTS)  # where the order of ends does not matter


def steps_of(cluster: Any, task_id: str) -> tuple[Step, ...]:
    """Of an ended task, as its last event told them."""
    return next(event.steps for event in reversed(cluster.events) if event.task.task_id == task_id)


def forked(world: World, node: str, **changes: Any) -> Fork:
    task = world.ended()
    texts = {name: json.dumps(value) for name, value in changes.items()}
    made = fork_run(graph_left_by(task)[0], task.payload, steps_of(world, RUN), node, read_changes(texts))
    assert isinstance(made, Fork), made
    return made


def begin(world: World, made: Fork, graph: Graph) -> None:
    """The fork as a run f of its own."""
    submit = submit_command(
        "f", type=WORKFLOW, payload=made.payload, steps=made.steps, forked_from="r@somewhere"
    )
    assert world.do(RunWorkflow(submit, graph_bytes(graph))) == Accepted(TaskId("f"))


def three(world: World) -> Graph:
    world.run(
        echo("a", output_var="draft"),
        echo("b", "a", input="{{ draft }} for {{ who }}"),
        echo("c", "b", input={"text": "{{ b }}", "draft": "{{ draft }}", "who": "{{ who }}"}),
        inputs=[{"name": "who"}],
        given={"who": "Ann"},
    )
    for name, given in (("a", "one"), ("b", "two"), ("c", "three")):
        world.give(name, given)
    return graph_left_by(world.ended())[0]


def test_a_fork_does_its_node_again_and_nothing_before_it() -> None:
    world = World()
    graph = three(world)
    begin(world, forked(world, "c", who="Bob", draft="new"), graph)
    task = world.task("f")
    assert task.forked_from == "r@somewhere" and not task.retry_of
    assert world.open() == ["f~c~0"]
    payload = json.loads(world.task("f~c~0").payload.inline)
    assert payload == {"text": "two", "draft": "new", "who": "Bob"}
    first = next(event for event in world.events if event.task.task_id == "f")
    assert first.detail == "forked from r@somewhere"


def wrong_with(made: Fork | list[Violation]) -> dict[str, str]:
    assert not isinstance(made, Fork)
    return {one.field: one.description for one in made}


def test_everything_wrong_with_a_fork_is_said_at_once() -> None:
    world = World()
    graph = three(world)
    steps, payload = steps_of(world, RUN), world.ended().payload
    texts = {"who": "7", "nobody": "1", "draft": '{"a": 1}', "b": '"x"', "bad": "{"}
    wrong = wrong_with(fork_run(graph, payload, steps, "b", read_changes(texts)))
    assert wrong.keys() == {"set.who", "set.nobody", "set.draft", "set.b", "set.bad"}
    assert wrong["set.who"] == "is a number, and who is a text here"
    assert wrong["set.nobody"] == "no such variable; there are who, draft"
    assert "done again; fork at a later node" in wrong["set.b"]
    wrong = wrong_with(fork_run(graph, payload, steps, "z", read_changes({"who": "7"})))
    assert wrong == {"at": "no node 'z' in this run; there are a, b, c", "set.who": wrong["set.who"]}


def test_what_did_not_succeed_is_done_anew_in_a_fork_and_cannot_be_set() -> None:
    world = World()
    world.run(echo("a"), echo("b"), echo("c", "a"), on_failure="skip-dependents")
    world.fail("b")
    world.give("a")
    world.give("c")
    graph = graph_left_by(world.ended())[0]
    made = fork_run(graph, Data(b"{}"), steps_of(world, RUN), "c", read_changes({"b": "1"}))
    assert "has not succeeded" in wrong_with(made)["set.b"]
    begin(world, forked(world, "c"), graph)
    assert world.open() == ["f~b~0", "f~c~0"]


def test_an_undo_is_no_point_to_fork_at() -> None:
    world = World()
    undo = {"id": "undo", "type": "compensate", "compensates": "a", "skill": "echo"}
    world.run(echo("a"), undo, on_failure="compensate")
    world.give("a")
    graph = graph_left_by(world.ended())[0]
    made = fork_run(graph, Data(b"{}"), steps_of(world, RUN), "undo", read_changes({}))
    assert "undoes a" in wrong_with(made)["at"]


def shop(world: World) -> Graph:
    """Pays, cannot ship, and is given the money back."""
    refund = {"id": "refund", "type": "compensate", "compensates": "charge", "skill": "echo"}
    nodes = (echo("ask"), echo("charge", "ask"), echo("pack", "charge"), echo("ship", "pack"), refund)
    world.run(*nodes, on_failure="compensate")
    for name in ("ask", "charge", "pack"):
        world.give(name)
    world.fail("ship")
    run = world.state.runs[RUN]
    during = fork_run(graph_of(run.head.graph), Data(b"{}"), world.state.steps[RUN], "ship", Changes({}), run)
    assert isinstance(during, Fork) and [step.key for step in during.steps] == ["ask"]
    world.give("refund")
    return graph_left_by(world.ended())[0]


def test_what_was_undone_is_done_again_in_a_fork_with_all_that_stands_on_it() -> None:
    world = World()
    graph = shop(world)
    made = forked(world, "ship")
    assert [step.key for step in made.steps] == ["ask"]
    refused = fork_run(graph, Data(b"{}"), steps_of(world, RUN), "ship", read_changes({"charge": "1"}))
    assert "was undone; it is done again" in wrong_with(refused)["set.charge"]
    begin(world, made, graph)
    assert world.open() == ["f~charge~0"]


@pytest.mark.parametrize("node", ["", "ship"])
def test_what_was_undone_is_done_again_by_a_repeat_too(node: str) -> None:
    world = World()
    shop(world)
    kept = kept_steps(world.ended(), steps_of(world, RUN), node)
    assert [step.key for step in kept] == ["ask"]


def test_a_task_is_forked_before_a_step() -> None:
    world = World()
    task = world.with_node("n1").running("t1", payload=Data(b'{"n":1,"text":"x"}'))
    for key in ("one", "two", "three"):
        world.do(RecordStep(task.task_id, 1, key, Data(json.dumps(key).encode())))
    task, steps = world.task("t1"), tuple(world.state.steps[task.task_id])
    made = fork_task(task, steps, "three", read_changes({"n": "2", "one": '"uno"'}))
    assert isinstance(made, Fork)
    assert [(step.key, step.result.inline) for step in made.steps] == [("one", b'"uno"'), ("two", b'"two"')]
    assert json.loads(made.payload.inline) == {"n": 2, "text": "x"}
    wrong = wrong_with(fork_task(task, steps, "four", read_changes({"n": '"2"', "three": "1"})))
    assert wrong.keys() == {"at", "set.n", "set.three"}
    assert wrong["at"] == "no step 'four' was recorded in this task; there are one, two, three"


class Knowing(Interpreter):
    """An interpreter to whom some nodes are given: what a fork keeps stays, whatever becomes of the rest. A
    handler of a failure is kept too when what had failed is done anew and succeeds."""

    def __init__(self, seed: int, kept: dict[str, Any]) -> None:
        super().__init__(seed)
        self.kept = kept

    def _node(
        self, graph: Graph, node: GraphNode, given: dict[str, Any], path: str, meaning: Meaning
    ) -> None:
        if path != "r" or node.node_id not in self.kept:
            super()._node(graph, node, given, path, meaning)
            return
        value = self.kept[node.node_id]
        outcome = str(value).lower() if node.type is NodeType.CONDITION else ""
        if node.type is NodeType.SWITCH:
            outcome = str(value) if str(value) in node.cases else "default"
        meaning.states[node.node_id] = "SUCCEEDED"
        meaning.values[node.node_id], meaning.outcomes[node.node_id] = value, outcome


@pytest.mark.parametrize("seed", [*range(60), 68, 129])  # the last two: a kept handler of a failure
def test_a_fork_of_a_random_run_is_what_the_interpreter_says_from_there(seed: int) -> None:
    graph = random_graph(seed)
    drive = Drive(seed, graph)
    task = drive.go()
    names = [node.node_id for node in graph.nodes if node.type is not NodeType.COMPENSATE]
    at = random.Random(seed).choice(names)
    steps = steps_of(drive.cluster, task.task_id)
    made = fork_run(graph, task.payload, steps, at, read_changes({}))
    assert isinstance(made, Fork)
    again = done_anew(graph, steps, at)
    kept = {step.key: json.loads(step.result.inline or b"null") for step in made.steps if "~" not in step.key}
    assert not again & kept.keys()
    other = Refork(seed + 1_000, graph, made)
    end = other.go()
    begun = {path.split("/")[1] for path in other.paths.values() if path.count("/") == 2}
    assert not begun & kept.keys(), "what was kept is not done again"
    if graph.on_failure not in ORDERLY or any(node.critical for node in graph.nodes):
        return
    meant = Knowing(seed + 1_000, kept).run(graph, {"n": 7}, "r")
    states = table_of(end)
    assert {name: states[name] for name in meant.states} == meant.states
    assert (end.state is TaskState.SUCCEEDED) is meant.succeeded


class Refork(Drive):
    """Drives the fork; other tasks fail in it than in the first run."""

    def __init__(self, seed: int, graph: Graph, made: Fork) -> None:
        self.made = made
        super().__init__(seed, graph)

    def do(self, command: Any) -> Any:
        if isinstance(command, RunWorkflow):
            submit = submit_command(
                command.submit.task_id,
                payload=self.made.payload,
                retry=command.submit.retry,
                type=WORKFLOW,
                steps=self.made.steps,
                forked_from="r0@x",
            )
            command = RunWorkflow(submit, command.graph)
        return super().do(command)
