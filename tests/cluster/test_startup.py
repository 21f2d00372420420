"""What keeps a node from starting, and who is kept out: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from coterie.client import TLS, Cluster, Unavailable
from coterie.node.localcluster import LocalCluster
from coterie.node.tls import init_tls
from coterie.raft.disk import RealDisk
from coterie.v1 import cluster_pb2, cluster_pb2_grpc, peer_pb2, peer_pb2_grpc
from tests.cluster.conftest import READY_S, client_of, new_cluster

pytestmark = pytest.mark.cluster


def start_refused(cluster: LocalCluster, node_id: str = "node-1") -> str:
    """Start a node that must refuse; its one line."""
    ended = subprocess.run(
        cluster.node_command(node_id), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    last = [line for line in ended.stderr.splitlines() if line.startswith("coterie: ")]
    assert last, ended.stderr
    return "\n".join(last)


def edit_config(cluster: LocalCluster, change: Any) -> None:
    config = yaml.safe_load(cluster.config_path.read_text())
    change(config)
    cluster.config_path.write_text(yaml.safe_dump(config))


@pytest.fixture
def stopped() -> Any:
    """A cluster that has not been started."""
    cluster = new_cluster()
    yield cluster
    cluster.stop()


def test_a_port_in_use(stopped: LocalCluster) -> None:
    host, port = stopped.addresses["node-1"].split(":")
    with socket.create_server((host, int(port))):
        said = start_refused(stopped)
    assert port in said and "in use" in said


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (lambda c: c["cluster"].update(capcity=1), ["capcity"]),
        (lambda c: c["cluster"]["nodes"].append(dict(c["cluster"]["nodes"][0])), ["node-1", "must differ"]),
        (lambda c: c["cluster"]["nodes"][0].update(capacity=-4), ["capacity", "-4"]),
        (
            lambda c: c["cluster"].update(consensus={"electionTimeout": "1s", "heartbeatInterval": "900ms"}),
            ["heartbeat"],
        ),
        (lambda c: c["cluster"].setdefault("consensus", {}).update(protocol="paxos"), ["paxos", "raft"]),
    ],
)
def test_a_bad_configuration(stopped: LocalCluster, change: Any, fragments: list[str]) -> None:
    edit_config(stopped, change)
    said = start_refused(stopped)
    assert [f for f in fragments if f.lower() not in said.lower()] == [], said


def test_an_unknown_node_id(stopped: LocalCluster) -> None:
    assert "node-7" in start_refused(stopped, "node-7")


def test_the_certificate_of_another_node(stopped: LocalCluster) -> None:
    tls = stopped.base_dir / "tls"
    for kind in ("crt", "key"):
        shutil.copy(tls / f"node-2.{kind}", tls / f"node-1.{kind}")
    said = start_refused(stopped)
    assert "node-1" in said and "certificate" in said


async def test_the_data_directory_of_another_node_or_cluster() -> None:
    with new_cluster() as cluster:
        await cluster.wait_ready(READY_S)
        for node_id in cluster.node_ids:
            cluster.terminate_node(node_id)
        data = cluster.base_dir / "data"
        shutil.rmtree(data / "node-1")
        shutil.copytree(data / "node-2", data / "node-1")
        assert "node-2" in start_refused(cluster)
        shutil.rmtree(data / "node-1")
        edit_config(cluster, lambda c: c["cluster"].update(name="other"))
        assert "other" in start_refused(cluster, "node-2")


def test_a_second_process_on_a_directory_touches_nothing_in_it(stopped: LocalCluster) -> None:
    data = stopped.base_dir / "data" / "node-1"
    upload = data / "blobs" / "tmp" / "half-of-it"
    upload.parent.mkdir(parents=True)
    upload.write_bytes(b"under way")
    (data / "incarnation").write_text("7")
    disk = RealDisk(data / "raft")
    disk.lock()
    before = everything_in(data)
    try:
        said = start_refused(stopped)
    finally:
        disk.close()
    assert "in use by another process" in said and "Remedy" in said
    assert everything_in(data) == before


def everything_in(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


async def test_strangers_are_kept_out(shared: LocalCluster, tmp_path: Path) -> None:
    """No certificate, plain text, or a certificate of another authority: no call gets through."""
    init_tls(tmp_path, ["node-1"], {})
    paths = shared.client_tls
    assert paths is not None
    foreign = TLS(ca=paths.ca, cert=tmp_path / "user.admin.crt", key=tmp_path / "user.admin.key")
    endpoint = shared.addresses["node-1"]
    for arguments in ({"insecure": True}, {"tls": TLS(ca=paths.ca)}, {"tls": foreign}):
        async with Cluster(endpoint, auto_discovery=False, **arguments) as client:
            with pytest.raises(Unavailable):
                await client.get_status(timeout=3)


async def test_a_client_certificate_does_not_make_a_peer(shared: LocalCluster) -> None:
    paths = shared.client_tls
    assert paths is not None
    credentials = grpc.ssl_channel_credentials(
        paths.ca.read_bytes(), paths.key.read_bytes(), paths.cert.read_bytes()
    )
    async with grpc.aio.secure_channel(shared.addresses["node-1"], credentials) as channel:
        stub: Any = peer_pb2_grpc.PeerStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetLoads(
                peer_pb2.GetLoadsRequest(), metadata=(("coterie-node", "node-2"),), timeout=10
            )
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        cluster_stub: Any = cluster_pb2_grpc.ClusterStub(channel)
        status = await cluster_stub.GetStatus(cluster_pb2.GetStatusRequest(), timeout=10)
        assert status.total_nodes == 3


async def test_a_single_node_is_a_cluster() -> None:
    with new_cluster(nodes=1) as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            job = await client.submit_task(type="echo", payload=1)
            assert await job.wait(timeout=30) == 1
        cluster.kill_node("node-1")
        cluster.start()
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            assert await client.job(job.id).wait(timeout=30) == 1
