"""The part of a fake node that is about single tasks under control, dead letters, limits and tenants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from coterie.v1 import tasks_pb2, tasks_pb2_grpc

if TYPE_CHECKING:
    from tests.client.fake import FakeCluster


class FakeQueue(tasks_pb2_grpc.DeadLettersServicer, tasks_pb2_grpc.LimitsServicer):
    """Control of tasks, dead letters and limits over the shared state of a FakeCluster."""

    cluster: FakeCluster

    async def _enter(self, method: str, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def _named(self, method: str, request: Any, context: Any) -> tasks_pb2.Task:
        await self._enter(method, request, context)
        task = self.cluster.find(request.name)
        if task is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such task")
        assert task is not None
        return task

    async def PauseTask(self, request: Any, context: Any) -> Any:
        task = await self._named("PauseTask", request, context)
        task.state = tasks_pb2.PAUSED
        return task

    async def ResumeTask(self, request: Any, context: Any) -> Any:
        task = await self._named("ResumeTask", request, context)
        task.state = tasks_pb2.PENDING
        return task

    async def SignalTask(self, request: Any, context: Any) -> Any:
        return await self._named("SignalTask", request, context)

    async def RetryTask(self, request: Any, context: Any) -> Any:
        task = await self._named("RetryTask", request, context)
        return task if task.state == tasks_pb2.PENDING else self._again(task, request.request_id)

    def _again(self, task: tasks_pb2.Task, request_id: str) -> tasks_pb2.Task:
        request = tasks_pb2.SubmitTaskRequest(parent=f"tenants/{task.tenant}", request_id=request_id)
        request.task.type = task.type
        again = self.cluster.submit(request)
        again.retry_of = task.task_id
        return again

    def _dead(self) -> list[tasks_pb2.Task]:
        return [task for task in self.cluster.tasks.values() if task.state == tasks_pb2.DEAD_LETTERED]

    async def ListDeadLetters(self, request: Any, context: Any) -> Any:
        await self._enter("ListDeadLetters", request, context)
        start = int(request.page_token or 0)
        tasks, end = self._dead()[::-1], start + request.page_size
        token = str(end) if end < len(tasks) else ""
        return tasks_pb2.ListDeadLettersResponse(tasks=tasks[start:end], next_page_token=token)

    async def GetDeadLetter(self, request: Any, context: Any) -> Any:
        return await self._named("GetDeadLetter", request, context)

    async def ReplayDeadLetter(self, request: Any, context: Any) -> Any:
        return self._again(await self._named("ReplayDeadLetter", request, context), request.request_id)

    async def PurgeDeadLetters(self, request: Any, context: Any) -> Any:
        await self._enter("PurgeDeadLetters", request, context)
        return tasks_pb2.PurgeDeadLettersResponse(purged=len(request.names) or len(self._dead()))

    async def SetLimit(self, request: Any, context: Any) -> Any:
        await self._enter("SetLimit", request, context)
        self.cluster.limits[request.limit.limit_id] = request.limit
        return request.limit

    async def ListLimits(self, request: Any, context: Any) -> Any:
        await self._enter("ListLimits", request, context)
        return tasks_pb2.ListLimitsResponse(limits=self.cluster.limits.values())

    async def DeleteLimit(self, request: Any, context: Any) -> Any:
        fault = await self._enter("DeleteLimit", request, context)
        if self.cluster.limits.pop(request.limit_id, None) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no limit {request.limit_id}")
        if fault is not None:
            await fault.strike(context)
        return tasks_pb2.DeleteLimitResponse()

    async def TakeTokens(self, request: Any, context: Any) -> Any:
        await self._enter("TakeTokens", request, context)
        return tasks_pb2.TakeTokensResponse()

    async def SetTenant(self, request: Any, context: Any) -> Any:
        await self._enter("SetTenant", request, context)
        self.cluster.tenants[request.tenant.tenant] = request.tenant
        return request.tenant

    async def ListTenants(self, request: Any, context: Any) -> Any:
        await self._enter("ListTenants", request, context)
        return tasks_pb2.ListTenantsResponse(tenants=self.cluster.tenants.values())
