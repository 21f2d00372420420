"""Cluster: the client's way in. See `coterie.client` for a manual with examples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from coterie.client.connection import Connection
from coterie.client.errors import ClusterClosed, CoterieError, SubmitErrors
from coterie.client.job import Job, ProgressCallback
from coterie.client.models import NodeInfo, Status, TaskInfo
from coterie.client.operations import Operations
from coterie.client.order import Target, Task, TaskWords, ordered
from coterie.client.record import Recorder, recorded
from coterie.client.routes import Route
from coterie.client.rpc_errors import invalid
from coterie.client.services import Services
from coterie.client.settings import TLS, Timeouts, resolve
from coterie.client.sizes import send_sized
from coterie.client.spec import TaskSpec, prepare
from coterie.client.units import Duration, optional_seconds
from coterie.client.workflow import Workflow
from coterie.v1 import cluster_pb2, tasks_pb2

PAGE_SIZE_MAX = 1000
_SUBMIT_WINDOW = 2048


class Cluster(Services, Operations):
    """A connection to a Coterie cluster; use it as `async with Cluster(...) as c:`.

    - `endpoints`: some nodes, "h1:8080,h2:8080" or a list. One that answers is enough; the others are
      discovered. "srv:_coterie._tcp.example.org" looks service records up (needs dnspython). Left out: the
      config file, then the environment variable COTERIE_ENDPOINT.
    - `config_path`: a JSON or YAML file, the client's own or the cluster's (YAML needs PyYAML).
    - `tls`: `TLS(ca=..., cert=..., key=...)`, or `TLS.of("tls")` for what `coterie tls init` has made; else
      from the config file, else from COTERIE_TLS_CA, COTERIE_TLS_CERT and COTERIE_TLS_KEY, else from the
      directory COTERIE_TLS_DIR.
    - `insecure`: allow plain text to other machines, and ignore the environment's TLS files. Plain text
      to loopback needs no permission.
    - `auto_discovery`: ask the cluster for its members now and then, and after failures. A client that has
      no certificate under TLS stays with the endpoints it was given: those of the members want one.
    - `tenant`: whose tasks these are.
    - `token`: proves who calls, where a certificate does not; needs `tls`.
    - `timeouts`: how long to try; see `Timeouts`.

    Every method may raise Unavailable (no node answered within `timeouts.call`), PermissionDenied and
    ClusterClosed. Wrong arguments raise ConfigError at once; no connection is made before it is needed.
    """

    recorder: Recorder | None = None
    """Set before the Cluster is opened: gets a history of its calls; see `coterie.client.record`."""

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
        options = {"insecure": insecure, "auto_discovery": auto_discovery}
        self._settings = resolve(endpoints, config_path, tls, **options, tenant=tenant, token=token)
        self._timeouts = timeouts or Timeouts()
        self._connection: Connection | None = None
        super().__init__(lambda: self._open)

    async def __aenter__(self) -> Self:
        if self._connection is not None:
            raise ClusterClosed("this Cluster is open already: make another one")
        connection = Connection(self._settings, self._timeouts, self.recorder)
        if self._settings.names:
            await connection.look_up()
        self._connection = connection
        connection.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection; calls and waits that are under way raise ClusterClosed."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses in use now: those given, and those discovered."""
        return self._open.pool.addresses

    async def submit_task(
        self,
        target_node: Target | Task | None = None,
        task: Task | None = None,
        *,
        on_progress: ProgressCallback | None = None,
        wait_when_full: bool = False,
        **options: Unpack[TaskWords],
    ) -> Job:
        """Submits one task and returns its Job once a majority of nodes has it on disk.

        `type` names the skill, `payload` is any JSON value or bytes. A dict or TaskSpec may say all this,
        alone or after the node: `submit_task({"type": …})`. `target_node` pins the task to a node; the
        Route of a dry run only advises one, and the task goes elsewhere when that is lost or far busier.
        `options` are priority, timeout, deadline, checkpoint, request_id, task_id, max_attempts, labels,
        constraints, start_delay, key, agent, parent and retry; `TaskSpec` explains each.
        `on_progress(p)` is called with `p.percent` and `p.message` while the task runs.
        A full queue raises QueueFull; with `wait_when_full=True` the client comes back when told to,
        for `timeouts.call` at most.

        Lost answers are retried with the same request_id, so the task exists once. Concurrent calls
        share RPCs: `asyncio.gather` over many submits is as quick as `submit_tasks`.

        Raises InvalidRequest (all violations at once), QueueFull, AlreadyExists.
        """
        job = await self._submit(ordered(target_node, task, options), wait_when_full)
        if on_progress is not None:
            job.follow(on_progress)
        return job

    async def submit_tasks(
        self, entries: Iterable[TaskSpec | Mapping[str, Any]], *, wait_when_full: bool = False
    ) -> list[Job]:
        """Submits many tasks; each entry is a TaskSpec or a dict with the same keys. `wait_when_full` is
        that of `submit_task`.

        Returns one Job per entry, in order. When some are refused the others stay submitted, and
        SubmitErrors says which: `.errors` by index, `.jobs` with None in their places.
        """
        items = list(entries)
        results: list[Job | BaseException] = []
        for start in range(0, len(items), _SUBMIT_WINDOW):
            window = items[start : start + _SUBMIT_WINDOW]
            results += await asyncio.gather(
                *(self._submit_entry(item, wait_when_full) for item in window), return_exceptions=True
            )
        jobs = [result if isinstance(result, Job) else None for result in results]
        errors = {i: result for i, result in enumerate(results) if isinstance(result, CoterieError)}
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, CoterieError):
                raise result
        if errors:
            raise SubmitErrors(errors, jobs)
        return [job for job in jobs if job is not None]

    async def run_workflow(self, workflow: Workflow | str, **inputs: Any) -> Job:
        """Begins a run with these inputs and returns its Job, whose `wait()` gives the outputs. Options, and
        workflows that are kept: `workflows.run`. Raises InvalidRequest with all that is wrong."""
        return await self.workflows.run(workflow, inputs)

    def job(self, task_id: str) -> Job:
        """The handle on a task submitted before, here or elsewhere; no call is made."""
        if not isinstance(task_id, str) or not task_id:
            raise invalid([("task_id", f"{task_id!r} is not a task id: give the text in job.id")])
        return Job(self._open, self._open.task_name(task_id))

    async def route_task(
        self,
        task: TaskSpec | Mapping[str, Any],
        *,
        strategy: str = "",
        constraints: Mapping[str, Any] | None = None,
    ) -> Route:
        """Where the task would go if it were submitted now: a dry run that changes nothing. `strategy` is
        another one than the cluster's; `constraints` come on top of the task's own. Raises InvalidRequest."""
        spec = TaskSpec.of(task)
        if constraints:
            spec = replace(spec, constraints={**(spec.constraints or {}), **constraints})
        request = prepare(spec, self._open.tenant).request
        asked = tasks_pb2.RouteTaskRequest(parent=request.parent, task=request.task, strategy=strategy)
        return Route.of(await self._open.caller.unary(lambda endpoint: endpoint.tasks.RouteTask, asked))

    async def list_tasks(
        self, *, filter: str = "", page_size: int = 50, limit: int | None = None, stale: bool = False
    ) -> AsyncGenerator[TaskInfo, None]:
        """The tenant's tasks, newest first, page by page as they are read.

        `filter` is e.g. `state=RUNNING AND type="map" AND labels.team="x"`. At most `limit` tasks are
        given; `stale=True` reads one node's replica as it is.
        """
        if not 1 <= page_size <= PAGE_SIZE_MAX:
            raise invalid([("page_size", f"{page_size!r} is not from 1 to {PAGE_SIZE_MAX}")])
        left = limit if limit is not None else -1
        request = tasks_pb2.ListTasksRequest(
            parent=f"tenants/{self._open.tenant}",
            page_size=page_size,
            filter=filter,
            read_mode=tasks_pb2.STALE if stale else tasks_pb2.LINEARIZABLE,
        )
        while left != 0:
            page = await self._open.caller.unary(lambda endpoint: endpoint.tasks.ListTasks, request)
            for task in page.tasks[: left if left > 0 else None]:
                yield TaskInfo.of(task)
            left -= min(len(page.tasks), left) if left > 0 else 0
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_status(
        self, *, stale: bool = False, state_hash: bool = False, timeout: Duration | None = None
    ) -> Status:
        """The cluster's state: leader, quorum, nodes, tasks by state. `stale=True` asks one node only,
        so it answers without a leader; `state_hash=True` adds the hash of the replicated state.
        Raises Unavailable when no node answered within `timeout` (default: `timeouts.call`)."""
        request = cluster_pb2.GetStatusRequest(
            read_mode=tasks_pb2.STALE if stale else tasks_pb2.LINEARIZABLE, include_state_hash=state_hash
        )
        raw = await self._open.caller.unary(
            lambda endpoint: endpoint.cluster.GetStatus, request, timeout=optional_seconds(timeout)
        )
        return Status.of(raw)

    async def list_nodes(self, *, timeout: Duration | None = None) -> list[NodeInfo]:
        """Every node of the cluster, those that are down included."""
        return [NodeInfo.of(node) for node in await self._open.nodes(optional_seconds(timeout))]

    @property
    def _open(self) -> Connection:
        if self._connection is None:
            raise ClusterClosed("this Cluster is not open: use it inside `async with Cluster(...) as c:`")
        return self._connection

    async def _submit_entry(self, entry: TaskSpec | Mapping[str, Any], wait_when_full: bool) -> Job:
        return await self._submit(TaskSpec.of(entry), wait_when_full)

    async def _submit(self, spec: TaskSpec, wait_when_full: bool) -> Job:
        connection = self._open
        prepared = prepare(spec, connection.tenant)
        request = prepared.request
        payload = request.task.payload
        submission = send_sized(
            connection,
            payload.inline if prepared.blob is None else prepared.blob,
            payload,
            lambda: connection.submitter.submit(request, wait_when_full=wait_when_full),
        )
        raw = await recorded(connection.recorder, "submit", submission, request_id=request.request_id)
        job = Job(connection, raw.name or connection.task_name(raw.task_id), raw)
        job.request_id = request.request_id
        return job
