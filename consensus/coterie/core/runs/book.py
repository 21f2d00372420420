"""Look-ups of a run, derived from its graph and nodes: made when first needed, and again after a restore."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappush
from typing import Any

from coterie.core.graph import expr
from coterie.core.graph.model import WINDOW_DEFAULT, Graph, GraphError, GraphNode, JoinKind, NodeType
from coterie.core.graph.reading import graph_bytes, graph_of
from coterie.core.graph.values import ValueFault, read_json
from coterie.core.nouns import Data, Task
from coterie.core.ordered import Ordered
from coterie.core.runs.joins import Tally, count
from coterie.core.runs.outline import is_large, known_outline, outline_of
from coterie.core.runs.run import ENDED, UNDECIDED, NodeRun, NodeState, Phase, Run
from coterie.core.steplog import StepLog

NO_STEPS = StepLog()


class Book:
    """Who stands on whom, what is ready, which values there are."""

    def __init__(self, run: Run, task: Task) -> None:
        outline = outline_of(run)
        self.graph, self.nodes, self.order = outline.graph, outline.nodes, outline.order
        self.producers, self.dependents = outline.producers, outline.dependents
        self.undo_of, self.first = outline.undo_of, outline.first
        self.tallies = Tallies(self.nodes)
        self.ready: list[tuple[int, str]] = []  # a heap, in the order of the graph
        self.undecided: list[tuple[int, str]] = []  # likewise, of nodes whose conditions had to wait
        self.hungry: Ordered[str] = Ordered()  # nodes that could begin more tasks, in the order of the graph
        self.timers: dict[str, int] = {}  # when a waiting node goes on by itself
        self.waiting: dict[str, None] = {}
        self.live = 0
        self.values: dict[str, Any] = {}  # read from the steps
        self.bodies: dict[str, bytes] = {}
        self.inputs = inputs_of(self.graph, task.payload)
        self.unsettled = outline.settling
        self._replay(run)

    def _replay(self, run: Run) -> None:
        goes_on = run.head.phase in (Phase.NEW, Phase.GOING)  # a run that is ending has no timers any more
        for node_id, record in run.nodes.items():
            self.live += record.live
            if record.state in ENDED:
                self.unsettled -= self.nodes[node_id].type is not NodeType.COMPENSATE
                for dependent, when in self.dependents.get(node_id, ()):
                    count(self.tallies[dependent], when, record, self.graph.on_failure)
            elif record.state is NodeState.READY:
                heap = self.undecided if record.code == UNDECIDED else self.ready
                heappush(heap, (self.order[node_id], node_id))
            elif record.state is NodeState.WAITING:
                self.waiting[node_id] = None
                if record.until_ms and goes_on:
                    self.timers[node_id] = record.until_ms
            elif is_hungry(self.nodes[node_id], record):
                self.hungry.add(self.order[node_id], node_id)

    def note(self, before: NodeRun | None, after: NodeRun) -> None:
        """The record of a node has changed. What is hungry follows from the records alone: on a node that was
        restored other tasks would be begun first if it also told of what had happened when."""
        node = self.nodes[after.node_id]
        was_hungry, hungers = before is not None and is_hungry(node, before), is_hungry(node, after)
        if hungers and not was_hungry:
            self.hungry.add(self.order[node.node_id], node.node_id)
        elif was_hungry and not hungers:
            self.hungry.remove(self.order[node.node_id])

    def body_of(self, node: GraphNode) -> bytes:
        """The graph inside a node as its runs carry it; the same object for each."""
        known = self.bodies.get(node.node_id)
        if known is None:
            assert node.body is not None, "only asked for where there is one"
            known = self.bodies[node.node_id] = graph_bytes(node.body)
        return known

    def looks_at_ends(self, node: GraphNode) -> bool:
        return expr.text_looks_at_ends(node.when)

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


def is_hungry(node: GraphNode, record: NodeRun) -> bool:
    """It runs, and could begin one more task: an item, an iteration, or the judge of its agents."""
    if record.state is not NodeState.RUNNING:
        return False
    if node.type is NodeType.MAP:
        return record.issued < record.total and record.live < (node.window or WINDOW_DEFAULT)
    if record.live:
        return False
    if node.type is NodeType.LOOP:
        return record.issued < record.total
    return node.join.kind is JoinKind.JUDGE and 1 < record.total == record.issued


class Tallies(dict[str, Tally]):
    """How the dependencies of each node stand; of most nothing is known for a long time."""

    def __init__(self, nodes: Mapping[str, GraphNode]) -> None:
        super().__init__()
        self._nodes = nodes

    def __missing__(self, node_id: str) -> Tally:
        tally = self[node_id] = Tally(open=len(self._nodes[node_id].depends_on))
        return tally


def inputs_of(graph: Graph, payload: Data) -> dict[str, Any]:
    """What the run was given, and the defaults of what it was not."""
    try:
        given = read_json(payload.inline) if payload.inline else {}
    except ValueFault:
        given = {}
    defaults = {one.name: read_json(one.default) for one in graph.inputs if not one.required}
    return {**defaults, **given} if isinstance(given, dict) else {**defaults, "input": given}


def unreadable(raw: bytes, payload: Data) -> str:
    """Why no run of that graph can begin with these inputs; empty when one can."""
    try:
        graph = known_outline(raw).graph if is_large(raw) else graph_of(raw)  # read ahead, if it is large
        given = inputs_of(graph, payload)
    except (GraphError, ValueFault) as error:
        return str(error)[:1_000]
    missing = [one.name for one in graph.inputs if one.required and one.name not in given]
    return f"the run was not given {', '.join(missing)[:500]}" if missing else ""
