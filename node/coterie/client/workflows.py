"""Plans, runs and kept workflows: `cluster.workflows`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Unpack

from coterie.client.connection import Connection
from coterie.client.job import Job
from coterie.client.models import TaskInfo
from coterie.client.spec import TaskOptions, TaskSpec, prepare
from coterie.client.workflow import Workflow
from coterie.v1 import tasks_pb2, workflows_pb2

Opened = Callable[[], Connection]
ENDED = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a workflow. `cycle`: the path, when it is one."""

    code: str
    where: str
    text: str
    cycle: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """How a workflow would run. Stages are a view: nodes do not wait for one."""

    problems: tuple[Problem, ...]
    stages: tuple[tuple[str, ...], ...]
    critical_path: tuple[str, ...]
    critical_ms: int
    needs: tuple[str, ...]
    text: str
    mermaid: str
    graph: Any = None


@dataclass(frozen=True, slots=True)
class RunNode:
    """One node of a run. `state`: PENDING, READY, RUNNING, WAITING, SUCCEEDED, FAILED, SKIPPED, CANCELLED."""

    id: str
    type: str
    state: str
    depends_on: tuple[str, ...] = ()
    tasks: int = 0
    live: int = 0
    total: int = 0
    since: datetime | None = None
    until: datetime | None = None
    ended: datetime | None = None
    outcome: str = ""
    code: str = ""
    message: str = ""

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in ENDED

    @classmethod
    def of(cls, raw: workflows_pb2.RunNode) -> RunNode:
        """The dataclass for a message."""
        return cls(
            raw.id,
            raw.type,
            raw.state,
            tuple(raw.depends_on),
            raw.tasks,
            raw.live,
            raw.total,
            _time(raw.since_ms),
            _time(raw.until_ms),
            _time(raw.ended_at_ms),
            raw.outcome,
            raw.code,
            raw.message,
        )


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run with its nodes, in the order of the workflow."""

    task: TaskInfo
    workflow: str
    nodes: tuple[RunNode, ...]
    graph: Any = None
    mermaid: str = field(default="", repr=False)

    def node(self, node_id: str) -> RunNode:
        """The node of that id. Raises KeyError."""
        return {node.id: node for node in self.nodes}[node_id]


@dataclass(frozen=True, slots=True)
class KeptWorkflow:
    """A workflow that is kept under a name; `text` is empty in lists."""

    name: str
    revision: int
    applied: datetime | None
    text: str = ""


Kept = list[KeptWorkflow]  # inside Workflows `list` is a method


class Workflows:
    """See the methods. A workflow is given as a `Workflow`, as YAML or JSON text, or as `kept=NAME`."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    async def plan(self, workflow: Workflow | str = "", *, kept: str = "") -> Plan:
        """What is wrong with it, and how it would run. Raises NotFound for a name that is not kept."""
        connection = self._opened()
        request = workflows_pb2.PlanWorkflowRequest(
            parent=f"tenants/{connection.tenant}", source=_source(workflow, kept)
        )
        raw = await connection.caller.unary(lambda e: e.workflows.PlanWorkflow, request)
        return Plan(
            tuple(Problem(one.code, one.where, one.text, tuple(one.cycle)) for one in raw.problems),
            tuple(tuple(stage.nodes) for stage in raw.stages),
            tuple(raw.critical_path),
            raw.critical_ms,
            tuple(raw.needs),
            raw.text,
            raw.mermaid,
            json.loads(raw.graph) if raw.graph else None,
        )

    async def run(
        self,
        workflow: Workflow | str = "",
        inputs: Mapping[str, Any] | None = None,
        *,
        kept: str = "",
        **options: Unpack[TaskOptions],
    ) -> Job:
        """Begins a run and returns its Job: `job.wait()` gives the workflow's outputs. `options` are those of
        `submit_task`; a task of the run has them too where they make sense. The same `request_id` gives
        the same run. Raises InvalidRequest with all that is wrong."""
        connection = self._opened()
        spec = TaskSpec.of({"type": "workflow", "payload": dict(inputs or {}), **options})
        prepared = prepare(spec, connection.tenant)
        asked = prepared.request
        if prepared.blob is not None:
            asked.task.payload.inline = prepared.blob
        request = workflows_pb2.RunWorkflowRequest(
            parent=asked.parent,
            source=_source(workflow, kept),
            task=asked.task,
            request_id=asked.request_id,
        )
        raw = await connection.caller.unary(
            lambda e: e.workflows.RunWorkflow, request, request_id=asked.request_id
        )
        return Job(connection, raw.name, raw)

    async def get(self, run_id: str, *, graph: bool = False, stale: bool = False) -> RunInfo:
        """A run, live or ended, with its nodes. Raises NotFound, FailedPrecondition (it is no run)."""
        connection = self._opened()
        mode = tasks_pb2.STALE if stale else tasks_pb2.LINEARIZABLE
        request = workflows_pb2.GetRunRequest(
            name=connection.task_name(run_id), read_mode=mode, include_graph=graph
        )
        raw = await connection.caller.unary(lambda e: e.workflows.GetRun, request)
        nodes = tuple(RunNode.of(node) for node in raw.nodes)
        found = json.loads(raw.graph) if raw.graph else None
        return RunInfo(TaskInfo.of(raw.task), raw.workflow, nodes, found, raw.mermaid)

    async def retry(self, run_id: str, *, from_node: str = "", request_id: str = "") -> Job:
        """A new run of one that has ended: what had succeeded is taken over; from `from_node` on it is done
        again. Raises FailedPrecondition (it is live, or succeeded and no node is named), NotFound."""
        connection, request_id = self._opened(), request_id or uuid.uuid4().hex
        request = workflows_pb2.RetryRunRequest(
            name=connection.task_name(run_id), from_node=from_node, request_id=request_id
        )
        raw = await connection.caller.unary(lambda e: e.workflows.RetryRun, request, request_id=request_id)
        return Job(connection, raw.name, raw)

    async def add_nodes(self, run_id: str, nodes: Workflow | str) -> TaskInfo:
        """More nodes for a live run, which may stand on those it has. When the answer is lost it is not
        repeated, for they cannot be added twice: Unavailable says so. Raises InvalidRequest."""
        connection = self._opened()
        text = nodes.text() if isinstance(nodes, Workflow) else nodes
        request = workflows_pb2.AddNodesRequest(name=connection.task_name(run_id), text=text)
        look = "look with workflows.get before you repeat it"
        return TaskInfo.of(await connection.caller.unary(lambda e: e.workflows.AddNodes, request, look=look))

    async def apply(self, name: str, workflow: Workflow | str, *, revision: int = 0) -> KeptWorkflow:
        """Keeps it under a name. `revision`: the one it replaces; 0: any. Raises InvalidRequest, Aborted."""
        connection = self._opened()
        text = workflow.text() if isinstance(workflow, Workflow) else workflow
        request = workflows_pb2.ApplyWorkflowRequest(
            parent=f"tenants/{connection.tenant}", name=name, text=text, revision=revision
        )
        return _kept(await connection.caller.unary(lambda e: e.workflows.ApplyWorkflow, request))

    async def show(self, name: str) -> KeptWorkflow:
        """One that is kept, with its text. Raises NotFound."""
        connection = self._opened()
        request = workflows_pb2.GetWorkflowRequest(parent=f"tenants/{connection.tenant}", name=name)
        return _kept(await connection.caller.unary(lambda e: e.workflows.GetWorkflow, request))

    async def list(self) -> Kept:
        """Those that are kept, by name."""
        connection = self._opened()
        request = workflows_pb2.ListWorkflowsRequest(parent=f"tenants/{connection.tenant}")
        answer = await connection.caller.unary(lambda e: e.workflows.ListWorkflows, request)
        return [_kept(raw) for raw in answer.workflows]

    async def remove(self, name: str) -> None:
        """Keeps it no longer; its runs go on. Raises NotFound."""
        connection = self._opened()
        request = workflows_pb2.DeleteWorkflowRequest(parent=f"tenants/{connection.tenant}", name=name)
        await connection.caller.delete(lambda e: e.workflows.DeleteWorkflow, request)


def _source(workflow: Workflow | str, kept: str) -> workflows_pb2.WorkflowSource:
    if kept:
        return workflows_pb2.WorkflowSource(workflow=kept)
    if isinstance(workflow, Workflow):
        return workflows_pb2.WorkflowSource(text=workflow.text(), rule=workflow.rule)
    return workflows_pb2.WorkflowSource(text=workflow)


def _kept(raw: workflows_pb2.Workflow) -> KeptWorkflow:
    return KeptWorkflow(raw.name, raw.revision, _time(raw.applied_at_ms), raw.text)


def _time(ms: int) -> datetime | None:
    return datetime.fromtimestamp(ms / 1000, UTC) if ms else None
