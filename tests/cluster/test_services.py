"""What operators and tools rely on: health, reflection, metrics, snapshots, the ledgers of late nodes."""

from __future__ import annotations

import urllib.request
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from coterie.client.usage import Budget
from coterie.node.localcluster import LocalCluster, free_addresses
from coterie.node.security.table import RULES
from coterie.node.tls import load_tls, node_paths
from tests.cluster.conftest import READY_S, client_of, new_cluster, until
from tests.node.test_alerts import every_metric

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

TASKS = "coterie.v1.Tasks"


def channel_to(cluster: LocalCluster, node_id: str) -> grpc.aio.Channel:
    paths = cluster.client_tls
    assert paths is not None
    credentials = grpc.ssl_channel_credentials(
        paths.ca.read_bytes(), paths.key.read_bytes(), paths.cert.read_bytes()
    )
    return grpc.aio.secure_channel(cluster.addresses[node_id], credentials)


async def health_of(cluster: LocalCluster, node_id: str, service: str) -> str:
    async with channel_to(cluster, node_id) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_health_flips_on_drain_and_back(shared: LocalCluster) -> None:
    async def is_now(status: str) -> bool:
        return await health_of(shared, "node-2", TASKS) == status

    async with client_of(shared) as client:
        await until(lambda: is_now("SERVING"), "node-2 serves")
        await client.drain_node("node-2")
        try:
            await until(lambda: is_now("NOT_SERVING"), "a draining node sends its clients away")
            assert await health_of(shared, "node-2", "coterie.v1.Cluster") == "SERVING"
        finally:
            await client.undrain_node("node-2")
        await until(lambda: is_now("SERVING"), "it serves again")


async def test_exactly_one_node_says_that_it_leads(shared: LocalCluster) -> None:
    async def one() -> bool:
        said = [await health_of(shared, node_id, "raft.leader") for node_id in shared.node_ids]
        return said.count("SERVING") == 1

    await until(one, "one leader by its health")


async def test_reflection_lists_the_services(shared: LocalCluster) -> None:
    async with channel_to(shared, "node-1") as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10
        )
        async for answer in call:
            names = {service.name for service in answer.list_services_response.service}
    assert {method.split("/")[1] for method in RULES} == names


async def test_errors_carry_reason_and_violations(shared: LocalCluster) -> None:
    from google.rpc import error_details_pb2, status_pb2

    from coterie.v1 import tasks_pb2, tasks_pb2_grpc

    async with channel_to(shared, "node-1") as channel:
        stub: Any = tasks_pb2_grpc.TasksStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListTasks(tasks_pb2.ListTasksRequest(filter="colour=red", page_size=5), timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = dict(refused.value.trailing_metadata())["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(details)
        assert status.message == refused.value.details()
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        assert status.details[0].Unpack(info) and status.details[1].Unpack(bad)
        assert info.domain == "coterie"
        assert bad.field_violations[0].field == "filter"


async def test_metrics_and_probes_over_http() -> None:
    port = free_addresses(1)[0].rpartition(":")[2]
    with new_cluster(nodes=1, options={"listen": {"http": f"127.0.0.1:{port}"}}) as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            job = await client.submit_task(type="echo", payload=1)
            await job.wait(timeout=30)
            await client.usage.set_budget(Budget("all", usd=1.0))

        def get(path: str) -> tuple[int, str]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()

        assert get("/healthz")[0] == 200
        assert get("/readyz")[0] == 200
        families = {f.name: f for f in text_string_to_metric_families(get("/metrics")[1])}
        assert families["raft_is_leader"].samples[0].value == 1
        finished = {
            s.labels["state"]: s.value for s in families["tasks_finished"].samples if "state" in s.labels
        }
        assert finished["SUCCEEDED"] == 1
        exported = {sample.name for family in families.values() for sample in family.samples}
        certificate = load_tls(node_paths(cluster.base_dir / "tls", "node-1"), "node-1")
        (ends,) = families["tls_certificate_expires_seconds"].samples
        assert ends.value == certificate.expires_at.timestamp()
        assert every_metric() <= exported, "the alerts look at something that no node says"


async def test_a_node_that_was_away_for_a_snapshot_knows_all_history() -> None:
    """The log was cut while the node was down: it gets the state as a snapshot and the ledger rows from a
    peer, and then lists, finds and replays everything itself."""
    options = {"cluster": {"consensus": {"snapshotEvery": 100}}}
    with new_cluster(options=options) as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            cluster.kill_node("node-3")
            jobs = []
            for _ in range(40):  # many small entries rather than a few large ones
                jobs += await client.submit_tasks([{"type": "echo", "payload": n} for n in range(10)])
                await jobs[-1].wait(timeout=30)
            for job in jobs:
                await job.wait(timeout=30)
        cluster.start_node("node-3")
        await cluster.wait_ready(READY_S)
        wanted = {job.id for job in jobs}
        async with client_of(cluster, "node-3") as client:

            async def knows() -> bool:
                listed = {t.id async for t in client.list_tasks(filter="state=SUCCEEDED", page_size=500)}
                return wanted <= listed

            await until(knows, "node-3 lists what finished while it was away", timeout_s=60)
            events = await story(cluster, "node-3", jobs[5].id)
            assert events[0] == "submitted" and events[-1] == "succeeded"
            assert events == await story(cluster, "node-1", jobs[5].id)
            assert "ledger gap filled" in cluster.log_path("node-3").read_text(), "no snapshot was sent"
            again = await client.submit_task(type="echo", payload=5, request_id=jobs[5].request_id)
            assert again.id == jobs[5].id


async def story(cluster: LocalCluster, node_id: str, task_id: str) -> list[str]:
    async with client_of(cluster, node_id) as client:
        return [event.type async for event in client.job(task_id).watch()]


async def test_a_wiped_node_is_kept_out_and_the_others_go_on() -> None:
    """It has forgotten what it promised under its id: it gets no log, and no say, until it is added anew."""
    import shutil

    with new_cluster() as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            status = await client.get_status()
            victim = next(node_id for node_id in cluster.node_ids if node_id != status.leader)
        cluster.kill_node(victim)
        shutil.rmtree(cluster.base_dir / "data" / victim)
        cluster.start_node(victim)
        async with client_of(cluster, status.leader) as client:
            jobs = await client.submit_tasks([{"type": "echo", "payload": n} for n in range(100)])
            assert [await job.wait(timeout=30) for job in jobs] == list(range(100))
        journal = cluster.base_dir / "data" / victim / "raft" / "raft.journal"
        await until(lambda: _is(journal.exists()), "the wiped node has begun", timeout_s=30)
        assert len(journal.read_bytes().rstrip(b"\0")) < 1_000, "nobody has sent it entries"


async def _is(fact: bool) -> bool:
    return fact


async def test_an_oversize_payload_is_refused_with_the_field_the_size_and_the_remedy(
    shared: LocalCluster,
) -> None:
    """The client turns large payloads into blobs by itself; a caller that does not is told."""
    from coterie.v1 import tasks_pb2, tasks_pb2_grpc

    size = 256 * 1024 + 1
    task = tasks_pb2.Task(type="echo", payload=tasks_pb2.Data(inline=b'"' + b"x" * (size - 2) + b'"'))
    async with channel_to(shared, "node-1") as channel:
        stub: Any = tasks_pb2_grpc.TasksStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SubmitTask(tasks_pb2.SubmitTaskRequest(task=task), timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        said = refused.value.details() or ""
        assert "task.payload.inline" in said and str(size) in said and "PutBlob" in said
        task.payload.inline = task.payload.inline[1:]
        accepted = await stub.SubmitTask(tasks_pb2.SubmitTaskRequest(task=task), timeout=10)
        assert accepted.task_id
