"""One run of a random graph in the state machine: tasks end in any order, nodes die, states are restored."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from coterie.core.canonical import state_hash
from coterie.core.commands import (
    Accepted,
    AssignTask,
    ConfirmCancel,
    ExpireTask,
    FailAttempt,
    FinishTask,
    MarkNode,
    PauseTask,
    RegisterNode,
    ResumeTask,
)
from coterie.core.graph.model import Graph, OnFailure
from coterie.core.graph.reading import graph_bytes
from coterie.core.nouns import (
    Data,
    Event,
    ExpiryKind,
    NodeId,
    NodeStatus,
    RetryPolicy,
    Task,
    TaskError,
    TaskId,
    TaskState,
)
from coterie.core.runs import outline
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.run import WORKFLOW, Phase
from coterie.core.state import ClusterState
from coterie.core.transitions import HELD, TERMINAL
from coterie.raft import codec
from tests.core.builders import CoreCluster, submit_command
from tests.sim.workflows.graphs import random_graph
from tests.sim.workflows.reference import Interpreter, Meaning, answer, fails

STEPS_MAX = 20_000
RUN = TaskId("r1")


class Differs(AssertionError):
    """The state machine and the interpreter do not say the same."""


@dataclass
class Drive:
    """A cluster of the core alone, whose nodes run tasks by the same rule as the interpreter."""

    seed: int
    graph: Graph
    cluster: CoreCluster = field(default_factory=CoreCluster)
    paths: dict[str, str] = field(default_factory=dict)  # of tasks
    finished: dict[str, int] = field(default_factory=dict)  # how often a task has ended
    ended: dict[str, Task] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)  # what the nodes of the run gave
    killed: int = 0  # nodes that died with tasks
    paused_undoing: int = 0  # pauses of runs that were compensating

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.paths[RUN] = "r"
        for number in (1, 2, 3):
            self.cluster.with_node(f"n{number}", capacity=1_000)
        retry = RetryPolicy(attempts_max=1)
        submit = submit_command(RUN, payload=Data(b'{"n":7}'), retry=retry, type=WORKFLOW)
        outcome = self.do(RunWorkflow(submit, graph_bytes(self.graph)))
        assert isinstance(outcome, Accepted), outcome

    @property
    def state(self) -> ClusterState:
        return self.cluster.state

    def do(self, command: Any) -> Any:
        before = len(self.cluster.events)
        outcome = self.cluster.do(command)
        for event in self.cluster.events[before:]:
            self._note(event)
        return outcome

    def _note(self, event: Event) -> None:
        task = event.task
        if task.state in TERMINAL:
            self.ended[task.task_id] = task
            self.finished[task.task_id] = self.finished.get(task.task_id, 0) + 1
            if task.task_id == RUN:
                self.given = {step.key: json.loads(step.result.inline) for step in event.steps}
        if event.type == "submitted" and task.parent_id:
            node, place = task.task_id.rsplit("~", 2)[1:]
            self.paths[task.task_id] = f"{self.paths[task.parent_id]}/{node}/{place}"

    def go(self) -> Task:
        """Until the run has ended; returns its task."""
        for _ in range(STEPS_MAX):
            if RUN in self.ended and not self._open():
                return self.ended[RUN]
            self._something()
        raise Differs(f"seed {self.seed}: the run does not end: {self.state.runs.get(RUN)}")

    def _open(self) -> list[Task]:
        return [task for task in self.state.tasks.values() if task.type != WORKFLOW]

    def _something(self) -> None:
        if self.dice.random() < 0.02:
            self._restore()
        if self.dice.random() < 0.1:
            self._lose_a_node()
        if self.dice.random() < 0.1:
            self._pause_or_resume()
        waits = self.state.indexes.waits.first()
        if waits is not None:
            self.do(ExpireTask(waits[1], 0, ExpiryKind.WAIT))
        tasks = self._open()
        if tasks:
            self._end(self.dice.choice(tasks))
        elif self._paused():
            self._pause_or_resume()
        elif waits is None and RUN not in self.ended:
            raise Differs(f"seed {self.seed}: nothing is left to do, and the run has not ended")

    def _end(self, task: Task) -> None:
        if task.state is TaskState.PENDING:
            node = self.state.nodes[NodeId(f"n{self.dice.randrange(1, 4)}")]
            self.do(AssignTask(task.task_id, node.node_id, node.incarnation, task.attempt + 1))
            if self.dice.random() < 0.7:
                return
            task = self.state.tasks[task.task_id]
        if task.state not in HELD:
            return
        path = self.paths[task.task_id]
        if task.cancel_requested and self.dice.random() < 0.7:
            self.do(ConfirmCancel(task.task_id, task.attempt))
        elif fails(self.seed, path):
            self.do(FailAttempt(task.task_id, task.attempt, TaskError("NO", path, retryable=False)))
        else:
            result = Data(json.dumps(answer(path)).encode())
            self.do(FinishTask(task.task_id, task.attempt, result))

    def _restore(self) -> None:
        """Every replica may be rebuilt from a snapshot at any time."""
        before = state_hash(self.state)
        restored = codec.decode_state(list(codec.encode_state(self.state.copy())))
        if state_hash(restored) != before:
            raise Differs(f"seed {self.seed}: the state is another after a restore")
        self.cluster.state = restored

    def _paused(self) -> list[Task]:
        return [task for task in self.state.tasks.values() if task.state is TaskState.PAUSED]

    def _pause_or_resume(self) -> None:
        """A run, or one inside of it, at any time: while it compensates too."""
        if paused := self._paused():
            self.do(ResumeTask(self.dice.choice(paused).task_id))
        elif self.state.runs:
            run_id = self.dice.choice([*self.state.runs])
            self.paused_undoing += self.state.runs[run_id].head.phase is Phase.UNDOING
            self.do(PauseTask(run_id))

    def _lose_a_node(self) -> None:
        node = self.state.nodes[NodeId(f"n{self.dice.randrange(1, 4)}")]
        self.killed += bool(self.state.indexes.held_by(node.node_id))
        self.do(MarkNode(node.node_id, node.incarnation, NodeStatus.DOWN, "killed"))
        self.do(
            RegisterNode(node.node_id, node.address, node.incarnation + 1, node.capacity, skills=node.skills)
        )


def table_of(task: Task) -> dict[str, str]:
    """The states of the nodes of an ended run."""
    rows = json.loads(task.checkpoint.inline)["nodes"]
    names = [row["id"] for row in rows]
    assert len(names) == len(set(names)), "one row for each node"
    return {row["id"]: row["state"] for row in rows}


def check(seed: int) -> Drive:
    """Run the graph of a seed both ways. Raises Differs. Every third run is taken for a large one, which
    begins later than it is submitted."""
    graph = random_graph(seed)
    with patch.object(outline, "LARGE_BYTES", 0 if seed % 3 == 0 else outline.LARGE_BYTES):
        drive = Drive(seed, graph)
        task = drive.go()
    wrong = list(_faults(drive, task, Interpreter(seed).run(graph, {"n": 7}, "r")))
    if wrong:
        raise Differs(f"seed {seed}: {'; '.join(wrong)}")
    return drive


def _faults(drive: Drive, task: Task, meant: Meaning) -> Any:
    states = table_of(task)
    twice = [name for name, count in drive.finished.items() if count != 1]
    if twice:
        yield f"ended more than once: {twice}"
    if drive.state.runs or any(one.type == WORKFLOW for one in drive.state.tasks.values()):
        yield "a run is left over"
    yield from _wrong_variables(drive, states, meant)
    if set(states) != {node.node_id for node in drive.graph.nodes}:
        yield "a node without an end, or one that is none"
    stops = drive.graph.on_failure in (OnFailure.ABORT, OnFailure.COMPENSATE)
    critical = any(node.critical and meant.states.get(node.node_id) == "FAILED" for node in drive.graph.nodes)
    if (stops or critical) and not meant.succeeded:
        yield from _stopped_faults(drive, task, states, meant)
        return
    for name, state in meant.states.items():
        if states[name] != state:
            yield f"{name} is {states[name]}, meant is {state}"
    if (task.state is TaskState.SUCCEEDED) is not meant.succeeded:
        yield f"the run ended as {task.state.name}, meant is success: {meant.succeeded}"
    if task.state is TaskState.SUCCEEDED and not _alike(json.loads(task.result.inline), meant.result):
        yield f"the run gave {task.result.inline!r}, meant is {meant.result!r}"


def _wrong_variables(drive: Drive, states: dict[str, str], meant: Meaning) -> Any:
    for name, value in meant.values.items():
        if states[name] == "SUCCEEDED" and not _alike(drive.given[name], value):
            yield f"{name} gave {drive.given[name]!r}, meant is {value!r}"


def _stopped_faults(drive: Drive, task: Task, states: dict[str, str], meant: Meaning) -> Any:
    """A run that stops at a failure: which nodes were under way is chance, how each can have ended is not."""
    if task.state is not TaskState.FAILED:
        yield f"the run ended as {task.state.name}, and a node failed"
    may = {"SUCCEEDED": {"SUCCEEDED", "SKIPPED", "CANCELLED"}, "SKIPPED": {"SKIPPED"}}
    may["FAILED"] = {"FAILED", "SKIPPED", "CANCELLED"}
    for name, state in meant.states.items():
        if states[name] not in may[state]:
            yield f"{name} is {states[name]}, meant is {state}"
    undone = {node.compensates: node.node_id for node in drive.graph.nodes if node.compensates}
    for name, undo in undone.items():
        wanted = states[name] == "SUCCEEDED"
        if wanted is not (states[undo] in ("SUCCEEDED", "FAILED")):
            yield f"{undo} is {states[undo]}, and {name} is {states[name]}"


def _alike(found: Any, meant: Any) -> bool:
    """None in what is meant: any value."""
    if isinstance(found, dict) and isinstance(meant, dict):
        return found.keys() == meant.keys() and all(_alike(found[key], meant[key]) for key in found)
    if isinstance(found, list) and isinstance(meant, list):
        return len(found) == len(meant) and all(map(_alike, found, meant))
    return meant is None or bool(found == meant)
