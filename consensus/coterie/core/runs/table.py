"""What remains of a run when its task ends: its graph and how every node ended, exactly one way each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from coterie.core.graph.model import Graph, GraphError, NodeType
from coterie.core.graph.reading import write_graph
from coterie.core.graph.values import ValueFault, quoted, written
from coterie.core.nouns import Data, Task, evolve
from coterie.core.runs.outline import whole_graph
from coterie.core.runs.run import ENDED, NodeRun, NodeState, Run

NOT_NEEDED = frozenset({NodeType.COMPENSATE})


def closed(run: Run, task: Task) -> Task:
    """The ended task of a run, with its table in the place of a checkpoint."""
    try:
        graph = run.book.graph if run.book is not None else whole_graph(run)
    except GraphError:  # that is what it ended of
        return task
    records = final_records(run, graph, task.finished_at_ms)
    rows = ",".join([row_text(record) for record in records])
    raw = _grown(run, graph) if run.head.grown else run.head.graph
    table = b'{"nodes":[' + _encoded(rows) + b'],"workflow":' + raw + b"}"
    ended = Counter(record.state for record in records)
    counts = ", ".join(f"{number} {name}" for name, number in sorted(_by_name(ended)))
    return evolve(task, checkpoint=Data(table), progress_message=f"{len(records)} nodes: {counts}")


def _grown(run: Run, graph: Graph) -> bytes:
    """The graph with what was added, as `graph_bytes` writes it but of any size: a run has to end, whatever
    an earlier version let into it."""
    try:
        return _encoded(written(write_graph(graph)))
    except ValueFault:  # it holds what JSON can spell and cannot be read again: as it began
        return run.head.graph


def _encoded(text: str) -> bytes:
    """Half of a surrogate pair becomes the number by which JSON spells it."""
    return text.encode("utf-8", "backslashreplace")


def _by_name(ended: Counter[NodeState]) -> Iterator[tuple[str, int]]:
    return ((state.name.lower(), number) for state, number in ended.items())


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


def row_text(record: NodeRun) -> str:
    """The JSON of a row. Of most nodes there are thousands, and nothing has to be told but four values."""
    plain = record.since_ms and record.ended_at_ms and record.issued
    if not plain or record.outcome or record.code or record.message:
        return written(row_of(record))
    return (
        f'{{"ended_at_ms":{record.ended_at_ms},"id":{quoted(record.node_id)},"since_ms":{record.since_ms},'
        f'"state":"{record.state.name}","tasks":{record.issued}}}'
    )


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
