"""A node that has just started knows little of the cluster yet: it refuses nothing for that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from coterie.client import Cluster
from coterie.client.schedules import Timing
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import client_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

HERE = "node-3"
ON_IT = {"target_node": HERE}
GRAPH = "name: inner\nnodes:\n  a: {skill: echo}\n"
OUTER = "name: outer\nnodes:\n  a: {workflow: inner}\n"


async def submitted(client: Cluster) -> str:
    job = await client.submit_task(type="echo", payload={"n": 1}, target_node=HERE)
    return str((await job.wait(timeout=60))["n"])


CALLS: dict[str, Callable[[Cluster], Awaitable[object]]] = {
    "a task for a node": submitted,
    "a schedule of tasks for a node": lambda client: client.schedules.apply(
        "nightly", Timing(cron="0 3 * * *"), type="echo", constraints=ON_IT
    ),
    "a run on a node": lambda client: client.workflows.run(GRAPH, constraints=ON_IT),
    "a workflow that names another": lambda client: client.workflows.apply("outer", OUTER),
    "a goal for a node": lambda client: client.goals.submit("say hello", constraints=ON_IT),
}


async def test_what_a_node_has_not_heard_of_yet_is_no_reason_to_refuse(fresh: LocalCluster) -> None:
    """The other nodes stand still, so it cannot have heard of anything when it is asked."""
    async with client_of(fresh, HERE) as client:
        await client.workflows.apply("inner", GRAPH)
    fresh.kill_node(HERE)
    others = [node_id for node_id in fresh.node_ids if node_id != HERE]
    for node_id in others:
        fresh.pause_node(node_id)
    fresh.start_node(HERE)
    async with client_of(fresh, HERE) as client:
        calls = {name: asyncio.ensure_future(call(client)) for name, call in CALLS.items()}
        await asyncio.sleep(6)
        refused = {name: repr(call.exception()) for name, call in calls.items() if call.done()}
        for node_id in others:
            fresh.resume_node(node_id)
        assert not refused
        await asyncio.wait_for(asyncio.gather(*calls.values()), 60)
