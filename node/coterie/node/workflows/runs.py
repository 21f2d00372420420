"""Runs as callers see them: their nodes, the table they leave when they end, and how one is repeated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import grpc

from coterie.core.graph.flow import Flow
from coterie.core.graph.model import Graph, GraphError, GraphNode, NodeType, OnFailure
from coterie.core.graph.plan import mermaid_of
from coterie.core.graph.reading import graph_bytes, graph_of
from coterie.core.graph.values import ValueFault, written
from coterie.core.nouns import Step, Task
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.outline import whole_graph
from coterie.core.runs.run import Phase, Run, part_key
from coterie.core.runs.table import row_of
from coterie.core.submit_command import SubmitTask
from coterie.node.errors import ApiError, Violation, invalid
from coterie.v1 import workflows_pb2

PENDING = "PENDING"
PART = part_key("", 0)[0]  # what follows the node in the key of a part


def graph_left_by(task: Task) -> tuple[Graph, list[dict[str, Any]]]:
    """The graph of an ended run and the rows of its nodes. Raises ApiError when the history lost them."""
    try:
        table = json.loads(
            task.checkpoint.inline
        )  # the graph in it is as deep as values may be: it is deeper
        return graph_of(written(table["workflow"]).encode()), list(table["nodes"])
    except (ValueError, ValueFault, GraphError, KeyError, TypeError) as error:
        text = f"run {task.task_id} has left no table of its nodes"
        raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "NO_TABLE", text) from error


def repeated(task: Task, submit: SubmitTask) -> RunWorkflow:
    """A new run of an ended one; the steps of `submit` are taken over."""
    graph, _ = graph_left_by(task)
    return RunWorkflow(submit, graph_bytes(graph))


def kept_steps(task: Task, steps: Sequence[Step], from_node: str) -> tuple[Step, ...]:
    """What stays of a run that is repeated from a node on. Raises ApiError for a node that there is not."""
    graph, _ = graph_left_by(task)
    names = [node.node_id for node in graph.nodes]
    if from_node and from_node not in names:
        known = ", ".join(names[:20])
        raise invalid([Violation("from_node", f"no node {from_node!r} in this run; there are {known}")])
    again = done_anew(graph, steps, from_node)
    return tuple(step for step in steps if _node_of(step) not in again)


def done_anew(graph: Graph, steps: Sequence[Step], from_node: str = "", run: Run | None = None) -> set[str]:
    """Nodes whose results are not taken over: `from_node`, what was undone, and all that stands on these; and
    every undo, since what is done anew may have to be undone anew. `run`: while it is live."""
    flow = Flow(graph)
    undos = {node.node_id: node.compensates for node in graph.nodes if node.type is NodeType.COMPENSATE}
    undone = undone_in(graph, steps, run)
    return {*undos, *flow.from_here([*undone, from_node] if from_node else undone)}


def undone_in(graph: Graph, steps: Sequence[Step], run: Run | None = None) -> list[str]:
    """Nodes whose effect is no longer there, or will not be in a moment."""
    undos = {node.node_id: node.compensates for node in graph.nodes if node.type is NodeType.COMPENSATE}
    if run is not None and run.head.phase >= Phase.ENDING and graph.on_failure is OnFailure.COMPENSATE:
        return list(undos.values())
    return [undos[name] for name in map(_node_of, steps) if name in undos]


def _node_of(step: Step) -> str:
    return step.key.partition(PART)[0]


def shown(task: Task, run: Run | None, *, with_graph: bool) -> workflows_pb2.WorkflowRun:
    """The nodes of a run, without its task."""
    if run is not None:
        graph = whole_graph(run)
        rows = [
            {**row_of(record), "live": record.live, "until_ms": record.until_ms, "total": record.total}
            for record in run.nodes.values()
        ]
    else:
        graph, rows = graph_left_by(task)
    by_id = {row["id"]: row for row in rows}
    nodes = [_node(node, by_id.get(node.node_id, {})) for node in graph.nodes]
    message = workflows_pb2.WorkflowRun(workflow=graph.name, nodes=nodes)
    if with_graph:
        message.graph = graph_bytes(graph).decode()
        message.mermaid = mermaid_of(graph, {node.id: node.state for node in nodes})
    return message


def _node(node: GraphNode, row: dict[str, Any]) -> workflows_pb2.RunNode:
    return workflows_pb2.RunNode(
        id=node.node_id,
        type=node.type.value,
        state=row.get("state", PENDING),
        depends_on=[edge.node for edge in node.depends_on],
        **{name: row[name] for name in row.keys() - {"id", "state"}},
    )
