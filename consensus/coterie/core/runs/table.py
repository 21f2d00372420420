"""What remains of a run when its task ends: its graph and how every node ended, exactly one way each."""

from __future__ import annotations

from collections import Counter
from typing import Any

from coterie.core.graph.model import Graph, NodeType
from coterie.core.graph.reading import graph_bytes
from coterie.core.graph.values import written
from coterie.core.nouns import Data, Task, evolve
from coterie.core.runs.book import whole_graph
from coterie.core.runs.run import ENDED, NodeRun, NodeState, Run

NOT_NEEDED = frozenset({NodeType.COMPENSATE})


def closed(run: Run, task: Task) -> Task:
    """The ended task of a run, with its table in the place of a checkpoint."""
    graph = whole_graph(run)
    records = final_records(run, graph, task.finished_at_ms)
    rows = [row_of(record) for record in records]
    raw = graph_bytes(graph) if run.head.grown else run.head.graph
    table = b'{"nodes":' + written(rows).encode() + b',"workflow":' + raw + b"}"
    ended = Counter(record.state.name.lower() for record in records)
    counts = ", ".join(f"{number} {name}" for name, number in sorted(ended.items()))
    return evolve(task, checkpoint=Data(table), progress_message=f"{len(records)} nodes: {counts}")


def final_records(run: Run, graph: Graph, at_ms: int) -> list[NodeRun]:
    """Every node in the order of the graph. What had not ended is CANCELLED if it was begun, else SKIPPED."""
    records = []
    for node in graph.nodes:
        record = run.nodes.get(node.node_id)
        if record is None or record.state is NodeState.READY:
            code, why = "NOT_BEGUN", "the run ended before it began"
            if node.type in NOT_NEEDED:
                code, why = "NOT_NEEDED", "nothing had to be undone"
            record = NodeRun(run.head.run_id, node.node_id, NodeState.SKIPPED, code=code, message=why)
        elif record.state not in ENDED:
            ended = {"state": NodeState.CANCELLED, "ended_at_ms": at_ms, "code": "RUN_ENDED"}
            record = evolve(record, **ended, message="the run ended before it did")
        records.append(record)
    return records


def row_of(record: NodeRun) -> dict[str, Any]:
    """What is told of a node; what it does not have is left out."""
    row = {
        "id": record.node_id,
        "state": record.state.name,
        "tasks": record.issued,
        "since_ms": record.since_ms,
        "ended_at_ms": record.ended_at_ms,
        "outcome": record.outcome,
        "code": record.code,
        "message": record.message,
    }
    return {name: value for name, value in row.items() if value}
