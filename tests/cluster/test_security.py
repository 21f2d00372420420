"""Tokens, roles and tenants on real nodes: who is let in, and what one tenant can see of another."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from coterie.client import Budget, Cluster, Limit, NotFound, PermissionDenied, Tenant
from coterie.client.schedules import Timing
from coterie.node.config.secret_files import read_secret
from coterie.node.localcluster import LocalCluster
from coterie.node.tls import node_paths
from coterie.v1 import security_pb2, security_pb2_grpc
from tests.cluster import isolation
from tests.cluster.conftest import READY_S, client_of, until
from tests.cluster.isolation import Names, Stub, told_by
from tests.cluster.secured import A, B, bearer, client_ports, raw_channel, secured_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

BIG = "x" * 400_000  # travels as a blob
KEPT = "theirs"


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
        given = {f"127.0.0.1:{port}" for port in client_ports(secured)}
        assert set(client.endpoints) == given, "those of the nodes want a certificate"
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


def test_a_bootstrap_token_makes_a_real_one_as_its_help_says(secured: LocalCluster, tmp_path: Path) -> None:
    at = ["--config", str(secured.config_path), "--id", "node-1"]
    told = coterie("token", "bootstrap", *at, "--json")
    tls = node_paths(secured.base_dir / "tls", "node-1")
    line: list[str | Path] = [
        "--endpoint",
        secured.addresses["node-1"],
        "--tls-ca",
        tls.ca,
        "--tls-cert",
        tls.cert,
    ]
    line += ["--tls-key", tls.key, "--token", json.loads(told)["file"]]
    for number in range(5):
        out = tmp_path / f"{number}.token"
        coterie(*line, "token", "create", "--role", "admin", "--out", out)
        assert read_secret(out).startswith("cot_")


def coterie(*arguments: str | Path) -> str:
    """What the program says. Fails unless it ends well."""
    command = [sys.executable, "-m", "coterie.node.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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


# --- isolation: what tenant B gets for the names of tenant A's things


def test_every_call_that_a_tenant_may_make_is_tried_or_said_to_be_shared() -> None:
    tried = {name.split()[0] for table in (isolation.HIDDEN, isolation.EMPTY) for name in table}
    tried |= isolation.BATCHED | set(isolation.naming_a_tenant())
    assert tried | set(isolation.SHARED) == isolation.open_to_tenants()
    assert not tried & set(isolation.SHARED)


async def things_of(owner: Cluster, tmp_path: Path) -> Names:
    """One of everything that a tenant can have."""
    live = await owner.submit_task(type="echo", payload=1, start_delay="1h", labels={"mine": "yes"})
    ended = await owner.submit_task(type="echo", payload=BIG)
    dead = await owner.submit_task(type="crash", retry={"max_attempts": 1, "dead_letter": True})
    given = {"witness": str(tmp_path / "seen"), "call": {"to": "ann"}}
    asking = await owner.submit_task(type="effects", payload=given)
    await owner.locks.acquire(KEPT, ttl="1h")
    await owner.kv.put(KEPT, {"secret": KEPT})
    await owner.bus.publish(f"{KEPT}.news", {"secret": KEPT})
    await owner.bus.set_group(KEPT, f"{KEPT}.>", start=0)
    await owner.schedules.apply(KEPT, Timing(interval="1h"), type="echo")
    text = "nodes: {later: {skill: wait, input: {witness: /dev/null, sleep_ms: 3600000}}}"
    await owner.workflows.apply(KEPT, text)
    run = await owner.workflows.run(kept=KEPT)
    assert await ended.wait(timeout=60) == BIG

    async def all_there() -> bool:
        letters = (await dead.get()).state == "DEAD_LETTERED"
        return letters and bool(await owner.approvals.list())

    await until(all_there, "a dead letter, and a question")
    blob = hashlib.sha256(f'"{BIG}"'.encode()).hexdigest()
    return Names(live.id, ended.id, dead.id, asking.id, run.id, KEPT, blob)


async def test_a_tenant_sees_and_changes_nothing_of_another_one(
    secured: LocalCluster, admin: Cluster, tmp_path: Path
) -> None:
    submitter = (await admin.security.create_token(["submitter"], tenant=A)).secret
    async with bearer(secured, submitter, A) as owner:
        names = await things_of(owner, tmp_path)
        await admin.limits.set_tenant(Tenant(A, 3))
        await admin.limits.set(Limit(id=KEPT, tenant=A, rate=5, period=60, calls=True))
        await admin.usage.set_budget(Budget(id=KEPT, tenant=A, tokens=7))
        before = await snapshot(owner, names)
        secret = (await admin.security.create_token(["submitter"], tenant=B)).secret
        for port in client_ports(secured):
            async with raw_channel(secured, port) as channel:
                for check in isolation.CHECKS:
                    await check(Stub(channel, secret), names)
        async with bearer(secured, secret, B) as stranger:
            await same_names_are_other_things(stranger, names)
        assert await snapshot(owner, names) == before
        assert (await admin.job(names.live).get()).state == "PENDING", "an admin sees every tenant's tasks"
        for job in (names.live, names.asking, names.run):
            await owner.job(job).cancel()


async def same_names_are_other_things(stranger: Cluster, names: Names) -> None:
    """What is asked for by a name that another tenant uses too."""
    with pytest.raises(NotFound):
        await stranger.job(names.live).get()
    assert await stranger.kv.get(KEPT) is None
    await stranger.kv.put(KEPT, "other")
    await stranger.kv.delete(KEPT)
    held = await stranger.locks.acquire(KEPT, ttl="1h")
    assert held is not None
    await stranger.locks.release(KEPT, held.token)
    await stranger.bus.publish(f"{KEPT}.news", "other")
    await stranger.bus.set_group(KEPT, ">", start=0)
    [only] = await stranger.bus.fetch(KEPT, wait="0s")
    assert only.body == "other"
    await stranger.bus.remove_group(KEPT)
    await stranger.bus.remove_topic(">")
    await stranger.schedules.apply(KEPT, Timing(interval="2h"), type="echo")
    await stranger.schedules.remove(KEPT)
    with pytest.raises(NotFound):
        await stranger.workflows.remove(KEPT)


async def snapshot(owner: Cluster, names: Names) -> tuple[Any, ...]:
    """What must not change by what a stranger tries."""
    live, dead = await owner.job(names.live).get(), await owner.dead_letters.get(names.dead)
    locks, schedules = await owner.locks.list(), await owner.schedules.list()
    return (
        (live.state, live.pause_requested, dead.state),
        {task.id async for task in owner.list_tasks()},
        [(lock.name, lock.token) for lock in locks],
        await owner.kv.entry(KEPT),
        [(topic.name, topic.count) for topic in await owner.bus.topics()],
        await owner.bus.groups(),
        [(one.id, one.version, one.paused) for one in schedules],
        [one.name for one in await owner.workflows.list()],
        [approval.votes for approval in await owner.approvals.list()],
    )
