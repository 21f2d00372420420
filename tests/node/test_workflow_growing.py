"""Nodes for a live run: how many at once, and the same ones twice."""

from __future__ import annotations

import json

import pytest

from coterie.core.commands import Accepted
from coterie.core.nouns import TaskId
from coterie.core.runs.commands import AddNodes
from coterie.core.runs.rules import ADDED_BYTES_MAX, ADDED_NODES_MAX
from coterie.core.state import ClusterState
from coterie.node.errors import ApiError
from coterie.node.workflows import Known, load
from coterie.node.workflows.growing import bytes_of, more_nodes
from tests.core.runs.world import RUN, World, echo


@pytest.mark.parametrize(("count", "pad"), [(ADDED_NODES_MAX + 1, ""), (2, "x" * (ADDED_BYTES_MAX // 2))])
def test_an_addition_that_is_too_large_names_the_field_the_value_and_the_limit(count: int, pad: str) -> None:
    nodes = {f"n{at}": {"skill": "echo", "input": pad} for at in range(count)}
    loaded = load(json.dumps({"nodes": nodes}), Known(), name="nodes")
    with pytest.raises(ApiError) as refused:
        more_nodes(ClusterState(), TaskId("r"), loaded, Known())
    assert refused.value.reason == "TOO_LARGE"
    (violation,) = refused.value.violations
    assert violation.field == "nodes" and "in several additions" in violation.description
    assert str(ADDED_BYTES_MAX if pad else ADDED_NODES_MAX) in violation.description


def test_as_many_as_may_be_are_taken() -> None:
    nodes = {f"n{at}": {"skill": "echo"} for at in range(ADDED_NODES_MAX)}
    loaded = load(json.dumps({"nodes": nodes}), Known(), name="nodes")
    assert len(more_nodes(ClusterState(), TaskId("r"), loaded, Known()).nodes) == ADDED_NODES_MAX


def test_what_was_added_may_be_asked_for_again() -> None:
    """By the next attempt of a planner that was lost before it heard that its nodes were there."""
    world, known = World(), Known(skills=frozenset({"echo"}))
    world.run(echo("plan"))
    text = json.dumps({"nodes": {"a": {"skill": "echo", "depends_on": "plan"}, "b": {"skill": "echo"}}})
    for duplicate in (False, True):
        more = more_nodes(world.state, RUN, load(text, known, name="nodes"), known)
        assert [node.node_id for node in more.nodes] == ["a", "b"]
        assert world.do(AddNodes(RUN, bytes_of(more))) == Accepted(RUN, duplicate=duplicate)
    other = json.dumps({"nodes": {"a": {"skill": "echo"}}})
    with pytest.raises(ApiError, match="DUPLICATE_ID"):
        more_nodes(world.state, RUN, load(other, known, name="nodes"), known)
