"""Inputs of runs and the tables they leave, at the bounds of what JSON may be."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.graph.values import VALUE_DEPTH_MAX
from coterie.core.nouns import Data
from coterie.node.errors import ApiError
from coterie.node.workflows import load
from coterie.node.workflows.runs import graph_left_by
from coterie.node.workflows.service import _check_inputs
from tests.core.runs.world import World, echo


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_a_graph_as_deep_as_may_be_leaves_a_table() -> None:
    world, deep = World(), nested(VALUE_DEPTH_MAX - 3)  # inside of a graph, its nodes and one of them
    world.run(echo("a", input=deep))
    world.give("a", 1)
    graph, rows = graph_left_by(world.ended())
    assert (len(graph.nodes), rows[0]["id"]) == (1, "a")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"size": ', "not JSON"),
        (b'{"size": ' + b"[" * VALUE_DEPTH_MAX + b"]" * VALUE_DEPTH_MAX + b"}", "nested deeper than"),
    ],
)
def test_inputs_that_cannot_be_read_are_refused_and_not_taken_for_none(payload: bytes, said: str) -> None:
    loaded = load("inputs: {size: 3}\nnodes: {a: {skill: echo, input: '{{ size }}'}}")
    assert loaded.problems == ()
    with pytest.raises(ApiError, match=said):
        _check_inputs(loaded, Data(payload))
    _check_inputs(loaded, Data(b'{"size": 4}'))
    _check_inputs(loaded, Data(b""))
