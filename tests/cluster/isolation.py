"""Every call that a tenant may make, and what it says of another tenant's things.

A call stands in one of the tables below, or names its tenant in `parent` or `tenant`: then it is tried with
another's name by itself."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from coterie.node.security.table import RULES
from coterie.v1 import (
    debugger_pb2,
    decisions_pb2,
    registry_pb2,
    schedules_pb2,
    tasks_pb2,
    usage_pb2,
    workflows_pb2,
)
from tests.cluster.secured import A

PROTO = Path(__file__).resolve().parents[2] / "proto" / "coterie" / "v1"
TENANT_FIELDS = ("parent", "tenant")
Told = tuple[str, str, str]  # code, reason, message


@dataclass(frozen=True)
class Names:
    """Of things of a tenant; or made-up ones, of nobody."""

    live: str = "nobodys"
    ended: str = "nobodys"
    dead: str = "nobodys"
    asking: str = "nobodys"  # a task that waits for an approval
    run: str = "nobodys"  # of a workflow
    kept: str = "nobodys"  # a schedule, lock, key, topic, group, workflow, limit and budget of that name
    blob: str = "ab" * 32

    @property
    def all(self) -> tuple[str, ...]:
        return (self.live, self.ended, self.dead, self.asking, self.run, self.kept, self.blob)


NOBODYS = Names()


@dataclass(frozen=True)
class Stub:
    """Any call of any service over one channel, with a token."""

    channel: grpc.aio.Channel
    token: str

    def call(self, method: str, request: Any) -> Any:
        """`method` is Service/Method; a list of requests is sent as a stream."""
        made = descriptor(method)
        answers = GetMessageClass(made.output_type).FromString
        open_call: Any = getattr(self.channel, _KINDS[made.client_streaming, made.server_streaming])
        sent = _stream(request) if made.client_streaming else request
        stub = open_call(f"/coterie.v1.{method}", lambda message: message.SerializeToString(), answers)
        return stub(sent, metadata=(("authorization", f"Bearer {self.token}"),), timeout=20)


_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
Ask = Callable[[Names], Any]


async def _stream(requests: list[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request


@cache
def descriptor(method: str) -> Any:
    """Of a method, by Service/Method."""
    service, _, name = method.partition("/")
    for path in PROTO.glob("*.proto"):
        importlib.import_module(f"coterie.v1.{path.stem}_pb2")
    return Default().FindServiceByName(f"coterie.v1.{service}").methods_by_name[name]


def open_to_tenants() -> set[str]:
    """Every call of ours that a tenant's viewer or submitter may make."""
    ours = {name.removeprefix("/coterie.v1."): rule for name, rule in RULES.items() if "/coterie.v1." in name}
    return {name for name, rule in ours.items() if rule.role in ("viewer", "submitter")}


def naming_a_tenant() -> dict[str, str]:
    """Those that say whose things they are about, with the field that says it."""
    found = {}
    for name in open_to_tenants():
        for field in descriptor(name).input_type.fields:
            if field.name in TENANT_FIELDS:
                found[name] = str(field.name)
    return found


def naming(method: str, field: str, tenant: str) -> Any:
    """A request of that kind that names a tenant, and nothing else."""
    request = GetMessageClass(descriptor(method).input_type)()
    setattr(request, field, f"tenants/{tenant}" if field == "parent" else tenant)
    return request


def submit(**task: Any) -> tasks_pb2.SubmitTaskRequest:
    return tasks_pb2.SubmitTaskRequest(task=tasks_pb2.Task(type="echo", **task))


def _blob(names: Names) -> tasks_pb2.Data:
    return tasks_pb2.Data(blob=tasks_pb2.BlobRef(sha256=names.blob, size_bytes=400_002))


def _ask(kind: Any, field: str = "name", of: str = "live", **fixed: Any) -> Ask:
    return lambda names: kind(**{field: getattr(names, of)}, **fixed)


def _kept(kind: Any) -> Ask:
    return _ask(kind, "schedule_id", "kept")


def _workflow(names: Names) -> workflows_pb2.WorkflowSource:
    return workflows_pb2.WorkflowSource(workflow=names.kept)


APPROVE = {"approve": True, "call_sha256": "ab" * 32}
HIDDEN: dict[str, Ask] = {  # what is said of another tenant's things is what is said of what is not there
    "Tasks/GetTask": _ask(tasks_pb2.GetTaskRequest),
    "Tasks/GetTask ended": _ask(tasks_pb2.GetTaskRequest, of="ended"),
    "Tasks/GetTask full name": lambda n: tasks_pb2.GetTaskRequest(name=f"tenants/{A}/tasks/{n.live}"),
    "Tasks/WaitTask": _ask(tasks_pb2.WaitTaskRequest),
    "Tasks/WatchTask": _ask(tasks_pb2.WatchTaskRequest, of="ended"),
    "Tasks/WatchTask live tokens": _ask(tasks_pb2.WatchTaskRequest, include_tokens=True),
    "Tasks/RouteTask": _ask(tasks_pb2.RouteTaskRequest),
    "Tasks/CancelTask": _ask(tasks_pb2.CancelTaskRequest),
    "Tasks/PauseTask": _ask(tasks_pb2.PauseTaskRequest),
    "Tasks/ResumeTask": _ask(tasks_pb2.ResumeTaskRequest),
    "Tasks/SignalTask": _ask(tasks_pb2.SignalTaskRequest, signal="go"),
    "Tasks/RetryTask": _ask(tasks_pb2.RetryTaskRequest, of="dead"),
    "Tasks/RetryTask live": _ask(tasks_pb2.RetryTaskRequest),
    "Tasks/SubmitTask parent": lambda n: submit(parent_task=n.live),
    "Tasks/SubmitTask blob": lambda n: submit(payload=_blob(n)),
    "DeadLetters/GetDeadLetter": _ask(tasks_pb2.GetDeadLetterRequest, of="dead"),
    "DeadLetters/ReplayDeadLetter": _ask(tasks_pb2.ReplayDeadLetterRequest, of="dead"),
    "Limits/TakeTokens": _ask(tasks_pb2.TakeTokensRequest, "limit_id", "kept"),
    "Blobs/GetBlob": lambda n: tasks_pb2.GetBlobRequest(sha256=n.blob, task=n.ended),
    "Blobs/GetBlob bare": lambda n: tasks_pb2.GetBlobRequest(sha256=n.blob, task="t"),
    "Blobs/PutBlob": lambda n: [
        tasks_pb2.BlobChunk(ref=tasks_pb2.BlobRef(sha256=n.blob, size_bytes=400_002)),
        tasks_pb2.BlobChunk(data=b"y" * 400_002),
    ],
    "Registry/PublishSkill": lambda n: registry_pb2.PublishSkillRequest(skill_id="mine", bundle=_blob(n)),
    "Approvals/ResolveApproval": lambda n: decisions_pb2.ResolveApprovalRequest(
        approval_id=f"{n.asking}~1", approve=True, call_sha256="ab" * 32
    ),
    "Effects/ResolveStep": _ask(
        decisions_pb2.ResolveStepRequest, of="asking", step="send", resolution=decisions_pb2.STEP_RETRIED
    ),
    "Schedules/GetSchedule": _kept(schedules_pb2.GetScheduleRequest),
    "Schedules/PauseSchedule": _kept(schedules_pb2.PauseScheduleRequest),
    "Schedules/ResumeSchedule": _kept(schedules_pb2.ResumeScheduleRequest),
    "Schedules/TriggerSchedule": _kept(schedules_pb2.TriggerScheduleRequest),
    "Workflows/GetRun": _ask(workflows_pb2.GetRunRequest, of="run"),
    "Workflows/RetryRun": _ask(workflows_pb2.RetryRunRequest, of="run"),
    "Workflows/AddNodes": _ask(
        workflows_pb2.AddNodesRequest, of="run", text='{"nodes": [{"id": "x", "skill": "echo"}]}'
    ),
    "Debugger/GetHistory": _ask(debugger_pb2.GetHistoryRequest, of="run"),
    "Debugger/GetHistory ended": _ask(debugger_pb2.GetHistoryRequest, of="ended"),
    "Debugger/GetStateAt": _ask(debugger_pb2.GetStateAtRequest, of="run"),
    "Debugger/GetStateAt live": _ask(debugger_pb2.GetStateAtRequest),
    "Debugger/Fork": _ask(debugger_pb2.ForkRequest, of="run", at="x"),
    "Debugger/Fork ended": _ask(debugger_pb2.ForkRequest, of="ended", at="x"),
    "Workflows/GetWorkflow": _ask(workflows_pb2.GetWorkflowRequest, of="kept"),
    "Workflows/PlanWorkflow": lambda n: workflows_pb2.PlanWorkflowRequest(source=_workflow(n)),
    "Workflows/RunWorkflow": lambda n: workflows_pb2.RunWorkflowRequest(source=_workflow(n)),
}
EMPTY: dict[str, Ask] = {  # nothing of the other tenant is in the answer
    "Tasks/ListTasks": lambda n: tasks_pb2.ListTasksRequest(),
    "DeadLetters/ListDeadLetters": lambda n: tasks_pb2.ListDeadLettersRequest(),
    "DeadLetters/PurgeDeadLetters": lambda n: tasks_pb2.PurgeDeadLettersRequest(names=[n.dead]),
    "Limits/ListLimits": lambda n: tasks_pb2.ListLimitsRequest(),
    "Limits/ListTenants": lambda n: tasks_pb2.ListTenantsRequest(),
    "Usage/ListBudgets": lambda n: usage_pb2.ListBudgetsRequest(),
    "Usage/GetUsage": lambda n: usage_pb2.GetUsageRequest(),
    "Usage/ListDoubtfulCalls": lambda n: usage_pb2.ListDoubtfulCallsRequest(),
    "Approvals/ListApprovals": lambda n: decisions_pb2.ListApprovalsRequest(include_decided=True),
    "Effects/ListDoubts": lambda n: decisions_pb2.ListDoubtsRequest(),
    "Schedules/ListSchedules": lambda n: schedules_pb2.ListSchedulesRequest(),
    "Debugger/GetStateAt": lambda n: debugger_pb2.GetStateAtRequest(),
    "Workflows/ListWorkflows": lambda n: workflows_pb2.ListWorkflowsRequest(),
    "Locks/ListLocks": lambda n: naming("Locks/ListLocks", "parent", "bank"),
    "KeyValue/ListKeys": lambda n: naming("KeyValue/ListKeys", "parent", "bank"),
    "Bus/ListTopics": lambda n: naming("Bus/ListTopics", "parent", "bank"),
    "Bus/ListGroups": lambda n: naming("Bus/ListGroups", "parent", "bank"),
}
BATCHED = {"Tasks/BatchSubmitTasks", "Tasks/WaitTasks"}  # tried by tests of their own
SHARED = {  # of the cluster, and the same for everybody
    "Agents/ListAgents": "agents are the cluster's: an operator defines each",
    "Agents/GetAgent": "as above",
    "Agents/GetAgentStatus": "as above: how all its runs went, of none in particular",
    "Agents/MatchAgents": "as above: who would bid for a job",
    "Breakers/ListBreakers": "nodes, skills and providers that fail",
    "Registry/ListSkills": "skills are the cluster's: an operator lets each in",
    "Registry/GetSkill": "as above",
    "Cluster/GetStatus": "nodes, and how many tasks there are in all",
    "Cluster/ListNodes": "nodes",
    "Security/WhoAmI": "the caller",
}


async def told_by(call: Any) -> Told:
    """How a call was refused; OK and the text of the answer when it was not."""
    try:
        if hasattr(call, "__aiter__") and not hasattr(call, "__await__"):
            answer: Any = [message async for message in call]
        else:
            answer = await call
    except grpc.aio.AioRpcError as error:
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        info = error_details_pb2.ErrorInfo()
        for detail in status_pb2.Status.FromString(details).details:
            detail.Unpack(info)
        return error.code().name, info.reason, error.details() or ""
    return "OK", "", str(answer)


Checked = Callable[[Stub, Names], Awaitable[None]]


async def hidden(stub: Stub, names: Names) -> None:
    for what, request in HIDDEN.items():
        method = what.split()[0]
        theirs = await told_by(stub.call(method, request(names)))
        nobodys = await told_by(stub.call(method, request(NOBODYS)))
        said = theirs[2].replace(names.blob, NOBODYS.blob)
        for name in names.all:
            said = said.replace(name, NOBODYS.live)
        assert (theirs[0] != "OK", *theirs[:2], said) == (True, *nobodys), what


async def denied(stub: Stub, names: Names) -> None:
    """The tenant is named: whether or not it is one."""
    for method, field in naming_a_tenant().items():
        for tenant in (A, "nobodys"):
            told = await told_by(stub.call(method, naming(method, field, tenant)))
            assert told[:2] == ("PERMISSION_DENIED", "TENANT_DENIED"), (method, tenant)
    batch = tasks_pb2.BatchSubmitTasksRequest(requests=[submit(), submit()])
    batch.requests[1].parent = f"tenants/{A}"
    assert (await told_by(stub.call("Tasks/BatchSubmitTasks", batch)))[1] == "TENANT_DENIED"


async def empty(stub: Stub, names: Names) -> None:
    for method, request in EMPTY.items():
        code, _, said = await told_by(stub.call(method, request(names)))
        found = [name for name in (*names.all, f'"{A}"') if name in said]
        assert (code, found) == ("OK", []), method


async def unheard(stub: Stub, names: Names) -> None:
    """The first answer of a stream of waits; such a stream stays open."""
    request = tasks_pb2.WaitTasksRequest(names=[names.ended, names.live])
    call = stub.call("Tasks/WaitTasks", [request])
    found: list[str] = []
    async for answer in call:
        assert not answer.tasks, "a task of the other tenant"
        found += answer.not_found
        if len(found) == len(set(request.names)):
            break
    call.cancel()
    assert sorted(found) == sorted(set(request.names)), "names of the other tenant are not found"


CHECKS: tuple[Checked, ...] = (hidden, denied, empty, unheard)
