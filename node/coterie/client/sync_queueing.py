"""Dead letters, limits and tenants for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from coterie.client import job as asynchronous_job
from coterie.client import queueing
from coterie.client.models import TaskInfo
from coterie.client.units import Duration

if TYPE_CHECKING:
    from coterie.client.sync_job import Job

Result = TypeVar("Result")


class Run(Protocol):
    """Runs a coroutine to its end on the client's loop."""

    def __call__(self, work: Coroutine[Any, Any, Result]) -> Result: ...


class DeadLetters:
    """See `coterie.client.queueing.DeadLetters`."""

    def __init__(
        self,
        run: Run,
        each: Callable[[AsyncGenerator[TaskInfo, None]], Iterator[TaskInfo]],
        wrap: Callable[[asynchronous_job.Job], Job],
        letters: queueing.DeadLetters,
    ) -> None:
        self._run, self._each, self._wrap, self._letters = run, each, wrap, letters

    def list(self, *, page_size: int = 50, limit: int | None = None) -> Iterator[TaskInfo]:
        """See `coterie.client.queueing.DeadLetters.list`."""
        return self._each(self._letters.list(page_size=page_size, limit=limit))

    def get(self, task_id: str) -> TaskInfo:
        """See `coterie.client.queueing.DeadLetters.get`."""
        return self._run(self._letters.get(task_id))

    def replay(self, task_id: str, *, discard_steps: bool = False, request_id: str = "") -> Job:
        """See `coterie.client.queueing.DeadLetters.replay`."""
        work = self._letters.replay(task_id, discard_steps=discard_steps, request_id=request_id)
        return self._wrap(self._run(work))

    def purge(self, task_ids: Iterable[str] = (), *, before: datetime | None = None) -> int:
        """See `coterie.client.queueing.DeadLetters.purge`."""
        return self._run(self._letters.purge(task_ids, before=before))


class Limits:
    """See `coterie.client.queueing.Limits`."""

    def __init__(self, run: Run, limits: queueing.Limits) -> None:
        self._run, self._limits = run, limits

    def set(self, limit: queueing.Limit) -> queueing.Limit:
        """See `coterie.client.queueing.Limits.set`."""
        return self._run(self._limits.set(limit))

    def list(self) -> queueing.LimitList:
        """See `coterie.client.queueing.Limits.list`."""
        return self._run(self._limits.list())

    def remove(self, limit_id: str) -> None:
        """See `coterie.client.queueing.Limits.remove`."""
        self._run(self._limits.remove(limit_id))

    def take(
        self,
        limit_id: str,
        cost: int = 1,
        *,
        key: str = "",
        agent: str = "",
        type: str = "",
        timeout: Duration = 0,
    ) -> None:
        """See `coterie.client.queueing.Limits.take`."""
        self._run(self._limits.take(limit_id, cost, key=key, agent=agent, type=type, timeout=timeout))

    def set_tenant(self, tenant: queueing.Tenant) -> queueing.Tenant:
        """See `coterie.client.queueing.Limits.set_tenant`."""
        return self._run(self._limits.set_tenant(tenant))

    def tenants(self) -> queueing.Tenants:
        """See `coterie.client.queueing.Limits.tenants`."""
        return self._run(self._limits.tenants())
