"""Tasks leave a node that drains or is too full, with where they are; or stay to their end, as configured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.client import Cluster, Job
from tests.cluster.conftest import READY_S, client_of, new_cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def options(**migration: Any) -> dict[str, Any]:
    return {
        "distribution": {"adaptive": {"rebalanceInterval": "1s", "threshold": 0.6}},
        "faultTolerance": {"failover": {"taskMigration": migration}},
    }


async def started(job: Job) -> str:
    async def node() -> str:
        info = await job.get()
        return str(info.node) if info.state == "RUNNING" else ""

    return str(await until(node, "the task runs"))


async def events(client: Cluster, job: Job, kind: str) -> list[str]:
    return [event.type async for event in client.job(job.id).watch() if event.type == kind]


async def test_a_task_without_steps_is_asked_where_it_is() -> None:
    """Each interval, so that a kill -9 costs little; and when its node drains, so that it leaves."""
    with new_cluster(options(checkpointInterval="300ms")) as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            job = await client.submit_task(type="count", payload={"to": 120, "pause_ms": 50})
            first = await started(job)

            async def asked() -> bool:
                kept = (await job.get()).raw.checkpoint.inline
                return bool(kept) and json.loads(kept)["at"] >= 10

            await until(asked, "a checkpoint is kept, and another one after it")
            cluster.kill_node(first)

            async def elsewhere() -> str:
                info = await job.get()
                return str(info.node) if info.state == "RUNNING" and info.node != first else ""

            second = str(await until(elsewhere, "the task runs elsewhere"))
            cluster.start_node(first)
            await client.drain_node(second, deadline=60)
            attempts = await job.wait(timeout=60)
            await client.undrain_node(second)
            assert [node for _, node in attempts][:2] == [first, second] and len(attempts) == 3
            begun = [at for at, _ in attempts]
            assert 0 == begun[0] < begun[1] <= begun[2] < 120, "each attempt went on where the last one was"


async def test_what_runs_ends_where_it_is_when_it_is_not_to_be_migrated() -> None:
    with new_cluster(options(migrateInProgress=False)) as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            job = await client.submit_task(type="count", payload={"to": 40, "pause_ms": 50})
            overdue = await client.submit_task(type="count", payload={"to": 10_000, "pause_ms": 50})
            node = await started(job)
            while await started(overdue) != node:
                await overdue.cancel()
                overdue = await client.submit_task(type="count", payload={"to": 10_000, "pause_ms": 50})
            await client.drain_node(node, deadline=6)
            assert await job.wait(timeout=60) == [[0, node]]

            async def moved() -> bool:
                info = await overdue.get()
                return info.state == "RUNNING" and info.node != node

            await until(moved, "the deadline ends what would not end")
            await overdue.cancel()


async def test_a_full_node_hands_work_to_one_that_comes_back() -> None:
    with new_cluster(options(checkpointInterval="1s"), capacity=4) as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            late = cluster.node_ids[2]
            cluster.kill_node(late)
            work = {"type": "count", "payload": {"to": 400, "pause_ms": 50}}
            jobs = await client.submit_tasks([work] * 8)
            for job in jobs:
                await started(job)
            cluster.start_node(late)

            async def shared() -> bool:
                return sum([(await job.get()).node == late for job in jobs]) >= 2

            await until(shared, "the node that came back has got work", timeout_s=60)
            for job in jobs:
                await job.cancel()
            moved = [len(await events(client, job, "move_requested")) for job in jobs]
            assert 2 <= sum(moved) <= 4 and max(moved) == 1, "no task is sent to and fro"
