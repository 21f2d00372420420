"""Workflows for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from coterie.client import job, workflows
from coterie.client.models import TaskInfo
from coterie.client.spec import TaskOptions
from coterie.client.sync_queueing import Run
from coterie.client.workflow import Workflow


class Workflows:
    """See `coterie.client.workflows.Workflows`."""

    def __init__(self, run: Run, inner: workflows.Workflows, made: Callable[[job.Job], Any]) -> None:
        self._run, self._inner, self._made = run, inner, made

    def plan(self, workflow: Workflow | str = "", *, kept: str = "") -> workflows.Plan:
        """See `coterie.client.workflows.Workflows.plan`."""
        return self._run(self._inner.plan(workflow, kept=kept))

    def run(
        self,
        workflow: Workflow | str = "",
        inputs: Mapping[str, Any] | None = None,
        *,
        kept: str = "",
        **options: Unpack[TaskOptions],
    ) -> Any:
        """See `coterie.client.workflows.Workflows.run`; returns a blocking Job."""
        return self._made(self._run(self._inner.run(workflow, inputs, kept=kept, **options)))

    def get(self, run_id: str, *, graph: bool = False, stale: bool = False) -> workflows.RunInfo:
        """See `coterie.client.workflows.Workflows.get`."""
        return self._run(self._inner.get(run_id, graph=graph, stale=stale))

    def retry(self, run_id: str, *, from_node: str = "", request_id: str = "") -> Any:
        """See `coterie.client.workflows.Workflows.retry`; returns a blocking Job."""
        return self._made(self._run(self._inner.retry(run_id, from_node=from_node, request_id=request_id)))

    def add_nodes(self, run_id: str, nodes: Workflow | str) -> TaskInfo:
        """See `coterie.client.workflows.Workflows.add_nodes`."""
        return self._run(self._inner.add_nodes(run_id, nodes))

    def apply(self, name: str, workflow: Workflow | str, *, revision: int = 0) -> workflows.KeptWorkflow:
        """See `coterie.client.workflows.Workflows.apply`."""
        return self._run(self._inner.apply(name, workflow, revision=revision))

    def show(self, name: str) -> workflows.KeptWorkflow:
        """See `coterie.client.workflows.Workflows.show`."""
        return self._run(self._inner.show(name))

    def list(self) -> workflows.Kept:
        """See `coterie.client.workflows.Workflows.list`."""
        return self._run(self._inner.list())

    def remove(self, name: str) -> None:
        """See `coterie.client.workflows.Workflows.remove`."""
        self._run(self._inner.remove(name))
