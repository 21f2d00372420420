"""A cluster that answers at once with what a test gave it, and a way to run the command line against it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from click.testing import CliRunner, Result

from coterie.client import Event, NodeInfo, Progress, Route, Status, TaskInfo
from coterie.node.cli.connect import Target
from coterie.node.cli.main import cli
from coterie.node.cli.session import Session
from coterie.v1 import cluster_pb2, tasks_pb2

ENDPOINT = "127.0.0.1:7101"


def task_info(task_id: str = "t1", state: str = "SUCCEEDED", **fields: Any) -> TaskInfo:
    raw = tasks_pb2.Task(
        task_id=task_id,
        name=f"tenants/default/tasks/{task_id}",
        type=fields.pop("type", "echo"),
        state=tasks_pb2.TaskState.Value(state),
        attempt=fields.pop("attempt", 1),
        **fields,
    )
    raw.create_time.GetCurrentTime()
    return TaskInfo.of(raw)


def node_info(node_id: str = "node-1", state: str = "ACTIVE", **fields: Any) -> NodeInfo:
    known: dict[str, Any] = {"address": "127.0.0.1:7101", "capacity": 16, "skills": ["echo"]}
    raw = cluster_pb2.Node(node_id=node_id, state=cluster_pb2.NodeState.Value(state), **(known | fields))
    return NodeInfo.of(raw)


def status_info(*, quorum: bool = True, **fields: Any) -> Status:
    known: dict[str, Any] = {
        "cluster_name": "test",
        "leader": "node-1" if quorum else "",
        "term": 3,
        "active_nodes": 3,
        "total_nodes": 3,
        "served_by": "node-2",
        "tasks_by_state": {"PENDING": 4, "RUNNING": 2},
        "nodes": [node_info("node-1", leader=True).raw, node_info("node-2", zone="b").raw],
    }
    return Status.of(cluster_pb2.ClusterStatus(has_quorum=quorum, **(known | fields)))


def event(sequence: int, type_: str, detail: str = "", **fields: Any) -> Event:
    raw = tasks_pb2.TaskEvent(
        sequence=sequence, type=type_, detail=detail, resume_token=f"token-{sequence}", **fields
    )
    return Event.of(raw)


@dataclass
class FakeJob:
    """`result` is returned or, when it is an exception, raised by `wait`."""

    cluster: FakeCluster
    id: str
    task: TaskInfo | None = None

    async def get(self, *, include_steps: bool = False) -> TaskInfo:
        self.cluster.answer("get", self.id)
        return self.cluster.tasks[self.id]

    async def wait(self, *, timeout: str | None = None) -> Any:
        self.cluster.answer("wait", self.id, timeout)
        return self.cluster.result

    async def result(self) -> Any:
        return self.cluster.result

    def follow(self, on_progress: Callable[[Progress], None]) -> None:
        for progress in self.cluster.progress:
            on_progress(progress)

    async def watch(self, *, resume_token: str = "") -> AsyncGenerator[Event, None]:
        self.cluster.answer("watch", self.id, resume_token)
        for found in self.cluster.events:
            yield found

    async def explain(self, *, strategy: str = "") -> Route:
        self.cluster.answer("explain", self.id, strategy)
        raw = tasks_pb2.Route()
        raw.CopyFrom(self.cluster.route)
        raw.task.CopyFrom(self.cluster.tasks[self.id].raw)
        return Route.of(raw)

    async def cancel(self, reason: str = "") -> TaskInfo:
        self.cluster.answer("cancel", self.id, reason)
        return self.cluster.tasks[self.id]

    async def pause(self, reason: str = "") -> TaskInfo:
        self.cluster.answer("pause", self.id, reason)
        return self.cluster.tasks[self.id]


@dataclass
class FakeCluster:
    """Keeps what it was asked in `calls`; raises `failures[method]` instead of answering."""

    tasks: dict[str, TaskInfo] = field(default_factory=lambda: {"t1": task_info()})
    nodes: list[NodeInfo] = field(default_factory=lambda: [node_info("node-1"), node_info("node-2")])
    status: Status = field(default_factory=status_info)
    stale_status: Status = field(default_factory=status_info)
    result: Any = None
    route: tasks_pb2.Route = field(default_factory=tasks_pb2.Route)
    events: list[Event] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    failures: dict[str, BaseException] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    target: Target | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.calls.append(("closed",))

    def answer(self, method: str, *arguments: Any) -> None:
        self.calls.append((method, *arguments))
        if method in self.failures:
            raise self.failures[method]

    async def submit_task(self, **options: Any) -> FakeJob:
        self.answer("submit", options)
        return FakeJob(self, "t1", self.tasks["t1"])

    def job(self, task_id: str) -> FakeJob:
        return FakeJob(self, task_id)

    async def list_tasks(
        self, *, filter: str, limit: int | None = None, page_size: int
    ) -> AsyncGenerator[TaskInfo, None]:
        self.answer("list", filter, limit, page_size)
        for task in list(self.tasks.values())[:limit]:
            yield task

    async def get_status(self, *, stale: bool = False) -> Status:
        self.answer("stale_status" if stale else "status")
        return self.stale_status if stale else self.status

    async def list_nodes(self) -> list[NodeInfo]:
        self.answer("nodes")
        return self.nodes

    async def drain_node(self, node: str, *, deadline: float | None = None) -> NodeInfo:
        self.answer("drain", node, deadline)
        return node_info(node, "DRAINING", running=2)

    async def undrain_node(self, node: str) -> NodeInfo:
        self.answer("undrain", node)
        return node_info(node)

    async def add_node(self, node: str, address: str) -> NodeInfo:
        self.answer("add", node, address)
        return node_info(node, "DOWN", address=address)

    async def remove_node(
        self, node: str, *, deadline: float | None = None, force: bool = False, timeout: float | None = None
    ) -> None:
        self.answer("remove", node, deadline, force, timeout)

    async def promote_node(self, node: str) -> NodeInfo:
        self.answer("promote", node)
        return node_info(node, role=cluster_pb2.VOTER)

    async def move_node(self, node: str, address: str) -> NodeInfo:
        self.answer("move", node, address)
        return node_info(node, address=address)

    async def transfer_leadership(self, node: str | None = None) -> str:
        self.answer("transfer", node)
        return node or "node-2"


def run(
    cluster: FakeCluster, *arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None
) -> Result:
    """Run `coterie` with these arguments against the fake."""

    def connect(target: Target) -> Any:
        cluster.target = target
        return cluster

    base = {
        name: None for name in ("COTERIE_TLS_DIR", "COTERIE_TLS_CA", "COTERIE_TLS_CERT", "COTERIE_TLS_KEY")
    }
    environment: dict[str, str | None] = {"COTERIE_ENDPOINT": ENDPOINT, **base, **(env or {})}
    return CliRunner().invoke(
        cli, list(arguments), input=stdin, env=environment, obj=Session(connect=connect), prog_name="coterie"
    )


def document(result: Result) -> dict[str, Any]:
    """The one JSON document on the standard output."""
    found = json.loads(result.stdout, parse_constant=_refuse)
    assert isinstance(found, dict)
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
