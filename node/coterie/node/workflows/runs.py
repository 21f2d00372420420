"""Runs as callers see them: their nodes, the table they leave when they end, and how one is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from coterie.core.graph.flow import Flow
from coterie.core.graph.model import Graph, GraphError, GraphNode
from coterie.core.graph.plan import mermaid_of
from coterie.core.graph.reading import graph_bytes, graph_of
from coterie.core.graph.values import ValueFault, read_json, written
from coterie.core.nouns import Step, Task
from coterie.core.runs.book import whole_graph
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.run import Run
from coterie.core.runs.table import row_of
from coterie.core.submit_command import SubmitTask
from coterie.node.errors import ApiError, Violation, invalid
from coterie.v1 import workflows_pb2

PENDING = "PENDING"


def graph_left_by(task: Task) -> tuple[Graph, list[dict[str, Any]]]:
    """The graph of an ended run and the rows of its nodes. Raises ApiError when the history lost them."""
    try:
        table = read_json(task.checkpoint.inline)
        return graph_of(written(table["workflow"]).encode()), list(table["nodes"])
    except (ValueFault, GraphError, KeyError, TypeError) as error:
        text = f"run {task.task_id} has left no table of its nodes"
        raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "NO_TABLE", text) from error


def repeated(task: Task, submit: SubmitTask) -> RunWorkflow:
    """A new run of an ended one; the steps of `submit` are taken over."""
    graph, _ = graph_left_by(task)
    return RunWorkflow(submit, graph_bytes(graph))


def kept_steps(task: Task, steps: Sequence[Step], from_node: str) -> tuple[Step, ...]:
    """What stays of a run that is repeated from a node on. Raises ApiError for a node that there is not."""
    graph, _ = graph_left_by(task)
    flow = Flow(graph)
    if not from_node:
        return tuple(steps)
    if from_node not in flow.nodes:
        known = ", ".join(list(flow.nodes)[:20])
        raise invalid([Violation("from_node", f"no node {from_node!r} in this run; there are {known}")])
    again = {name for name in flow.nodes if name == from_node or flow.is_before(from_node, name)}
    return tuple(step for step in steps if step.key.partition("~")[0] not in again)


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
