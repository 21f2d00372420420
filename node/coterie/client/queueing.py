"""What bounds the queue, and what fell out of it: dead letters, limits, tenants."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from coterie.client.connection import Connection
from coterie.client.endpoints import Endpoint
from coterie.client.errors import ResourceExhausted
from coterie.client.job import Job
from coterie.client.models import TaskInfo
from coterie.client.rpc_errors import invalid
from coterie.client.units import Duration, duration_ms
from coterie.v1 import tasks_pb2

PAGE_SIZE_MAX = 1000
Opened = Callable[[], Connection]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How much of something may run at once, or start per time, in the whole cluster.

    - `tenant`, `agent`, `type`, `key`: what it counts: "" any, "*" each value for itself, else that one.
    - `concurrent`: tasks on nodes at once; 0: no limit.
    - `rate`: starts per `period` ("1m", seconds); 0: no limit.
    - `calls`: it counts what asks for its tokens by name (`ctx.limit`, `limits.take`), not starts of tasks.
    - `burst`: that many at once, then `rate` per `period`; 0: never more than `rate` in any period.
    """

    id: str
    tenant: str = ""
    agent: str = ""
    type: str = ""
    key: str = ""
    concurrent: int = 0
    rate: int = 0
    period: Duration = 0
    burst: int = 0
    calls: bool = False

    @classmethod
    def of(cls, raw: tasks_pb2.Limit) -> Limit:
        """The dataclass for a message; `period` is in seconds."""
        return cls(
            id=raw.limit_id,
            tenant=raw.tenant,
            agent=raw.agent,
            type=raw.type,
            key=raw.key,
            concurrent=raw.concurrent,
            rate=raw.rate_count,
            period=raw.rate_period_ms / 1000,
            burst=raw.burst,
            calls=raw.calls,
        )


@dataclass(frozen=True, slots=True)
class Tenant:
    """What a tenant may have: its share of the slots against that of the others, and how many tasks may
    wait (0: the cluster's percentage)."""

    name: str
    weight: int = 1
    pending_max: int = 0


LimitList = list[Limit]  # inside Limits `list` is a method
Tenants = list[Tenant]


class DeadLetters:
    """What the cluster has given up, whole, until it is replayed or purged: `cluster.dead_letters`."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    async def list(self, *, page_size: int = 50, limit: int | None = None) -> AsyncGenerator[TaskInfo, None]:
        """The tenant's dead letters, newest first, page by page as they are read."""
        if not 1 <= page_size <= PAGE_SIZE_MAX:
            raise invalid([("page_size", f"{page_size!r} is not from 1 to {PAGE_SIZE_MAX}")])
        connection, left = self._opened(), limit if limit is not None else -1
        request = tasks_pb2.ListDeadLettersRequest(parent=f"tenants/{connection.tenant}", page_size=page_size)
        while left != 0:
            page = await connection.caller.unary(lambda e: e.dead_letters.ListDeadLetters, request)
            for task in page.tasks[: left if left > 0 else None]:
                yield TaskInfo.of(task)
            left -= min(len(page.tasks), left) if left > 0 else 0
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get(self, task_id: str) -> TaskInfo:
        """One of them with its steps, its error and the nodes on which it crashed. Raises NotFound."""
        connection = self._opened()
        request = tasks_pb2.GetDeadLetterRequest(name=connection.task_name(task_id))
        return TaskInfo.of(await connection.caller.unary(lambda e: e.dead_letters.GetDeadLetter, request))

    async def replay(self, task_id: str, *, discard_steps: bool = False, request_id: str = "") -> Job:
        """Runs it again as a new task, which keeps its completed steps unless `discard_steps`; it leaves the
        list. The same `request_id` gives the same run. Raises NotFound, QueueFull."""
        connection, request_id = self._opened(), request_id or uuid.uuid4().hex
        request = tasks_pb2.ReplayDeadLetterRequest(
            name=connection.task_name(task_id), request_id=request_id, discard_steps=discard_steps
        )
        raw = await connection.caller.unary(
            lambda e: e.dead_letters.ReplayDeadLetter, request, request_id=request_id
        )
        return Job(connection, raw.name, raw)

    async def purge(self, task_ids: Iterable[str] = (), *, before: datetime | None = None) -> int:
        """Throws away those named, or all that ended before a time (with a time zone). Returns how many went;
        when an answer is lost it is asked for again, and those that went at the first time do not count.
        Raises InvalidRequest unless it is one of the two."""
        connection = self._opened()
        if before is not None and before.tzinfo is None:
            raise invalid([("before", f"{before} has no time zone: give one, such as datetime.UTC")])
        request = tasks_pb2.PurgeDeadLettersRequest(
            parent=f"tenants/{connection.tenant}", names=[connection.task_name(one) for one in task_ids]
        )
        if before is not None:
            request.before.FromDatetime(before)
        answer = await connection.caller.unary(lambda e: e.dead_letters.PurgeDeadLetters, request)
        return answer.purged


class Limits:
    """What may run at once or per time in the whole cluster, and what each tenant may have of it:
    `cluster.limits`. Setting what is set already changes nothing."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    async def set(self, limit: Limit) -> Limit:
        """Sets the limit of that id. Raises InvalidRequest with all that is wrong."""
        request = tasks_pb2.SetLimitRequest(
            limit=tasks_pb2.Limit(
                limit_id=limit.id,
                tenant=limit.tenant,
                agent=limit.agent,
                type=limit.type,
                key=limit.key,
                concurrent=limit.concurrent,
                rate_count=limit.rate,
                rate_period_ms=_period_ms(limit.period),
                burst=limit.burst,
                calls=limit.calls,
            )
        )
        return Limit.of(await self._opened().caller.unary(lambda e: e.limits.SetLimit, request))

    async def list(self) -> LimitList:
        """All limits, by their ids."""
        request = tasks_pb2.ListLimitsRequest()
        answer = await self._opened().caller.unary(lambda e: e.limits.ListLimits, request)
        return [Limit.of(limit) for limit in answer.limits]

    async def remove(self, limit_id: str) -> None:
        """Lifts a limit. Raises NotFound."""
        request = tasks_pb2.DeleteLimitRequest(limit_id=limit_id)
        await self._opened().caller.delete(lambda e: e.limits.DeleteLimit, request)

    async def take(
        self,
        limit_id: str,
        cost: int = 1,
        *,
        key: str = "",
        agent: str = "",
        type: str = "",
        timeout: Duration = 0,
    ) -> None:
        """Takes tokens of a limit on calls, for this client's tenant; waits for them as long as `timeout`
        says. When an answer is lost it asks again, and may take them twice: more is never let through than
        the limit allows. Raises ResourceExhausted (RATE_LIMITED, with `retry_after`), NotFound,
        InvalidRequest."""
        connection, wait_s = self._opened(), _period_ms(timeout) / 1000
        request = tasks_pb2.TakeTokensRequest(
            parent=f"tenants/{connection.tenant}",
            limit_id=limit_id,
            cost=cost,
            key=key,
            agent=agent,
            type=type,
        )
        end = connection.caller.clock() + wait_s

        async def attempt(endpoint: Endpoint, seconds: float) -> None:
            left_s = max(0.0, min(end - connection.caller.clock(), seconds - 0.5))
            request.wait_ms = int(left_s * 1000)
            await endpoint.limits.TakeTokens(request, timeout=seconds)

        while True:
            try:
                return await connection.caller.run(attempt)
            except ResourceExhausted as error:
                pause = error.retry_after
                if error.reason != "RATE_LIMITED" or pause is None or connection.caller.clock() + pause > end:
                    raise
                await connection.caller.rest(pause)

    async def set_tenant(self, tenant: Tenant) -> Tenant:
        """Sets what a tenant may have. Raises InvalidRequest."""
        message = tasks_pb2.Tenant(
            tenant=tenant.name, weight=tenant.weight, pending_tasks_max=tenant.pending_max
        )
        request = tasks_pb2.SetTenantRequest(tenant=message)
        return _tenant(await self._opened().caller.unary(lambda e: e.limits.SetTenant, request))

    async def tenants(self) -> Tenants:
        """The tenants for which something was set, by name."""
        request = tasks_pb2.ListTenantsRequest()
        answer = await self._opened().caller.unary(lambda e: e.limits.ListTenants, request)
        return [_tenant(tenant) for tenant in answer.tenants]


def _tenant(raw: tasks_pb2.Tenant) -> Tenant:
    return Tenant(raw.tenant, raw.weight, raw.pending_tasks_max)


def _period_ms(period: Duration) -> int:
    try:
        return duration_ms(period)
    except ValueError as error:
        raise invalid([("period", str(error))]) from error
