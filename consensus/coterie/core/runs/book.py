"""Look-ups of a run, derived from its graph and nodes: made when first needed, and again after a restore."""

from __future__ import annotations

from heapq import heappush
from typing import Any

from coterie.core.graph import expr
from coterie.core.graph.model import Graph, GraphNode, NodeType
from coterie.core.graph.reading import graph_bytes, graph_of
from coterie.core.graph.values import ValueFault, read_json
from coterie.core.nouns import Data, Task
from coterie.core.runs.joins import Tally, count
from coterie.core.runs.run import ENDED, NodeState, Run
from coterie.core.steplog import StepLog

NO_STEPS = StepLog()


class Book:
    """Who stands on whom, what is ready, which values there are."""

    def __init__(self, run: Run, task: Task) -> None:
        self.graph = whole_graph(run)
        self.nodes = {node.node_id: node for node in self.graph.nodes}
        self.order = {node.node_id: place for place, node in enumerate(self.graph.nodes)}
        self.producers = {node_id: node_id for node_id in self.nodes}
        self.producers |= {node.output_var: node.node_id for node in self.graph.nodes if node.output_var}
        self.dependents: dict[str, list[tuple[str, str]]] = {}
        self.tallies: dict[str, Tally] = {}
        self.ready: list[tuple[int, str]] = []  # a heap, in the order of the graph
        self.hungry: dict[str, None] = {}  # nodes that could begin more tasks
        self.timers: dict[str, int] = {}  # when a waiting node goes on by itself
        self.waiting: dict[str, None] = {}
        self.live = 0
        self.undo_of = {node.compensates: node.node_id for node in self.graph.nodes if node.compensates}
        self.values: dict[str, Any] = {}  # read from the steps
        self.bodies: dict[str, bytes] = {}
        self.inputs = inputs_of(self.graph, task.payload)
        for node in self.graph.nodes:
            self._link(node)
        self.unsettled = sum(node.type is not NodeType.COMPENSATE for node in self.graph.nodes)
        self._replay(run)

    def _link(self, node: GraphNode) -> None:
        self.tallies[node.node_id] = Tally(open=len(node.depends_on))
        for edge in node.depends_on:
            self.dependents.setdefault(edge.node, []).append((node.node_id, edge.when))

    def _replay(self, run: Run) -> None:
        for node_id, record in run.nodes.items():
            self.live += record.live
            if record.state in ENDED:
                self.unsettled -= self.nodes[node_id].type is not NodeType.COMPENSATE
                for dependent, when in self.dependents.get(node_id, ()):
                    count(self.tallies[dependent], when, record, self.graph.on_failure)
            elif record.state is NodeState.READY:
                heappush(self.ready, (self.order[node_id], node_id))
            elif record.state is NodeState.WAITING:
                self.waiting[node_id] = None
                if record.until_ms:
                    self.timers[node_id] = record.until_ms
            elif record.issued < record.total:
                self.hungry[node_id] = None

    def body_of(self, node: GraphNode) -> bytes:
        """The graph inside a node as its runs carry it; the same object for each."""
        known = self.bodies.get(node.node_id)
        if known is None:
            assert node.body is not None, "only asked for where there is one"
            known = self.bodies[node.node_id] = graph_bytes(node.body)
        return known

    def looks_at_ends(self, node: GraphNode) -> bool:
        return bool(node.when) and expr.looks_at_ends(expr.parse(node.when))

    def has_handler(self, node_id: str) -> bool:
        """Whether something is there for the case that this node fails."""
        return any(self.looks_at_ends(self.nodes[name]) for name, _ in self.dependents.get(node_id, ()))

    def sinks(self) -> list[GraphNode]:
        """Nodes nobody stands on."""
        return [
            node
            for node in self.graph.nodes
            if node.node_id not in self.dependents and node.type is not NodeType.COMPENSATE
        ]


def whole_graph(run: Run) -> Graph:
    """The graph of a run with what was added to it."""
    graph = graph_of(run.head.graph)
    if not run.head.grown:
        return graph
    added = [node for raw in run.head.grown for node in graph_of(raw).nodes]
    return Graph(**{**_fields(graph), "nodes": (*graph.nodes, *added)})


def _fields(graph: Graph) -> dict[str, Any]:
    return {name: getattr(graph, name) for name in Graph.__dataclass_fields__}


def inputs_of(graph: Graph, payload: Data) -> dict[str, Any]:
    """What the run was given, and the defaults of what it was not."""
    try:
        given = read_json(payload.inline) if payload.inline else {}
    except ValueFault:
        given = {}
    defaults = {one.name: read_json(one.default) for one in graph.inputs if not one.required}
    return {**defaults, **given} if isinstance(given, dict) else {**defaults, "input": given}


def missing_inputs(graph: Graph, payload: Data) -> list[str]:
    """Required inputs that a run was not given."""
    given = inputs_of(graph, payload)
    return [one.name for one in graph.inputs if one.required and one.name not in given]
