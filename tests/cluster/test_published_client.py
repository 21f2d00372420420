"""The published client example, line by line in Python, against the published cluster file's shape."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coterie.client import Cluster, Progress, TaskInfo, TaskRouter
from tests.cluster.conftest import READY_S, client_of, new_cluster, until

pytestmark = pytest.mark.cluster

ZONES = {"node-1": {"zone": "a"}, "node-2": {"zone": "a"}, "node-3": {"zone": "b"}}


async def distribute_task(config_path: Path, task: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """distributeTask: status, route, submit with progress, wait through failovers."""
    said: list[str] = []

    def on_progress(progress: Progress) -> None:
        said.append(f"{progress.percent:.0f}% ({progress.message})")

    async with Cluster(config_path=config_path, auto_discovery=True) as cluster:
        status = await cluster.get_status()
        said.append(f"{status.active_nodes}/{status.total_nodes} nodes, {status.active_tasks} tasks")

        router = TaskRouter(cluster)
        constraints = {"requireGPU": task.get("needsGPU", False), "preferSameZone": True, "maxLatency": "5s"}
        target_node = await router.route(task, strategy="least-loaded", constraints=constraints)

        job = await cluster.submit_task(
            target_node,
            {
                "type": task["type"],
                "payload": task["payload"],
                "priority": task.get("priority", "normal"),
                "timeout": task.get("timeout", "10m"),
                "checkpoint": True,
            },
            on_progress=on_progress,
        )
        result = await job.wait(failover=True, timeout=task.get("timeout", "10m"))
        return result, said


async def map_reduce(cluster: Cluster, documents: Sequence[Any], map_skill: str, reduce_skill: str) -> Any:
    """mapReduce: submit the maps, keep what succeeded, reduce it where the coordinator is. The functions are
    skills; and the results are waited for, which the original forgets."""
    map_tasks = [
        {"id": f"map-{i}", "type": map_skill, "payload": document, "priority": "normal"}
        for i, document in enumerate(documents)
    ]

    async def run(task: Mapping[str, Any]) -> Any:
        return await (await cluster.submit_task(task)).wait(timeout=60)

    map_results = await asyncio.gather(*(run(task) for task in map_tasks), return_exceptions=True)
    successful_maps = [result["sum"] for result in map_results if not isinstance(result, BaseException)]
    failed = [str(result) for result in map_results if isinstance(result, BaseException)]
    reduce_task = await cluster.submit_task(
        {
            "id": "reduce-0",
            "type": reduce_skill,
            "payload": {"results": successful_maps, "failed": failed},
            "priority": "high",
            "requireNode": "coordinator",
        }
    )
    return await reduce_task.wait(timeout=60)


async def test_the_published_example_runs_and_survives_the_death_of_its_node() -> None:
    with new_cluster({"cluster": {"nodes": ZONES}}) as nodes:
        await nodes.wait_ready(READY_S)
        task = {"type": "sleep", "payload": {"seconds": 6.0, "steps": 12}}
        example = asyncio.create_task(distribute_task(nodes.config_path, task))
        async with Cluster(config_path=nodes.config_path) as cluster:

            async def under_way() -> list[TaskInfo]:
                """With steps that are to be kept."""
                return [
                    task async for task in cluster.list_tasks(filter="state=RUNNING") if task.step_count > 2
                ]

            [running] = await until(under_way, "three of its steps are recorded")
            nodes.kill_node(running.node)
            result, said = await example
            ended = await cluster.job(running.id).get()
        assert result == {"slept_seconds": 6.0, "steps": 12}
        assert said[0] == "3/3 nodes, 0 tasks"
        assert len(said) > 3 and int(said[-1].partition("%")[0]) > 50  # the last may come after the result
        assert ended.losses == 1 and ended.node != running.node


async def test_the_published_map_reduce_runs_and_reduces_on_the_coordinator() -> None:
    with new_cluster() as nodes:
        await nodes.wait_ready(READY_S)
        async with client_of(nodes) as cluster:
            documents = [{"results": numbers} for numbers in ([1, 2], [3], ["no number"], [4, 5])]
            result = await map_reduce(cluster, documents, "add-up", "add-up")
            assert result == {"sum": 15, "of": 3, "failed": 1}
            reduced = await cluster.job("reduce-0").get()
            assert reduced.node == (await cluster.get_status()).leader


async def test_the_gpu_that_no_node_has_is_said_so_for_every_node() -> None:
    with new_cluster() as nodes:
        await nodes.wait_ready(READY_S)
        async with Cluster(config_path=nodes.config_path) as cluster:
            task = {"type": "echo", "payload": 1}
            route = await TaskRouter(cluster).route(task, constraints={"requireGPU": True})
            assert (route.node, route.wait_reason) == ("", "NO_NODE")
            job = await cluster.submit_task(type="echo", payload=1, constraints={"requireGPU": True})
            info = await job.get()
            assert (info.state, info.wait_reason) == ("PENDING", "NO_NODE")
            assert info.wait_detail.count("GPU") == 3
