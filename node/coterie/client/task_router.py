"""A router of one's own, for programs that ask first and submit then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.client.cluster import Cluster
from coterie.client.routes import Route
from coterie.client.spec import TaskSpec


class TaskRouter:
    """Asks where a task would go, before it is submitted:

        node = await TaskRouter(cluster).route(task, constraints={"requireGPU": True})
        job = await cluster.submit_task(node, type=..., payload=...)

    The answer is a dry run: it is old when the task arrives, and a task that is given no node is placed
    better. `submit_task` takes a Route as target, as advice: where the node is gone or far busier by then,
    the task goes elsewhere. A route without a node leaves the choice to the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def route(
        self,
        task: TaskSpec | Mapping[str, Any],
        *,
        strategy: str = "",
        constraints: Mapping[str, Any] | None = None,
    ) -> Route:
        """The decision about `task` (a TaskSpec or a dict with its keys) by the cluster's own strategy or by
        `strategy`. `constraints` come on top of the task's own."""
        return await self._cluster.route_task(task, strategy=strategy, constraints=constraints)
