"""What a graph's dependencies say: cycles, generations, what comes before what, what can never run."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from coterie.core.graph import expr
from coterie.core.graph.model import Graph, GraphNode, Join, JoinKind, NodeType
from coterie.core.graph.values import ValueFault

if TYPE_CHECKING:
    import networkx

CYCLES_MAX = 20  # reported
CYCLE_LENGTH_MAX = 12  # searched for exhaustively; of longer ones each knot shows one
ALL = Join(JoinKind.ALL)


class Flow:
    """Questions about one graph. The ids need not be unique, nor the dependencies known."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.nodes = {node.node_id: node for node in graph.nodes}
        self.order = {node.node_id: place for place, node in enumerate(graph.nodes)}

    @cached_property
    def digraph(self) -> networkx.DiGraph:
        """Edges go from what must be done first."""
        import networkx

        found: Any = networkx.DiGraph()
        found.add_nodes_from(self.nodes)
        found.add_edges_from(
            (edge.node, node.node_id)
            for node in self._graph.nodes
            for edge in node.depends_on
            if edge.node in self.nodes
        )
        return found

    def cycles(self) -> list[tuple[str, ...]]:
        """Each cycle as a path that says who stands on whom: a, b, a is "a stands on b, b stands on a". Short
        ones are all found (Johnson, SIAM J. Comput. 1975), of a knot of longer ones at least one."""
        if self.is_acyclic:
            return []
        import networkx  # takes longer than to check most workflows, and on most it is not needed

        knots = [knot for knot in networkx.strongly_connected_components(self.digraph) if self._is_knot(knot)]
        found: list[tuple[str, ...]] = []
        for knot in sorted(knots, key=lambda knot: min(self.order[one] for one in knot)):
            inner = self.digraph.subgraph(sorted(knot, key=self.order.__getitem__)).copy()
            bound = min(len(knot), CYCLE_LENGTH_MAX)
            here = []
            for cycle in networkx.simple_cycles(inner, length_bound=bound):
                here.append(self._from_first([str(one) for one in cycle]))
                if len(here) >= CYCLES_MAX:
                    break
            if not here:
                edges = networkx.find_cycle(inner, min(knot, key=self.order.__getitem__))
                here = [self._from_first([str(edge[0]) for edge in edges])]
            found += sorted(here, key=lambda cycle: (len(cycle), [self.order[one] for one in cycle]))
        return found[:CYCLES_MAX]

    def _is_knot(self, knot: set[str]) -> bool:
        return len(knot) > 1 or any(self.digraph.has_edge(one, one) for one in knot)

    def _from_first(self, cycle: list[str]) -> tuple[str, ...]:
        """Against the arrows, from the node that stands first in the file."""
        against = cycle[::-1]
        start = against.index(min(against, key=self.order.__getitem__))
        turned = against[start:] + against[:start]
        return (*turned, turned[0])

    def behind_cycles(self) -> list[str]:
        """Nodes that stand on a cycle without being part of one."""
        import networkx

        inside: set[str] = set()
        for knot in networkx.strongly_connected_components(self.digraph):
            if self._is_knot(knot):
                inside |= knot
        reached: set[str] = set()
        for name in inside:
            if name not in reached:
                reached |= networkx.descendants(self.digraph, name)
        return sorted(reached - inside, key=self.order.__getitem__)

    @cached_property
    def topological(self) -> list[str]:
        """Generation by generation, in the order of the file within each."""
        return [name for generation in self.generations for name in generation]

    @cached_property
    def generations(self) -> list[list[str]]:
        """Nodes that could run side by side, each in the order of the file (Kahn, CACM 1962). What is on a
        cycle, or behind one, is in none."""
        stands_on: dict[str, set[str]] = {name: set() for name in self.nodes}
        for node in self._graph.nodes:
            stands_on[node.node_id].update(edge.node for edge in node.depends_on if edge.node in self.nodes)
        left = {name: len(before) for name, before in stands_on.items()}
        after: dict[str, list[str]] = {}
        for name, before in stands_on.items():
            for one in before:
                after.setdefault(one, []).append(name)
        found, level = [], [name for name, count in left.items() if not count]
        while level:
            found.append(sorted(level, key=self.order.__getitem__))
            level = []
            for name in (follower for one in found[-1] for follower in after.get(one, ())):
                left[name] -= 1
                if not left[name]:
                    level.append(name)
        return found

    @property
    def is_acyclic(self) -> bool:
        """Whether each node can have its turn."""
        return sum(map(len, self.generations)) == len(self.nodes)

    # --- before and after

    @cached_property
    def _before(self) -> dict[str, int]:
        """Of each node the set of all it stands on, as bits by the order of the file."""
        masks: dict[str, int] = {}
        for name in self.topological:
            mask = 0
            for before in self.digraph.predecessors(name):
                mask |= masks[before] | 1 << self.order[before]
            masks[name] = mask
        return masks

    def is_before(self, one: str, other: str) -> bool:
        """Whether `other` stands on `one`, directly or not."""
        undone = self.nodes[other].type is NodeType.COMPENSATE
        return undone or bool(self._before[other] >> self.order[one] & 1)

    def from_here(self, names: Iterable[str]) -> set[str]:
        """These nodes, and all that stand on one of them."""
        import networkx

        found: set[str] = set()
        for name in names:
            if name not in found:  # else all behind it has been found too
                found |= {name, *networkx.descendants(self.digraph, name)}
        return found

    def unreached(self, entries: Iterable[str]) -> list[str]:
        import networkx

        reached: set[str] = set(entries)
        for entry in list(reached):
            reached |= networkx.descendants(self.digraph, entry)
        ordinary = {name for name, node in self.nodes.items() if node.type is not NodeType.COMPENSATE}
        return sorted(ordinary - reached, key=self.order.__getitem__)

    @cached_property
    def producers(self) -> dict[str, str]:
        """The node whose output a name is: ids and output variables."""
        found = {node.node_id: node.node_id for node in self._graph.nodes}
        return {**found, **{node.output_var: node.node_id for node in self._graph.nodes if node.output_var}}

    def asked_for(self, node: GraphNode) -> set[str]:
        """Nodes about whose end its condition asks."""
        try:
            return expr.nodes_asked_for(expr.parse(node.when)) if node.when else set()
        except ValueFault:
            return set()

    # --- branches

    def impossible(self) -> dict[str, str]:
        """Nodes that need several outcomes of one branching node at once, with that node."""
        needs: dict[str, frozenset[tuple[str, str]]] = {}
        found: dict[str, str] = {}
        for name in self.topological:
            node = self.nodes[name]
            paths = [
                needs.get(edge.node, frozenset()) | ({(edge.node, edge.when)} if edge.when else frozenset())
                for edge in node.depends_on
                if edge.node in self.nodes
            ]
            strict = node.join.kind is JoinKind.ALL or len(node.agents) > 1
            strict = strict and not expr.text_looks_at_ends(node.when)
            merged = frozenset[tuple[str, str]]().union(*paths) if strict else _common(paths)
            branches = [branch for branch, _ in merged]
            twice = sorted({branch for branch in branches if branches.count(branch) > 1})
            if twice:
                found[name] = twice[0]
                merged = frozenset()  # what stands on it is not reported again
            needs[name] = merged
        return found


def _common(paths: list[frozenset[tuple[str, str]]]) -> frozenset[tuple[str, str]]:
    return frozenset.intersection(*paths) if paths else frozenset()
