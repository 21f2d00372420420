"""The client for programs without asyncio: the same methods, each returning when it is done.

```python
from coterie.client.sync import Cluster

with Cluster("127.0.0.1:8080") as c:
    job = c.submit_task(type="summarize", payload={"text": "…"})
    print(job.wait(timeout="10m"))
```

One event loop runs in one thread of its own for as long as the Cluster is open. Methods may be called from
any thread. `on_progress` callbacks run in that thread and must not call the Cluster themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from coterie.client import cluster as asynchronous
from coterie.client import job as asynchronous_job
from coterie.client.errors import ClusterClosed, SubmitErrors
from coterie.client.job import ProgressCallback
from coterie.client.models import Event, NodeInfo, Status, TaskInfo
from coterie.client.routes import Route
from coterie.client.settings import TLS, Timeouts
from coterie.client.spec import TaskOptions, TaskSpec
from coterie.client.sync_map_reduce import map_reduce as map_reduce
from coterie.client.sync_map_reduce import start_map_reduce as start_map_reduce
from coterie.client.sync_services import Services
from coterie.client.units import Duration
from coterie.client.workflow import Workflow

Result = TypeVar("Result")
Item = TypeVar("Item")


class _LoopThread:
    """An event loop in a thread, to which other threads hand coroutines."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="coterie-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of a coroutine run on the loop; an interrupt here cancels it there."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "a callback of the sync client must not call the Cluster: it would wait for itself"
            )
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # The loop is closed.
            work.close()
            raise ClusterClosed("this Cluster is closed: use it inside `with Cluster(...) as c:`") from None
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Ends the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()


class Job:
    """A task in the cluster; the blocking twin of `coterie.client.Job`."""

    def __init__(self, job: asynchronous_job.Job, thread: _LoopThread) -> None:
        self._job = job
        self._thread = thread
        self.id = job.id
        self.name = job.name
        self.request_id = job.request_id

    def __repr__(self) -> str:
        return repr(self._job)

    @property
    def task(self) -> TaskInfo | None:
        """The task as last seen by this handle, without a call."""
        return self._job.task

    def get(
        self,
        *,
        include_steps: bool = False,
        include_payload: bool = False,
        stale: bool = False,
        timeout: Duration | None = None,
    ) -> TaskInfo:
        """See `coterie.client.Job.get`."""
        work = self._job.get(
            include_steps=include_steps, include_payload=include_payload, stale=stale, timeout=timeout
        )
        return self._thread.run(work)

    def wait(self, *, failover: bool = True, timeout: Duration | None = None) -> Any:
        """See `coterie.client.Job.wait`."""
        return self._thread.run(self._job.wait(failover=failover, timeout=timeout))

    def result(self) -> Any:
        """See `coterie.client.Job.result`."""
        return self._thread.run(self._job.result())

    def watch(self, *, resume_token: str = "") -> Iterator[Event]:
        """See `coterie.client.Job.watch`."""
        return _iterate(self._thread, self._job.watch(resume_token=resume_token))

    def stream(self, *, tokens: bool = True, resume_token: str = "") -> Iterator[Event]:
        """See `coterie.client.Job.stream`."""
        return _iterate(self._thread, self._job.stream(tokens=tokens, resume_token=resume_token))

    def explain(self, *, strategy: str = "") -> Route:
        """See `coterie.client.Job.explain`."""
        return self._thread.run(self._job.explain(strategy=strategy))

    def cancel(self, reason: str = "", *, request_id: str = "") -> TaskInfo:
        """See `coterie.client.Job.cancel`."""
        return self._thread.run(self._job.cancel(reason, request_id=request_id))

    def pause(self, reason: str = "", *, request_id: str = "") -> TaskInfo:
        """See `coterie.client.Job.pause`."""
        return self._thread.run(self._job.pause(reason, request_id=request_id))

    def resume(self, *, request_id: str = "") -> TaskInfo:
        """See `coterie.client.Job.resume`."""
        return self._thread.run(self._job.resume(request_id=request_id))

    def signal(self, signal: str, payload: Any = None, *, request_id: str = "") -> TaskInfo:
        """See `coterie.client.Job.signal`."""
        return self._thread.run(self._job.signal(signal, payload, request_id=request_id))

    def retry(self, *, discard_steps: bool = False, request_id: str = "") -> Job:
        """See `coterie.client.Job.retry`."""
        job = self._thread.run(self._job.retry(discard_steps=discard_steps, request_id=request_id))
        return Job(job, self._thread)


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
        self._running: _LoopThread | None = None

    def __enter__(self) -> Self:
        if self._running is not None:
            raise ClusterClosed("this Cluster is open already: make another one")
        self._running = _LoopThread()
        try:
            self._running.run(self._cluster.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection and ends the thread."""
        if self._running is not None:
            try:
                self._running.run(self._cluster.close())
            finally:
                self._stop()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses in use now: those given, and those discovered."""
        return self._cluster.endpoints

    def submit_task(
        self,
        target_node: str | NodeInfo | Route | None = None,
        *,
        type: str,
        payload: Any = None,
        on_progress: ProgressCallback | None = None,
        wait_when_full: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Job:
        """See `coterie.client.Cluster.submit_task`."""
        work = self._cluster.submit_task(
            target_node,
            type=type,
            payload=payload,
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
        return _iterate(self._thread, pages)

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

    def transfer_leadership(self, node: str | NodeInfo | None = None) -> str:
        """See `coterie.client.Cluster.transfer_leadership`."""
        return self._run(self._cluster.transfer_leadership(node))

    @property
    def _thread(self) -> _LoopThread:
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
        return _iterate(self._thread, items)

    def _stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None


def _iterate(thread: _LoopThread, items: AsyncGenerator[Item, None]) -> Iterator[Item]:
    async def following() -> tuple[bool, Item | None]:
        async for item in items:
            return True, item
        return False, None

    async def close() -> None:
        await items.aclose()

    try:
        while True:
            more, item = thread.run(following())
            if not more:
                return
            assert item is not None
            yield item
    finally:
        # The loop may have ended first, or may itself be collecting this generator: it then closes `items`.
        with contextlib.suppress(ClusterClosed, RuntimeError):
            thread.run(close())
