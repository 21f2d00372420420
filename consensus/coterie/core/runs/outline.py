"""What a graph says by itself, worked out once for all runs of it. It is a pure function of the bytes that a
run carries, so it may be worked out ahead, in another thread, before an entry needs it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from coterie.core.graph.model import Graph, GraphNode, JoinKind, NodeType
from coterie.core.graph.reading import graph_of
from coterie.core.runs.run import Run

LARGE_BYTES = 128 << 10  # of a graph: reading more takes longer than one entry may
READ_PER_MS = 2_000  # bytes, on a slow machine


class Outline:
    """Who stands on whom, who gives which value, where it begins. Nobody changes it."""

    __slots__ = ("dependents", "first", "graph", "nodes", "order", "producers", "settling", "undo_of")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = {node.node_id: node for node in graph.nodes}
        self.order = {node_id: place for place, node_id in enumerate(self.nodes)}
        self.producers = {node_id: node_id for node_id in self.nodes}
        self.producers |= {node.output_var: node.node_id for node in graph.nodes if node.output_var}
        self.undo_of = {node.compensates: node.node_id for node in graph.nodes if node.compensates}
        self.dependents: dict[str, list[tuple[str, str]]] = {}
        for node in graph.nodes:
            for edge in node.depends_on:
                self.dependents.setdefault(edge.node, []).append((node.node_id, edge.when))
        self.settling = sum(node.type is not NodeType.COMPENSATE for node in graph.nodes)
        self.first = tuple(node.node_id for node in graph.nodes if is_first(node))


def is_large(graph: bytes) -> bool:
    """Whether a run of it begins only when every node has had time to read it: see reading_ms."""
    return len(graph) > LARGE_BYTES


def reading_ms(size: int) -> int:
    """For how long the run of a large graph waits until it begins: so that every node has worked out its
    outline by then, aside, and no entry takes the time for it."""
    return 1 + size // READ_PER_MS


def is_first(node: GraphNode) -> bool:
    """Whether it may be decided before anything has ended: a quorum may want more than there are."""
    return not node.depends_on or node.join.kind is JoinKind.QUORUM


def outline_of(run: Run) -> Outline:
    """Of the graph of a run, with what was added to it. Raises GraphError."""
    return Outline(whole_graph(run)) if run.head.grown else known_outline(run.head.graph)


@lru_cache(maxsize=16)
def known_outline(graph: bytes) -> Outline:
    """The outline of a graph that nothing was added to; of the latest ones it is at hand. GraphError."""
    return Outline(graph_of(graph))


def whole_graph(run: Run) -> Graph:
    """The graph of a run with what was added to it, of which only what is new is read. Raises GraphError."""
    grown = run.head.grown
    if not grown:
        return _given(run)
    pieces, graph = run.whole or ((), _given(run))
    if len(pieces) < len(grown):
        added = [node for raw in grown[len(pieces) :] for node in graph_of(raw).nodes]
        graph = Graph(**{**_fields(graph), "nodes": (*graph.nodes, *added)})
        run.whole = grown, graph
    return graph


def _given(run: Run) -> Graph:
    raw = run.head.graph
    return known_outline(raw).graph if is_large(raw) else graph_of(raw)


def _fields(graph: Graph) -> dict[str, Any]:
    return {name: getattr(graph, name) for name in Graph.__dataclass_fields__}
