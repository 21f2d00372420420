"""A fake cluster in one process: real gRPC servers on loopback, one shared state, planned faults."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from coterie.v1 import cluster_pb2, cluster_pb2_grpc, tasks_pb2, tasks_pb2_grpc
from tests.client.fake_queue import FakeQueue

TERMINAL = {
    tasks_pb2.SUCCEEDED: "succeeded",
    tasks_pb2.FAILED: "failed",
    tasks_pb2.CANCELLED: "cancelled",
    tasks_pb2.TIMED_OUT: "timed_out",
    tasks_pb2.DEAD_LETTERED: "dead_lettered",
}


@dataclass
class Fault:
    """What goes wrong with one call: an error, no answer at all, or an answer that gets lost."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    message: str = "planned"
    reason: str = ""
    retry_after: float | None = None
    violations: list[tuple[str, str]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    pushback_ms: str | None = None
    hang: bool = False
    after: bool = False  # The work is done, only the answer is lost.
    events: int | None = None  # WatchTask: break the stream after so many events.

    def status(self) -> status_pb2.Status:
        details: list[Any] = []
        if self.reason:
            info = error_details_pb2.ErrorInfo(reason=self.reason, domain="coterie", metadata=self.metadata)
            details.append(info)
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for name, text in self.violations:
                bad.field_violations.add(field=name, description=text)
            details.append(bad)
        if self.retry_after is not None:
            pause = error_details_pb2.RetryInfo()
            pause.retry_delay.FromMilliseconds(int(self.retry_after * 1000))
            details.append(pause)
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in details:
            box = any_pb2.Any()
            box.Pack(detail)
            status.details.append(box)
        return status

    async def strike(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if self.hang:
            await asyncio.Event().wait()
        metadata: list[tuple[str, str | bytes]] = []
        if self.reason or self.violations or self.retry_after is not None:
            metadata.append(("grpc-status-details-bin", self.status().SerializeToString()))
        if self.pushback_ms is not None:
            metadata.append(("grpc-retry-pushback-ms", self.pushback_ms))
        await context.abort(self.code, self.message, tuple(metadata))


class FakeCluster:
    """The state all nodes share, the calls they saw, and what they are told to do wrong."""

    def __init__(self) -> None:
        self.tasks: dict[str, tasks_pb2.Task] = {}
        self.by_request: dict[str, str] = {}
        self.events: dict[str, list[tasks_pb2.TaskEvent]] = defaultdict(list)
        self.blobs: dict[str, bytes] = {}
        self.route = tasks_pb2.Route()
        self.limits: dict[str, tasks_pb2.Limit] = {}
        self.tenants: dict[str, tasks_pb2.Tenant] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.nodes: list[FakeNode] = []
        self.bell = asyncio.Condition()

    async def ring(self) -> None:
        async with self.bell:
            self.bell.notify_all()

    async def until(self, condition: Any) -> None:
        """Waits until the condition holds; it is looked at whenever something happened."""
        async with self.bell:
            await self.bell.wait_for(condition)

    def methods(self, name: str) -> list[Any]:
        return [request for _, method, request in self.calls if method == name]

    def submit(self, request: tasks_pb2.SubmitTaskRequest) -> tasks_pb2.Task:
        known = self.by_request.get(request.request_id)
        if known is not None:
            return self.tasks[known]
        task = tasks_pb2.Task()
        task.CopyFrom(request.task)
        task.task_id = task.task_id or f"t{len(self.tasks) + 1}"
        task.name = f"{request.parent}/tasks/{task.task_id}"
        task.tenant = request.parent.rpartition("/")[2]
        task.request_id = request.request_id
        task.state = tasks_pb2.PENDING
        self.tasks[task.task_id] = task
        self.by_request[request.request_id] = task.task_id
        self.note(task.task_id, "submitted")
        return task

    def note(self, task_id: str, kind: str, **more: Any) -> None:
        events = self.events[task_id]
        sequence = len(events) + 1
        events.append(
            tasks_pb2.TaskEvent(type=kind, sequence=sequence, resume_token=f"{task_id}.{sequence}", **more)
        )

    async def tell(self, task_id: str, kind: str, **more: Any) -> None:
        self.note(task_id, kind, **more)
        await self.ring()

    async def finish(
        self, task_id: str, value: Any = None, state: tasks_pb2.TaskState.ValueType = tasks_pb2.SUCCEEDED
    ) -> None:
        task = self.tasks[task_id]
        task.state = state
        task.attempt = max(task.attempt, 1)
        if state == tasks_pb2.SUCCEEDED and not task.result.ByteSize():
            task.result.inline = json.dumps(value).encode()
        await self.tell(task_id, TERMINAL[state], task=task)

    def find(self, name: str) -> tasks_pb2.Task | None:
        return self.tasks.get(name.rpartition("/")[2])


class FakeNode(
    FakeQueue, tasks_pb2_grpc.TasksServicer, tasks_pb2_grpc.BlobsServicer, cluster_pb2_grpc.ClusterServicer
):
    """One node: a gRPC server that can be stopped, started again, and told to misbehave."""

    def __init__(self, cluster: FakeCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.port = 0
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.entry_faults: list[Fault | None] = []
        self.deaf = False
        self.gate: asyncio.Event | None = None
        self.repeat_events = False
        self.skip_sequences: set[int] = set()
        self.says_not_found = False
        self.leaves_results_out = False
        self.heartbeat_s = 0.05
        self.advertised: list[cluster_pb2.Node] | None = None
        self.backup: list[cluster_pb2.BackupPart] = []
        self.options: list[tuple[str, int]] = [("grpc.so_reuseport", 0)]
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        server = grpc.aio.server(options=self.options)
        tasks_pb2_grpc.add_TasksServicer_to_server(self, server)
        tasks_pb2_grpc.add_BlobsServicer_to_server(self, server)
        tasks_pb2_grpc.add_DeadLettersServicer_to_server(self, server)
        tasks_pb2_grpc.add_LimitsServicer_to_server(self, server)
        cluster_pb2_grpc.add_ClusterServicer_to_server(self, server)
        address = f"127.0.0.1:{self.port}"
        if credentials is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, credentials)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def _enter(self, method: str, request: Any, context: Any) -> Fault | None:
        self.cluster.calls.append((self.name, method, request))
        await self.cluster.ring()
        if self.deaf:
            await asyncio.Event().wait()
        if self.gate is not None:
            await self.gate.wait()
        fault = self.faults[method].pop(0) if self.faults[method] else None
        if fault is not None and not fault.after and fault.events is None:
            await fault.strike(context)
        return fault

    async def BatchSubmitTasks(self, request: Any, context: Any) -> Any:
        fault = await self._enter("BatchSubmitTasks", request, context)
        response = tasks_pb2.BatchSubmitTasksResponse()
        for entry in request.requests:
            refusal = self.entry_faults.pop(0) if self.entry_faults else None
            if refusal is None:
                told = response.results.add(task=self.cluster.submit(entry)).task
                if self.leaves_results_out:
                    told.ClearField("result")
            else:
                response.results.add(status=refusal.status().SerializeToString())
        if fault is not None:
            await fault.strike(context)
        return response

    async def SubmitTask(self, request: Any, context: Any) -> Any:
        await self._enter("SubmitTask", request, context)
        return self.cluster.submit(request)

    async def WaitTask(self, request: Any, context: Any) -> Any:
        raise NotImplementedError("the client waits on the stream")

    async def GetTask(self, request: Any, context: Any) -> Any:
        await self._enter("GetTask", request, context)
        task = self.cluster.find(request.name)
        if task is None:
            await Fault(grpc.StatusCode.NOT_FOUND, "no such task", reason="TASK_NOT_FOUND").strike(context)
        return task

    async def ListTasks(self, request: Any, context: Any) -> Any:
        await self._enter("ListTasks", request, context)
        tasks = list(reversed(self.cluster.tasks.values()))
        start = int(request.page_token or 0)
        end = start + request.page_size
        return tasks_pb2.ListTasksResponse(
            tasks=tasks[start:end], next_page_token=str(end) if end < len(tasks) else ""
        )

    async def CancelTask(self, request: Any, context: Any) -> Any:
        await self._enter("CancelTask", request, context)
        task = self.cluster.find(request.name)
        assert task is not None
        if task.state in TERMINAL:
            await Fault(grpc.StatusCode.FAILED_PRECONDITION, reason="TASK_TERMINAL").strike(context)
        await self.cluster.finish(task.task_id, state=tasks_pb2.CANCELLED)
        return task

    async def RouteTask(self, request: Any, context: Any) -> Any:
        await self._enter("RouteTask", request, context)
        return self.cluster.route

    async def WaitTasks(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter("WaitTasks", None, context)
        wanted: list[str] = []
        missing: list[str] = []

        async def take() -> None:
            async for request in requests:
                self.cluster.calls.append((self.name, "WaitTasks.names", list(request.names)))
                for name in request.names:
                    gone = self.says_not_found or self.cluster.find(name) is None
                    (missing if gone else wanted).append(name)
                await self.cluster.ring()

        taking = asyncio.create_task(take())
        try:
            while True:
                await self.cluster.until(lambda: self._over(wanted) or missing or taking.done())
                if taking.done():
                    return
                done, lost = self._over(wanted), list(missing)
                missing.clear()
                wanted[:] = [name for name in wanted if name not in done]
                yield tasks_pb2.WaitTasksResponse(
                    tasks=[task for name in done if (task := self.cluster.find(name))], not_found=lost
                )
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    def _over(self, names: list[str]) -> list[str]:
        if self.deaf:
            return []
        return [name for name in names if (t := self.cluster.find(name)) and t.state in TERMINAL]

    async def WatchTask(self, request: Any, context: Any) -> AsyncIterator[Any]:
        fault = await self._enter("WatchTask", request, context)
        task = self.cluster.find(request.name)
        if task is None:
            await Fault(grpc.StatusCode.NOT_FOUND, "no such task", reason="TASK_NOT_FOUND").strike(context)
            return
        seen = int(request.resume_token.rpartition(".")[2] or 0)
        if self.repeat_events:
            seen = max(0, seen - 2)
        sent = 0
        events = self.cluster.events[task.task_id]
        while len(events) > seen or events[-1].type not in TERMINAL.values():
            while len(events) > seen:
                event = events[seen]
                seen += 1
                if event.sequence in self.skip_sequences:
                    continue
                if fault is not None and sent == fault.events:
                    await fault.strike(context)
                sent += 1
                yield event
                if event.type in TERMINAL.values():
                    return
            if fault is not None and sent == fault.events:
                await fault.strike(context)
            try:
                async with asyncio.timeout(self.heartbeat_s):
                    await self.cluster.until(lambda seen=seen: len(events) > seen)
            except TimeoutError:
                yield tasks_pb2.TaskEvent(heartbeat=tasks_pb2.Heartbeat())

    async def PutBlob(self, chunks: Any, context: Any) -> Any:
        fault = await self._enter("PutBlob", None, context)
        ref, data, sizes = None, bytearray(), []
        async for chunk in chunks:
            if ref is None:
                ref = chunk.ref
            data += chunk.data
            sizes.append(len(chunk.data))
        assert ref is not None and max(sizes) <= 1024 * 1024
        assert (ref.sha256, ref.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        self.cluster.blobs[ref.sha256] = bytes(data)
        if fault is not None:
            await fault.strike(context)
        return ref

    async def GetBlob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter("GetBlob", request, context)
        data = self.cluster.blobs[request.sha256]
        yield tasks_pb2.BlobChunk(ref=tasks_pb2.BlobRef(sha256=request.sha256, size_bytes=len(data)))
        for start in range(0, len(data), 1024 * 1024):
            yield tasks_pb2.BlobChunk(data=data[start : start + 1024 * 1024])

    async def GetStatus(self, request: Any, context: Any) -> Any:
        await self._enter("GetStatus", request, context)
        nodes = self.member_list()
        return cluster_pb2.ClusterStatus(
            cluster_name="fake", leader="n1", has_quorum=True, served_by=self.name, nodes=nodes,
            active_nodes=len(nodes), total_nodes=len(nodes), tasks_by_state={"PENDING": 1},
        )  # fmt: skip

    async def ListNodes(self, request: Any, context: Any) -> Any:
        await self._enter("ListNodes", request, context)
        return cluster_pb2.ListNodesResponse(nodes=self.member_list())

    async def DrainNode(self, request: Any, context: Any) -> Any:
        await self._enter("DrainNode", request, context)
        return cluster_pb2.Node(node_id=request.node_id, state=cluster_pb2.DRAINING)

    async def UndrainNode(self, request: Any, context: Any) -> Any:
        await self._enter("UndrainNode", request, context)
        return cluster_pb2.Node(node_id=request.node_id, state=cluster_pb2.ACTIVE)

    async def AddNode(self, request: Any, context: Any) -> Any:
        await self._enter("AddNode", request, context)
        return cluster_pb2.Node(node_id=request.node_id, address=request.address, role=cluster_pb2.RUNNER)

    async def RemoveNode(self, request: Any, context: Any) -> Any:
        """Done at the third asking."""
        await self._enter("RemoveNode", request, context)
        times = len(self.cluster.methods("RemoveNode"))
        return cluster_pb2.RemoveNodeResponse(removed=times >= 3)

    async def PromoteNode(self, request: Any, context: Any) -> Any:
        await self._enter("PromoteNode", request, context)
        return cluster_pb2.Node(node_id=request.node_id, role=cluster_pb2.VOTER)

    async def MoveNode(self, request: Any, context: Any) -> Any:
        await self._enter("MoveNode", request, context)
        return cluster_pb2.Node(node_id=request.node_id, address=request.address)

    async def CreateBackup(self, request: Any, context: Any) -> Any:
        await self._enter("CreateBackup", request, context)
        for piece in self.backup:
            yield piece

    async def TransferLeadership(self, request: Any, context: Any) -> Any:
        await self._enter("TransferLeadership", request, context)
        return cluster_pb2.TransferLeadershipResponse(leader=request.node_id or "n2")

    def member_list(self) -> list[cluster_pb2.Node]:
        if self.advertised is not None:
            return self.advertised
        return [
            cluster_pb2.Node(node_id=node.name, address=node.address, state=cluster_pb2.ACTIVE)
            for node in self.cluster.nodes
        ]
