"""Graphs of large runs are read in a thread, so that no entry has to."""

from __future__ import annotations

import asyncio

import pytest

from coterie.core.nouns import Data
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.outline import LARGE_BYTES, known_outline
from coterie.core.runs.run import WORKFLOW
from coterie.node.workflows.ahead import Ahead
from tests.core.builders import CoreCluster, submit_command
from tests.core.runs.world import RUN, echo, raw

GOOD = raw({"nodes": [echo("a", input="x" * LARGE_BYTES)]})
SMALL = raw({"nodes": [echo("a")]})
BROKEN = b"[" + b"x" * LARGE_BYTES


async def looked_at(graph: bytes, restored: bool) -> int:
    """How many graphs were read when a run of this one was submitted, or found in a snapshot."""
    cluster = CoreCluster()
    cluster.do(RunWorkflow(submit_command(RUN, type=WORKFLOW, payload=Data(b"{}")), graph))
    known_outline.cache_clear()
    ahead = Ahead(lambda: cluster.state)
    if restored:
        ahead.look_at_all()
    else:
        ahead.look(cluster.events)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others)
    return known_outline.cache_info().misses


@pytest.mark.parametrize("restored", [False, True])
async def test_a_large_graph_is_read_before_its_run_begins(restored: bool) -> None:
    assert await looked_at(GOOD, restored) == 1
    assert known_outline.cache_info().currsize == 1


async def test_a_small_one_is_left_to_the_entry_itself() -> None:
    assert await looked_at(SMALL, restored=True) == 0


async def test_one_that_cannot_be_read_is_no_fault_of_the_node() -> None:
    assert await looked_at(BROKEN, restored=False) == 1
