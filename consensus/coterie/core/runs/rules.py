"""Rules of the commands about runs: how one begins and how it grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.graph.check import Surroundings, problems_of
from coterie.core.graph.model import GRAPH_BYTES_MAX, NODES_MAX, Graph, GraphError, NodeType
from coterie.core.graph.needs import size
from coterie.core.graph.reading import graph_bytes, graph_of
from coterie.core.graph.values import ValueFault
from coterie.core.lifecycle import change_task, fenced, no_task
from coterie.core.nouns import NO_PARENT, Task, evolve
from coterie.core.runs.book import Book, unreadable
from coterie.core.runs.commands import AddNodes, RunWorkflow
from coterie.core.runs.definitions import apply_workflow, delete_workflow
from coterie.core.runs.outline import is_large, reading_ms, whole_graph
from coterie.core.runs.run import FOR_NODES, WORKFLOW, Phase, Run, RunHead
from coterie.core.runs.texts import ApplyWorkflow, DeleteWorkflow
from coterie.core.state import ClusterState, Moment
from coterie.core.submit_rules import admit, create

ADDITIONS_MAX = 1_000  # to one run
ADDED_NODES_MAX = 500  # in one addition: while it is looked at, a node does nothing else
ADDED_BYTES_MAX = 128 << 10  # likewise


def run_workflow(state: ClusterState, command: RunWorkflow, moment: Moment) -> Outcome:
    submit, size = replace(command.submit, type=WORKFLOW), len(command.graph)
    large = is_large(command.graph)
    wrong = unreadable(command.graph, submit.payload) if not large else ""
    if wrong:
        return Rejected("BAD_WORKFLOW", wrong)
    if submit.start_delay_ms:
        return Rejected("BAD_WORKFLOW", "a run begins at once; put a timer at its beginning")
    answer = admit(state, submit, moment, size)
    if answer is not None:
        return answer
    wait = replace(FOR_NODES, until_ms=moment.at_ms + reading_ms(size)) if large else FOR_NODES
    task = create(state, submit, moment, wait=wait, more_bytes=size)
    state.runs[task.task_id] = Run(RunHead(task.task_id, command.graph))
    if not large:
        state.note_run(task.task_id, "begin")
    return Accepted(task.task_id)


def add_nodes(state: ClusterState, command: AddNodes, moment: Moment) -> Outcome:
    task, run = state.tasks.get(command.task_id), state.runs.get(command.task_id)
    if task is None or run is None:
        return no_task(state, command.task_id) if task is None else _no_run(command)
    planner = fenced(state, command.by, command.attempt) if command.by != NO_PARENT else None
    if isinstance(planner, Rejected):
        return planner
    if planner is not None and planner.parent_id != task.task_id:
        return Rejected("NOT_IN_A_RUN", f"task {command.by} is no node of {task.task_id}")
    if command.nodes in run.head.grown:
        return Accepted(task.task_id, duplicate=True)
    refused = _growth_refused(state, run, command)
    if refused is not None:
        return refused
    run.head = evolve(run.head, grown=(*run.head.grown, command.nodes))
    run.book = None
    after = evolve(task, bytes_held=task.bytes_held + len(command.nodes))
    change_task(state, task, after, moment, "grown")
    state.note_run(task.task_id, "grown")
    return Accepted(task.task_id)


def _no_run(command: AddNodes) -> Rejected:
    return Rejected("NOT_A_RUN", f"task {command.task_id} is not a run of a workflow")


def surroundings(run: Run, task: Task) -> Surroundings:
    """What nodes that are added to it are checked against."""
    book = run.book or Book(run, task)
    names = frozenset(book.producers) | frozenset(book.inputs)
    undos = frozenset(node_id for node_id, node in book.nodes.items() if node.type is NodeType.COMPENSATE)
    return Surroundings(names=names, nodes=frozenset(book.nodes), undos=undos)


def beyond_one_addition(nodes: int, size: int) -> str:
    """Why so many nodes, of so many bytes, cannot be added at once; empty when they can."""
    hint = "add them in several additions, or use a map"
    if nodes > ADDED_NODES_MAX:
        return f"nodes: {nodes} nodes in one addition, the limit is {ADDED_NODES_MAX}; {hint}"
    if size > ADDED_BYTES_MAX:
        return f"nodes: {size} bytes in one addition, the limit is {ADDED_BYTES_MAX}; {hint}"
    return ""


def _growth_refused(state: ClusterState, run: Run, command: AddNodes) -> Rejected | None:
    """The same checks as for the first plan, beside what is there."""
    task = state.tasks[command.task_id]
    if run.head.phase not in (Phase.NEW, Phase.GOING) or task.cancel_requested:
        return Rejected("CANCELLED", "the run is ending")
    if len(run.head.grown) >= ADDITIONS_MAX:
        return Rejected("TOO_LARGE", f"a run is added to at most {ADDITIONS_MAX} times")
    if task.bytes_held + len(command.nodes) > state.meta.policy.task_bytes_max:
        return Rejected("TASK_TOO_LARGE", f"a task keeps at most {state.meta.policy.task_bytes_max} bytes")
    if len(command.nodes) > ADDED_BYTES_MAX:
        return Rejected("TOO_LARGE", beyond_one_addition(0, len(command.nodes)))
    # Written as one graph the pieces take no more: each has braces of its own, the whole only commas.
    held = len(run.head.graph) + sum(map(len, run.head.grown)) + len(command.nodes)
    if held > GRAPH_BYTES_MAX:
        return Rejected("TOO_LARGE", f"{held} bytes of nodes in one run, the limit is {GRAPH_BYTES_MAX}")
    try:
        more, there = graph_of(command.nodes), whole_graph(run)
        graph_bytes(more)  # what cannot be written would be missing from what the run leaves
    except (GraphError, ValueFault) as error:
        return Rejected("BAD_WORKFLOW", str(error)[:1_000])
    if beyond := beyond_one_addition(size(more), len(command.nodes)):
        return Rejected("TOO_LARGE", beyond)
    if size(there) + size(more) > NODES_MAX:
        return Rejected("TOO_LARGE", f"{size(there) + size(more)} nodes, the limit is {NODES_MAX}")
    problems = problems_of(Graph(nodes=more.nodes), surroundings(run, task))
    if problems:
        said = "; ".join(f"{one.where}: {one.text}" for one in problems[:10])
        return Rejected("BAD_WORKFLOW", said[:2_000])
    return None


RULES: dict[type, Callable[[ClusterState, Any, Moment], Outcome]] = {
    RunWorkflow: run_workflow,
    AddNodes: add_nodes,
    ApplyWorkflow: apply_workflow,
    DeleteWorkflow: delete_workflow,
}
