"""The cluster for programs without asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from coterie.client import cluster as asynchronous
from coterie.client import job as asynchronous_job
from coterie.client.backup import BackupFile
from coterie.client.errors import ClusterClosed, SubmitErrors
from coterie.client.job import ProgressCallback
from coterie.client.models import NodeInfo, Status, TaskInfo
from coterie.client.order import Target, Task, TaskWords
from coterie.client.routes import Route
from coterie.client.settings import TLS, Timeouts
from coterie.client.spec import TaskSpec
from coterie.client.sync_job import Job, LoopThread, iterate
from coterie.client.sync_services import Services
from coterie.client.units import Duration
from coterie.client.workflow import Workflow

Result = TypeVar("Result")
Item = TypeVar("Item")


class Cluster(Services):
    """A connection to a Coterie cluster for plain code; use it as `with Cluster(...) as c:`.

    The arguments are those of `coterie.client.Cluster`.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] | None = None,
        *,
        config_path: str | Path | None = None,
        tls: TLS | None = None,
        insecure: bool = False,
        auto_discovery: bool = True,
        tenant: str = "default",
        token: str = "",
        timeouts: Timeouts | None = None,
    ) -> None:
        self._cluster = asynchronous.Cluster(
            endpoints,
            config_path=config_path,
            tls=tls,
            insecure=insecure,
            auto_discovery=auto_discovery,
            tenant=tenant,
            token=token,
            timeouts=timeouts,
        )
        super().__init__(self._run, self._each, self._wrap, self._cluster)
        self._running: LoopThread | None = None

    def __enter__(self) -> Self:
        if self._running is not None:
            raise ClusterClosed("this Cluster is open already: make another one")
        running = LoopThread()
        try:
            running.run(self._cluster.__aenter__())
        except BaseException:
            running.stop()
            raise
        self._running = running
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection and ends the thread; calls, waits and watches that are under way in other
        threads raise ClusterClosed."""
        running, self._running = self._running, None
        if running is not None:
            try:
                running.run(self._cluster.close())
            finally:
                running.stop()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses in use now: those given, and those discovered."""
        return self._cluster.endpoints

    def submit_task(
        self,
        target_node: Target | Task | None = None,
        task: Task | None = None,
        *,
        on_progress: ProgressCallback | None = None,
        wait_when_full: bool = False,
        **options: Unpack[TaskWords],
    ) -> Job:
        """See `coterie.client.Cluster.submit_task`."""
        work = self._cluster.submit_task(
            target_node,
            task,
            on_progress=on_progress,
            wait_when_full=wait_when_full,
            **options,
        )
        return self._wrap(self._run(work))

    def submit_tasks(
        self, entries: Iterable[TaskSpec | Mapping[str, Any]], *, wait_when_full: bool = False
    ) -> list[Job]:
        """See `coterie.client.Cluster.submit_tasks`."""
        try:
            jobs = self._run(self._cluster.submit_tasks(entries, wait_when_full=wait_when_full))
        except SubmitErrors as some:
            accepted = [self._wrap(job) if job is not None else None for job in some.jobs]
            raise SubmitErrors(some.errors, accepted) from None
        return [self._wrap(job) for job in jobs]

    def run_workflow(self, workflow: Workflow | str, **inputs: Any) -> Job:
        """See `coterie.client.Cluster.run_workflow`."""
        return self._wrap(self._run(self._cluster.run_workflow(workflow, **inputs)))

    def job(self, task_id: str) -> Job:
        """See `coterie.client.Cluster.job`."""
        return self._wrap(self._cluster.job(task_id))

    def route_task(
        self,
        task: TaskSpec | Mapping[str, Any],
        *,
        strategy: str = "",
        constraints: Mapping[str, Any] | None = None,
    ) -> Route:
        """See `coterie.client.Cluster.route_task`."""
        return self._run(self._cluster.route_task(task, strategy=strategy, constraints=constraints))

    def list_tasks(
        self, *, filter: str = "", page_size: int = 50, limit: int | None = None, stale: bool = False
    ) -> Iterator[TaskInfo]:
        """See `coterie.client.Cluster.list_tasks`."""
        pages = self._cluster.list_tasks(filter=filter, page_size=page_size, limit=limit, stale=stale)
        return iterate(self._thread, pages)

    def get_status(
        self, *, stale: bool = False, state_hash: bool = False, timeout: Duration | None = None
    ) -> Status:
        """See `coterie.client.Cluster.get_status`."""
        return self._run(self._cluster.get_status(stale=stale, state_hash=state_hash, timeout=timeout))

    def list_nodes(self, *, timeout: Duration | None = None) -> list[NodeInfo]:
        """See `coterie.client.Cluster.list_nodes`."""
        return self._run(self._cluster.list_nodes(timeout=timeout))

    def drain_node(self, node: str | NodeInfo, *, deadline: Duration | None = None) -> NodeInfo:
        """See `coterie.client.Cluster.drain_node`."""
        return self._run(self._cluster.drain_node(node, deadline=deadline))

    def undrain_node(self, node: str | NodeInfo) -> NodeInfo:
        """See `coterie.client.Cluster.undrain_node`."""
        return self._run(self._cluster.undrain_node(node))

    def add_node(self, node_id: str, address: str) -> NodeInfo:
        """See `coterie.client.Cluster.add_node`."""
        return self._run(self._cluster.add_node(node_id, address))

    def remove_node(
        self,
        node: str | NodeInfo,
        *,
        deadline: Duration | None = None,
        force: bool = False,
        timeout: Duration | None = None,
    ) -> None:
        """See `coterie.client.Cluster.remove_node`."""
        self._run(self._cluster.remove_node(node, deadline=deadline, force=force, timeout=timeout))

    def promote_node(self, node: str | NodeInfo) -> NodeInfo:
        """See `coterie.client.Cluster.promote_node`."""
        return self._run(self._cluster.promote_node(node))

    def move_node(self, node: str | NodeInfo, address: str) -> NodeInfo:
        """See `coterie.client.Cluster.move_node`."""
        return self._run(self._cluster.move_node(node, address))

    def create_backup(self, path: str | Path, *, history: bool = True) -> BackupFile:
        """See `coterie.client.Cluster.create_backup`."""
        return self._run(self._cluster.create_backup(path, history=history))

    def transfer_leadership(self, node: str | NodeInfo | None = None) -> str:
        """See `coterie.client.Cluster.transfer_leadership`."""
        return self._run(self._cluster.transfer_leadership(node))

    @property
    def _thread(self) -> LoopThread:
        if self._running is None:
            raise ClusterClosed("this Cluster is not open: use it inside `with Cluster(...) as c:`")
        return self._running

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            thread = self._thread
        except ClusterClosed:
            work.close()
            raise
        return thread.run(work)

    def _wrap(self, job: asynchronous_job.Job) -> Job:
        return Job(job, self._thread)

    def _each(self, items: AsyncGenerator[Item, None]) -> Iterator[Item]:
        return iterate(self._thread, items)
