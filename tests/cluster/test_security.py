"""Tokens, roles and tenants on real nodes: who is let in, and what one tenant can see of another."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from coterie.client import Cluster, Limit, NotFound, PermissionDenied, Tenant
from coterie.node.localcluster import LocalCluster
from coterie.node.security.table import RULES
from coterie.v1 import security_pb2, security_pb2_grpc, tasks_pb2, tasks_pb2_grpc
from tests.cluster.conftest import READY_S, client_of, until
from tests.cluster.secured import A, B, bearer, client_ports, raw_channel, secured_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

BIG = "x" * 400_000  # travels as a blob
Told = tuple[str, str, str]  # code, reason, message
Calls = dict[str, Callable[["Stubs", "Names"], Awaitable[Any]]]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with secured_cluster(tmp_path_factory.mktemp("secured")) as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


@pytest.fixture
async def admin(secured: LocalCluster) -> AsyncIterator[Cluster]:
    async with client_of(secured) as client:
        yield client


async def token_of(admin: Cluster, tenant: str, *roles: str) -> str:
    return (await admin.security.create_token(roles or ["submitter"], tenant=tenant)).secret


async def test_a_token_works_without_a_certificate_on_every_node_until_it_is_revoked(
    secured: LocalCluster, admin: Cluster
) -> None:
    assert (await admin.security.whoami()).principal == "user:admin"
    made = await admin.security.create_token(["submitter"], tenant=A, note="ci")
    async with bearer(secured, made.secret, A) as client:
        who = await client.security.whoami()
        assert (who.principal, who.tenant, who.roles) == (f"token:{made.id}", A, ("submitter",))
        jobs = [await client.submit_task(type="echo", payload=number) for number in range(6)]
        assert [await job.wait(timeout=30) for job in jobs] == list(range(6))
        with pytest.raises(PermissionDenied, match="DrainNode needs operator"):
            await client.drain_node("node-1")
        assert [token.id for token in await admin.security.tokens()] == [made.id]
        await admin.security.revoke_token(made.id)

        async def refused() -> bool:
            try:
                await client.security.whoami()
            except PermissionDenied as error:
                return error.reason == "TOKEN_ENDED"
            return False

        await until(refused, "the token opens nothing")


async def test_nobody_is_let_in_without_proof_and_peers_only_with_a_nodes_certificate(
    secured: LocalCluster, admin: Cluster
) -> None:
    secret = await token_of(admin, "*", "admin")
    for metadata in ((), (("authorization", "Bearer x"),), (("authorization", f"Basic {secret}"),)):
        async with raw_channel(secured, client_ports(secured)[0]) as channel:
            stub: Any = security_pb2_grpc.SecurityStub(channel)
            told = await told_by(stub.WhoAmI(security_pb2.WhoAmIRequest(), metadata=metadata))
            assert told[0] == "UNAUTHENTICATED"
    async with raw_channel(secured, client_ports(secured)[0]) as channel:
        ping: Any = channel.unary_unary("/coterie.v1.Peer/Ping")
        told = await told_by(ping(b"", metadata=(("authorization", f"Bearer {secret}"),)))
        assert told[:2] == ("PERMISSION_DENIED", "ROLE_MISSING")


async def test_a_viewer_looks_and_does_not_touch(secured: LocalCluster, admin: Cluster) -> None:
    async with bearer(secured, await token_of(admin, A, "submitter"), A) as submitter:
        job = await submitter.submit_task(type="echo", payload=1, start_delay="1h")
        async with bearer(secured, await token_of(admin, A, "viewer"), A) as viewer:
            assert (await viewer.job(job.id).get()).state == "PENDING"
            for forbidden in (
                viewer.submit_task(type="echo"),
                viewer.job(job.id).cancel(),
                viewer.job(job.id).pause(),
            ):
                with pytest.raises(PermissionDenied, match="needs submitter"):
                    await forbidden
        await job.cancel()


# --- the matrix: what tenant B gets for the names of tenant A's things


class Names:
    """Of things of a tenant; or made-up ones, of nobody."""

    def __init__(self, live: str, ended: str, dead: str, blob: str) -> None:
        self.live, self.ended, self.dead, self.blob = live, ended, dead, blob


NOBODYS = Names("nobodys", "nobodys", "nobodys", "ab" * 32)


class Stubs:
    """Every service of clients, called with a token."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self.tasks: Any = tasks_pb2_grpc.TasksStub(channel)
        self.dead: Any = tasks_pb2_grpc.DeadLettersStub(channel)
        self.limits: Any = tasks_pb2_grpc.LimitsStub(channel)
        self.blobs: Any = tasks_pb2_grpc.BlobsStub(channel)
        self.options: dict[str, Any] = {"metadata": (("authorization", f"Bearer {token}"),), "timeout": 20}


async def told_by(call: Any) -> Told:
    """How a call was refused; OK and the text of the answer when it was not."""
    try:
        if hasattr(call, "__aiter__") and not hasattr(call, "__await__"):
            answer = [message async for message in call]
        else:
            answer = await call
    except grpc.aio.AioRpcError as error:
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        info = error_details_pb2.ErrorInfo()
        for detail in status_pb2.Status.FromString(details).details:
            detail.Unpack(info)
        return error.code().name, info.reason, error.details() or ""
    return "OK", "", str(answer)


def on(service: str, method: str, request: Callable[[Names], Any]) -> Callable[[Stubs, Names], Any]:
    return lambda stubs, names: getattr(getattr(stubs, service), method)(request(names), **stubs.options)


async def stream_of(*messages: Any) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def waited(stubs: Stubs, names: Names) -> Any:
    """The first answer of a stream of waits; such a stream stays open."""
    request = tasks_pb2.WaitTasksRequest(names=[names.ended, names.live])
    call = stubs.tasks.WaitTasks(stream_of(request), **stubs.options)
    found: list[str] = []
    async for answer in call:
        assert not answer.tasks, "a task of the other tenant"
        found += answer.not_found
        if len(found) == len(set(request.names)):
            break
    call.cancel()
    return sorted(found) == sorted(set(request.names))


def parent(names: Names) -> str:
    return "tenants/nobodys" if names is NOBODYS else f"tenants/{A}"


def limit_of(names: Names) -> str:
    return "nobodys" if names is NOBODYS else "theirs"


def submit(names: Names, **task: Any) -> tasks_pb2.SubmitTaskRequest:
    return tasks_pb2.SubmitTaskRequest(task=tasks_pb2.Task(type="echo", **task))


HIDDEN: Calls = {  # what is said of another tenant's things is what is said of what is not there
    "Tasks/GetTask": on("tasks", "GetTask", lambda n: tasks_pb2.GetTaskRequest(name=n.live)),
    "Tasks/GetTask ended": on("tasks", "GetTask", lambda n: tasks_pb2.GetTaskRequest(name=n.ended)),
    "Tasks/GetTask full name": on(
        "tasks", "GetTask", lambda n: tasks_pb2.GetTaskRequest(name=f"tenants/{A}/tasks/{n.live}")
    ),
    "Tasks/WaitTask": on("tasks", "WaitTask", lambda n: tasks_pb2.WaitTaskRequest(name=n.live)),
    "Tasks/WatchTask": on("tasks", "WatchTask", lambda n: tasks_pb2.WatchTaskRequest(name=n.ended)),
    "Tasks/RouteTask": on("tasks", "RouteTask", lambda n: tasks_pb2.RouteTaskRequest(name=n.live)),
    "Tasks/CancelTask": on("tasks", "CancelTask", lambda n: tasks_pb2.CancelTaskRequest(name=n.live)),
    "Tasks/PauseTask": on("tasks", "PauseTask", lambda n: tasks_pb2.PauseTaskRequest(name=n.live)),
    "Tasks/ResumeTask": on("tasks", "ResumeTask", lambda n: tasks_pb2.ResumeTaskRequest(name=n.live)),
    "Tasks/SignalTask": on(
        "tasks", "SignalTask", lambda n: tasks_pb2.SignalTaskRequest(name=n.live, signal="go")
    ),
    "Tasks/RetryTask": on("tasks", "RetryTask", lambda n: tasks_pb2.RetryTaskRequest(name=n.dead)),
    "Tasks/RetryTask live": on("tasks", "RetryTask", lambda n: tasks_pb2.RetryTaskRequest(name=n.live)),
    "Tasks/SubmitTask parent": on("tasks", "SubmitTask", lambda n: submit(n, parent_task=n.live)),
    "DeadLetters/GetDeadLetter": on(
        "dead", "GetDeadLetter", lambda n: tasks_pb2.GetDeadLetterRequest(name=n.dead)
    ),
    "DeadLetters/ReplayDeadLetter": on(
        "dead", "ReplayDeadLetter", lambda n: tasks_pb2.ReplayDeadLetterRequest(name=n.dead)
    ),
    "Limits/TakeTokens": on(
        "limits", "TakeTokens", lambda n: tasks_pb2.TakeTokensRequest(limit_id=limit_of(n))
    ),
    "Blobs/GetBlob": on("blobs", "GetBlob", lambda n: tasks_pb2.GetBlobRequest(sha256=n.blob, task=n.ended)),
    "Blobs/GetBlob bare": on("blobs", "GetBlob", lambda n: tasks_pb2.GetBlobRequest(sha256=n.blob, task="t")),
}
DENIED: Calls = {  # the tenant is named
    "Tasks/SubmitTask": on("tasks", "SubmitTask", lambda n: tasks_pb2.SubmitTaskRequest(parent=parent(n))),
    "Tasks/BatchSubmitTasks": on(
        "tasks",
        "BatchSubmitTasks",
        lambda n: tasks_pb2.BatchSubmitTasksRequest(
            requests=[submit(n), tasks_pb2.SubmitTaskRequest(parent=parent(n))]
        ),
    ),
    "Tasks/ListTasks": on("tasks", "ListTasks", lambda n: tasks_pb2.ListTasksRequest(parent=parent(n))),
    "Limits/TakeTokens": on("limits", "TakeTokens", lambda n: tasks_pb2.TakeTokensRequest(parent=parent(n))),
    "Tasks/RouteTask": on("tasks", "RouteTask", lambda n: tasks_pb2.RouteTaskRequest(parent=parent(n))),
    "DeadLetters/ListDeadLetters": on(
        "dead", "ListDeadLetters", lambda n: tasks_pb2.ListDeadLettersRequest(parent=parent(n))
    ),
    "DeadLetters/PurgeDeadLetters": on(
        "dead",
        "PurgeDeadLetters",
        lambda n: tasks_pb2.PurgeDeadLettersRequest(parent=parent(n), names=[n.dead]),
    ),
}
EMPTY: Calls = {  # nothing of the other tenant is in the answer
    "Tasks/ListTasks": on("tasks", "ListTasks", lambda n: tasks_pb2.ListTasksRequest()),
    "DeadLetters/ListDeadLetters": on(
        "dead", "ListDeadLetters", lambda n: tasks_pb2.ListDeadLettersRequest()
    ),
    "DeadLetters/PurgeDeadLetters": on(
        "dead", "PurgeDeadLetters", lambda n: tasks_pb2.PurgeDeadLettersRequest(names=[n.dead])
    ),
    "Limits/ListLimits": on("limits", "ListLimits", lambda n: tasks_pb2.ListLimitsRequest()),
    "Limits/ListTenants": on("limits", "ListTenants", lambda n: tasks_pb2.ListTenantsRequest()),
}
ELSEWHERE = {
    "Tasks/WaitTasks",
    "Blobs/PutBlob",
}  # below; and what makes what is addressed by its hash
COVERED = ("Tasks/", "DeadLetters/", "Limits/", "Blobs/")


def test_the_matrix_has_every_call_about_tasks_that_a_tenant_may_make() -> None:
    open_to_tenants = {
        name
        for method, rule in RULES.items()
        if (name := method.rpartition(".")[2]).startswith(COVERED) and rule.role in ("viewer", "submitter")
    }
    there = {name.split()[0] for calls in (HIDDEN, DENIED, EMPTY) for name in calls}
    assert there | ELSEWHERE == open_to_tenants


async def things_of(client: Cluster) -> Names:
    """A tenant's tasks: one that waits, one that has ended with a large result, and a dead letter."""
    live = await client.submit_task(type="echo", payload=1, start_delay="1h", labels={"mine": "yes"})
    ended = await client.submit_task(type="echo", payload=BIG)
    dead = await client.submit_task(type="crash", retry={"max_attempts": 1, "dead_letter": True})
    assert await ended.wait(timeout=60) == BIG

    async def is_dead() -> bool:
        return (await dead.get()).state == "DEAD_LETTERED"

    await until(is_dead, "a dead letter")
    blob = hashlib.sha256(f'"{BIG}"'.encode()).hexdigest()
    return Names(live.id, ended.id, dead.id, blob)


async def test_a_tenant_sees_nothing_of_another_one(secured: LocalCluster, admin: Cluster) -> None:
    async with bearer(secured, await token_of(admin, A), A) as owner:
        names = await things_of(owner)
        before = await snapshot(owner, names)
        await admin.limits.set_tenant(Tenant(A, 3))
        await admin.limits.set(Limit(id="theirs", tenant=A, rate=5, period=60, calls=True))
        secret = await token_of(admin, B)
        for port in client_ports(secured):
            async with raw_channel(secured, port) as channel:
                await matrix(Stubs(channel, secret), names)
        assert await snapshot(owner, names) == before
        async with bearer(secured, secret, B) as stranger:
            with pytest.raises(NotFound):
                await stranger.job(names.live).get()
        assert (await admin.job(names.live).get()).state == "PENDING", "an admin sees every tenant's tasks"
        await owner.job(names.live).cancel()
    await admin.limits.remove("theirs")


async def matrix(stubs: Stubs, names: Names) -> None:
    for what, call in HIDDEN.items():
        theirs, nobodys = await told_by(call(stubs, names)), await told_by(call(stubs, NOBODYS))
        said = theirs[2]
        for name in (names.live, names.ended, names.dead, "theirs"):
            said = said.replace(name, "nobodys")
        said = said.replace(names.blob, NOBODYS.blob)
        assert (theirs[0] != "OK", *theirs[:2], said) == (True, *nobodys), what
    for what, call in DENIED.items():
        theirs, nobodys = await told_by(call(stubs, names)), await told_by(call(stubs, NOBODYS))
        assert theirs[:2] == ("PERMISSION_DENIED", "TENANT_DENIED") == nobodys[:2], what
    for what, call in EMPTY.items():
        code, _, said = await told_by(call(stubs, names))
        found = [name for name in (names.live, names.ended, names.dead, f'"{A}"') if name in said]
        assert (code, found) == ("OK", []), what
    assert await waited(stubs, names), "names of the other tenant are not found"


async def snapshot(owner: Cluster, names: Names) -> tuple[Any, ...]:
    """What must not change by what a stranger tries."""
    live, dead = await owner.job(names.live).get(), await owner.dead_letters.get(names.dead)
    return live.state, live.pause_requested, dead.state, [task.id async for task in owner.list_tasks()]
