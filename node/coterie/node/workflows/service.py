"""The Workflows service: plan, run, look at, repeat, grow; and workflows kept under a name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace

import grpc

from coterie.core.commands import Accepted, Command, Outcome
from coterie.core.graph.model import Graph
from coterie.core.graph.near import near
from coterie.core.graph.plan import mermaid_of, plan_of, text_of
from coterie.core.graph.reading import graph_of
from coterie.core.graph.values import ValueFault, read_json
from coterie.core.nouns import Data
from coterie.core.runs.book import inputs_of
from coterie.core.runs.commands import AddNodes, RunWorkflow
from coterie.core.runs.run import WORKFLOW
from coterie.core.runs.texts import ApplyWorkflow, DeleteWorkflow, WorkflowText
from coterie.core.state import ClusterState
from coterie.core.submit_command import SubmitTask
from coterie.node.admission import checked_tenant, request_id_faults, task_id_of
from coterie.node.control import Control
from coterie.node.errors import ApiError, Violation, from_rejection, invalid, not_found
from coterie.node.goals.service import GoalParts, GoalsPart
from coterie.node.optimist import Optimist
from coterie.node.reads import Found
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.workflows import Known, Loaded, load
from coterie.node.workflows.aside import aside, size_of
from coterie.node.workflows.growing import bytes_of, known_to, more_nodes, refused_for
from coterie.node.workflows.runs import shown
from coterie.v1 import tasks_pb2, workflows_pb2

RUN_ID_MAX = 56
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class WorkflowParts:
    """What the service works on."""

    state: Callable[[], ClusterState]
    control: Control
    optimist: Optimist
    local_skills: Callable[[], frozenset[str]]
    goals: GoalParts


class WorkflowsService(GoalsPart):
    """Any node answers any call."""

    def __init__(self, parts: WorkflowParts, gate: Gate) -> None:
        super().__init__(parts.goals, gate)
        self._parts, self._control = parts, parts.control

    @unary
    async def PlanWorkflow(
        self, request: workflows_pb2.PlanWorkflowRequest, context: Context
    ) -> workflows_pb2.WorkflowPlan:
        loaded = await self._read(request.source, checked_tenant(request.parent), context)
        return await aside(size_of(loaded), lambda: _plan_to_pb(loaded))

    @unary
    async def RunWorkflow(
        self, request: workflows_pb2.RunWorkflowRequest, context: Context
    ) -> tasks_pb2.Task:
        tenant = checked_tenant(request.parent)
        loaded = await self._read(request.source, tenant, context)
        if loaded.problems:
            raise refused_for(loaded.problems)
        graph = await aside(size_of(loaded), lambda: _ready_to_run(loaded.graph))
        submit = await self._control.reader.confirmed(
            lambda: self._submit(request, graph, loaded.graph.timeout_ms), seconds_left(context)
        )
        _check_inputs(loaded, submit.payload)
        if request.validate_only:
            return request.task
        await self._control.reader.connected()
        if request.task.task_id:
            await self._control.reader.refuse_known_id(submit)
        return await self._commit(RunWorkflow(submit, graph), context)

    @unary
    async def GetRun(
        self, request: workflows_pb2.GetRunRequest, context: Context
    ) -> workflows_pb2.WorkflowRun:
        task_id, reader = task_id_of(request.name), self._control.reader
        await reader.barrier(request.read_mode, seconds_left(context))
        found = await reader.get(task_id, seconds_left(context))
        if found.task.type != WORKFLOW:
            text = f"task {task_id} is not a run of a workflow"
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "NOT_A_RUN", text)
        run = self._parts.state().runs.get(task_id)
        if run is None:
            found = await reader.get(task_id, seconds_left(context))
        task, now = found.task, run.view() if run is not None else None
        large = len(now.head.graph) if now is not None else len(task.checkpoint.inline)
        answer = await aside(large, lambda: shown(task, now, with_graph=request.include_graph))
        answer.task.CopyFrom(reader.to_pb(Found(found.task)))
        return answer

    @unary
    async def RetryRun(self, request: workflows_pb2.RetryRunRequest, context: Context) -> tasks_pb2.Task:
        if wrong := request_id_faults(request.request_id):
            raise invalid(wrong)
        task_id = task_id_of(request.name)
        return await self._control.run_from(
            task_id, request.request_id, request.from_node, propose_seconds(context)
        )

    @unary
    async def AddNodes(self, request: workflows_pb2.AddNodesRequest, context: Context) -> tasks_pb2.Task:
        task_id = task_id_of(request.name)
        found = await self._control.reader.get(task_id, seconds_left(context))  # may the caller see it?
        # What the nodes stand on may have been added a moment ago, by another node.
        await self._control.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        known = self._known(found.task.tenant)
        loaded = await aside(len(request.text), lambda: load(request.text, known, name="nodes"))
        nodes = more_nodes(self._parts.state(), task_id, loaded, known)
        return await self._commit(AddNodes(task_id, bytes_of(nodes)), context)

    # --- kept workflows

    @unary
    async def ApplyWorkflow(
        self, request: workflows_pb2.ApplyWorkflowRequest, context: Context
    ) -> workflows_pb2.Workflow:
        tenant = checked_tenant(request.parent)
        if not _NAME.fullmatch(request.name):
            text = f"{request.name!r}: use 1 to 64 letters, digits and . _ -"
            raise invalid([Violation("name", text)])
        loaded = await self._twice(lambda: self._form(request.text, tenant, request.name), context)
        if loaded.problems:
            raise refused_for(loaded.problems)
        command = ApplyWorkflow(tenant, request.name, request.text, request.revision)
        if request.validate_only:
            return workflows_pb2.Workflow(name=request.name, text=request.text)
        await self._tell(command, context)
        return _workflow_to_pb(self._kept(tenant, request.name), with_text=True)

    @unary
    async def GetWorkflow(
        self, request: workflows_pb2.GetWorkflowRequest, context: Context
    ) -> workflows_pb2.Workflow:
        tenant = checked_tenant(request.parent)
        await self._control.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        return _workflow_to_pb(self._kept(tenant, request.name), with_text=True)

    @unary
    async def ListWorkflows(
        self, request: workflows_pb2.ListWorkflowsRequest, context: Context
    ) -> workflows_pb2.ListWorkflowsResponse:
        tenant = checked_tenant(request.parent)
        await self._control.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        kept = sorted(self._workflows(tenant).values(), key=lambda one: one.name)
        rows = [_workflow_to_pb(one, with_text=False) for one in kept]
        return workflows_pb2.ListWorkflowsResponse(workflows=rows)

    @unary
    async def DeleteWorkflow(
        self, request: workflows_pb2.DeleteWorkflowRequest, context: Context
    ) -> workflows_pb2.DeleteWorkflowResponse:
        await self._tell(DeleteWorkflow(checked_tenant(request.parent), request.name), context)
        return workflows_pb2.DeleteWorkflowResponse()

    # --- help

    def _workflows(self, tenant: str) -> Mapping[str, WorkflowText]:
        kept = self._parts.state().workflows.values()
        return {one.name: one for one in kept if one.tenant == tenant}

    def _kept(self, tenant: str, name: str) -> WorkflowText:
        kept = self._workflows(tenant).get(name)
        if kept is None:
            raise not_found("WORKFLOW", name)
        return kept

    def _known(self, tenant: str) -> Known:
        return known_to(self._parts.state(), tenant, self._parts.local_skills())

    async def _read(self, source: workflows_pb2.WorkflowSource, tenant: str, context: Context) -> Loaded:
        return await self._twice(lambda: self._loaded(source, tenant), context)

    async def _twice(self, read: Callable[[], Awaitable[Loaded]], context: Context) -> Loaded:
        """What is wrong by the replica of this node is looked at again when the replica is known to be fresh:
        a skill or a workflow may have come a moment ago, by another node."""
        try:
            loaded = await read()
            if not loaded.problems:
                return loaded
        except ApiError:
            pass
        await self._control.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        return await read()

    async def _loaded(self, source: workflows_pb2.WorkflowSource, tenant: str) -> Loaded:
        kind = source.WhichOneof("kind")
        if kind is None:
            raise invalid([Violation("source", "is missing; give the text of a workflow, or a name")])
        text = source.text if kind == "text" else self._kept(tenant, source.workflow).source
        name = "workflow" if kind == "text" else source.workflow
        return await self._form(text, tenant, name, source.rule)

    async def _form(self, text: str, tenant: str, name: str, rule: str = "") -> Loaded:
        known = self._known(tenant)
        return await aside(len(text), lambda: load(text, known, name=name, rule=rule))

    def _submit(self, request: workflows_pb2.RunWorkflowRequest, graph: bytes, timeout_ms: int) -> SubmitTask:
        """The run's task, checked like any other. Raises ApiError with all that is wrong."""
        asked = tasks_pb2.Task()
        asked.CopyFrom(request.task)
        asked.type = WORKFLOW
        asked.deadline_ms = asked.deadline_ms or timeout_ms
        if len(asked.task_id) > RUN_ID_MAX or "~" in asked.task_id:
            text = f"{asked.task_id!r}: a run's id has at most {RUN_ID_MAX} characters and no ~"
            raise invalid([Violation("task.task_id", text)])
        submit = tasks_pb2.SubmitTaskRequest(parent=request.parent, task=asked, request_id=request.request_id)
        nodes = self._parts.state().nodes.keys()
        command = self._control.admission.command(submit, self._control.clock.new_id(), {WORKFLOW}, nodes)
        digest = hashlib.sha256(command.digest + graph).digest()[:16]
        return replace(command, digest=digest)

    async def _commit(self, command: Command, context: Context) -> tasks_pb2.Task:
        with self._parts.optimist.with_next(command) as commands:
            outcome = (await self._control.proposer.propose(commands, propose_seconds(context)))[0]
        if not isinstance(outcome, Accepted):
            raise from_rejection(outcome)
        return self._control.reader.to_pb(
            await self._control.reader.get(outcome.task_id, seconds_left(context))
        )

    async def _tell(self, command: Command, context: Context) -> Outcome:
        await self._control.reader.connected()
        outcome = await self._control.proposer.one(command, propose_seconds(context))
        if not isinstance(outcome, Accepted):
            raise from_rejection(outcome)
        return outcome


def _ready_to_run(graph: Graph) -> bytes:
    """As _bytes_of; what the state machine will read of them here is read already."""
    raw = bytes_of(graph)
    graph_of(raw)
    return raw


def _check_inputs(loaded: Loaded, payload: Data) -> None:
    """Raises ApiError naming the inputs that are missing."""
    if payload.sha256:
        raise invalid(
            [Violation("task.payload", "the inputs of a run travel inline; pass large values as blobs")]
        )
    if payload.inline[:1] not in (b"", b"{"):
        raise invalid([Violation("task.payload", "the inputs of a run are a JSON object")])
    try:
        read_json(payload.inline or b"{}")
    except ValueFault as fault:
        raise invalid([Violation("task.payload", f"the inputs of a run are JSON: {fault.text}")]) from fault
    given = inputs_of(loaded.graph, payload)
    known = [one.name for one in loaded.graph.inputs]
    strange = sorted(given.keys() - {*known, "input"}) if not loaded.graph.open_inputs else []
    wrong = [Violation(f"task.payload.{name}", _no_input(name, known)) for name in strange]
    wrong += [
        Violation(f"task.payload.{name}", "is missing; the workflow needs it")
        for name in loaded.needs
        if name not in given
    ]
    if wrong:
        raise invalid(wrong)


def _no_input(name: str, known: Collection[str]) -> str:
    meant = near(name, known)
    hint = f"did you mean {meant!r}?" if meant else f"it has {', '.join(known) or 'none'}"
    return f"is no input of the workflow; {hint}"


def _plan_to_pb(loaded: Loaded) -> workflows_pb2.WorkflowPlan:
    problems = [
        workflows_pb2.WorkflowProblem(code=one.code, where=one.where, text=one.text, cycle=one.cycle)
        for one in loaded.problems
    ]
    if problems:
        return workflows_pb2.WorkflowPlan(problems=problems)
    plan = plan_of(loaded.graph)
    return workflows_pb2.WorkflowPlan(
        stages=[workflows_pb2.WorkflowStage(nodes=stage) for stage in plan.stages],
        critical_path=plan.critical_path,
        critical_ms=plan.critical_ms,
        needs=loaded.needs,
        text=text_of(loaded.graph, plan),
        mermaid=mermaid_of(loaded.graph),
        graph=bytes_of(loaded.graph).decode(),
    )


def _workflow_to_pb(kept: WorkflowText, *, with_text: bool) -> workflows_pb2.Workflow:
    return workflows_pb2.Workflow(
        name=kept.name,
        text=kept.source if with_text else "",
        revision=kept.revision,
        applied_at_ms=kept.at_ms,
    )
