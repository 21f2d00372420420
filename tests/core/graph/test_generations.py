"""Generations and cycles of random graphs are those that networkx finds."""

from __future__ import annotations

import random

import networkx
import pytest

from coterie.core.graph.flow import Flow
from coterie.core.graph.model import Edge, Graph, GraphNode


def random_graph(seed: int) -> Graph:
    dice = random.Random(seed)
    names = [f"n{number}" for number in range(dice.randrange(8))]
    dice.shuffle(names)
    cyclic, nodes = dice.random() < 0.5, []
    for place, name in enumerate(names):
        may = [*(names if cyclic else names[:place]), "unknown"]
        edges = (Edge(one, dice.choice(["", "true"])) for one in may if dice.random() < 0.3)
        nodes.append(GraphNode(name, depends_on=tuple(edges)))
    return Graph(nodes=tuple(nodes))


@pytest.mark.parametrize("seed", range(200))
def test_generations_are_the_topological_ones(seed: int) -> None:
    flow = Flow(random_graph(seed))
    assert flow.is_acyclic is networkx.is_directed_acyclic_graph(flow.digraph)
    assert flow.is_acyclic is not bool(flow.cycles())
    if flow.is_acyclic:
        generations = networkx.topological_generations(flow.digraph)
        assert flow.generations == [sorted(each, key=flow.order.__getitem__) for each in generations]
