"""What a workflow means, written down as plainly as possible: node by node in topological order, no events,
no parallelism, no state. Only for policies under which the order of ends does not matter."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import networkx

from coterie.core.graph.evaluate import Values, evaluate, holds
from coterie.core.graph.model import Graph, GraphNode, JoinKind, NodeType, OnFailure
from coterie.core.graph.refs import fill
from coterie.core.graph.values import ValueFault, read_json

GONE = "GONE"  # an outcome nobody waits for


class Failed(Exception):
    """A node that fails."""


@dataclass
class Meaning:
    """How the nodes end, what they give, and what the run gives."""

    states: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    succeeded: bool = True
    result: Any = None


def fails(seed: int, path: str) -> bool:
    """Whether the task of that path fails for good; one in seven does."""
    return hashlib.sha256(f"{seed}/{path}".encode()).digest()[0] < 36


def answer(path: str) -> Any:
    """What a task gives that succeeds."""
    return {"by": path}


class Interpreter:
    """Runs of one graph; `path` tells runs inside of runs apart."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def run(self, graph: Graph, given: dict[str, Any], path: str) -> Meaning:
        meaning = Meaning()
        nodes = {node.node_id: node for node in graph.nodes}
        order = networkx.DiGraph()
        order.add_nodes_from(nodes)
        order.add_edges_from((edge.node, node.node_id) for node in graph.nodes for edge in node.depends_on)
        for name in networkx.topological_sort(order):
            if nodes[name].type is not NodeType.COMPENSATE:
                self._node(graph, nodes[name], given, path, meaning)
        handled = {
            edge.node
            for node in graph.nodes
            if any(word in node.when for word in ("failed(", "always(", "succeeded(", "skipped("))
            for edge in node.depends_on
        }
        open_failures = [
            name for name, state in meaning.states.items() if state == "FAILED" and name not in handled
        ]
        critical = any(nodes[name].critical for name, state in meaning.states.items() if state == "FAILED")
        meaning.succeeded = not critical and (not open_failures or graph.on_failure is OnFailure.CONTINUE)
        sinks = [name for name in nodes if order.out_degree(name) == 0]
        meaning.result = {
            name: meaning.values[name] for name in sinks if meaning.states.get(name) == "SUCCEEDED"
        }
        return meaning

    def _node(
        self, graph: Graph, node: GraphNode, given: dict[str, Any], path: str, meaning: Meaning
    ) -> None:
        name = node.node_id
        if not self._wanted(graph, node, meaning):
            meaning.states[name] = "SKIPPED"
            return
        try:
            meaning.values[name], meaning.outcomes[name] = self._value(node, given, f"{path}/{name}", meaning)
            meaning.states[name] = "SUCCEEDED"
        except (Failed, ValueFault):
            meaning.states[name] = "FAILED"

    def _wanted(self, graph: Graph, node: GraphNode, meaning: Meaning) -> bool:
        ends = [meaning.states[edge.node] for edge in node.depends_on]
        if node.when:
            return {
                "failed()": "FAILED" in ends,
                "always()": True,
                "skipped() || succeeded()": "SKIPPED" in ends or all(end == "SUCCEEDED" for end in ends),
                "!failed()": "FAILED" not in ends,
            }[node.when]
        taken = 0
        for edge in node.depends_on:
            state = meaning.states[edge.node]
            forgiven = state == "FAILED" and graph.on_failure is OnFailure.CONTINUE and not edge.when
            fits = not edge.when or meaning.outcomes.get(edge.node, GONE) == edge.when
            taken += (state == "SUCCEEDED" and fits) or forgiven
        many = len(node.agents) > 1
        needed = {JoinKind.ANY: 1, JoinKind.FIRST: 1, JoinKind.QUORUM: node.join.count}
        if many or node.join.kind not in needed:
            return taken == len(node.depends_on)
        return taken >= min(needed[node.join.kind], max(1, len(node.depends_on))) or not node.depends_on

    def _value(self, node: GraphNode, given: dict[str, Any], path: str, meaning: Meaning) -> tuple[Any, str]:
        scope = Values({**given, **meaning.values, "run": {"id": "some id", "name": ""}})
        match node.type:
            case NodeType.CONDITION:
                true = holds(node.expr, scope)
                return true, "true" if true else "false"
            case NodeType.SWITCH:
                value = evaluate(node.expr, scope)
                return value, str(value) if str(value) in node.cases else "default"
            case NodeType.REDUCE:
                return self._reduced(node), ""
            case NodeType.AGENT:
                return self._agents(node, path), ""
            case NodeType.LOOP:
                return self._loop(node, path), ""
            case NodeType.MAP:
                return self._map(node, path), ""
            case NodeType.WORKFLOW:
                return self._inner(node, {}, f"{path}/0"), ""
            case _:
                if node.input:
                    fill(node.input, scope)
                return self._task(f"{path}/0"), ""

    def _task(self, path: str) -> Any:
        if fails(self.seed, path):
            raise Failed
        return answer(path)

    def _reduced(self, node: GraphNode) -> Any:
        items = read_json(node.over)
        if node.reducer in ("sum", "max") and not all(isinstance(item, int) for item in items):
            raise Failed
        match str(node.reducer):
            case "sum":
                return sum(items)
            case "count":
                return len(items)
            case "list":
                return items
            case _:
                return max(items, default=None)

    def _agents(self, node: GraphNode, path: str) -> Any:
        places = range(len(node.agents))
        good = [answer(f"{path}/{at}") for at in places if not fails(self.seed, f"{path}/{at}")]
        match node.join.kind:
            case JoinKind.JUDGE:
                if not good:
                    raise Failed
                return self._task(f"{path}/{len(node.agents)}")
            case JoinKind.QUORUM:
                if len(good) < node.join.count:
                    raise Failed
                return None  # which of them were first is not said here
            case JoinKind.ANY:
                if not good:
                    raise Failed
                return good
            case _:
                if len(good) < len(node.agents):
                    raise Failed
                return good

    def _inner(self, node: GraphNode, given: dict[str, Any], path: str) -> Any:
        assert node.body is not None
        meaning = self.run(node.body, given, path)
        if not meaning.succeeded:
            raise Failed
        return meaning.result

    def _loop(self, node: GraphNode, path: str) -> Any:
        last = None
        for at in range(node.max_iterations):
            last = self._inner(node, {"iteration": at + 1, "last": last}, f"{path}/{at}")
            if holds(node.expr, Values({"iteration": at + 1, "output": last})):
                return last
        raise Failed

    def _map(self, node: GraphNode, path: str) -> Any:
        results = []
        for at, item in enumerate(read_json(node.over)):
            try:
                given = {"item": item, "index": at}
                inner = self._inner(node, given, f"{path}/{at}") if node.body else self._task(f"{path}/{at}")
                results.append(inner)
            except Failed:
                if node.on_item_failure == "fail":
                    raise
        return results


def counted(states: dict[str, str]) -> Counter[str]:
    return Counter(states.values())
