"""Nodes and clients that find the cluster by a name, on real processes and a real name server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from coterie.client import TLS, Cluster
from coterie.node.localcluster import free_addresses
from coterie.node.tls.issue import issue_node, open_authority
from tests.cluster.conftest import READY_S
from tests.cluster.growing import GrowingCluster
from tests.tools.nameserver import name_server

pytestmark = pytest.mark.cluster

NAME = "_coterie._tcp.cluster.test"


async def test_a_node_in_no_list_finds_the_cluster_by_name_and_is_taken_in(tmp_path: Path) -> None:
    """So does a client that knows nothing but the name. The name may name nodes that do not answer."""
    with GrowingCluster() as cluster:
        await cluster.wait_ready(READY_S)
        ports = [address.rpartition(":")[2] for address in [*free_addresses(1), *cluster.addresses.values()]]
        records = {(NAME, "SRV"): [f"{rank} 1 {port} localhost." for rank, port in enumerate(ports)]}
        async with name_server(records) as server:
            config = joining_config(cluster, tmp_path, server.address)
            cluster.node_ids.append("late")
            cluster.addresses["late"] = config["listen"]["advertise"]
            cluster.node_command = lambda node_id: _command(tmp_path, node_id)  # type: ignore[method-assign]
            cluster.start_node("late")
            tls = cluster.client_tls
            assert tls is not None
            client_file = tmp_path / "client.yaml"
            discovery = {"method": "dns", "name": NAME, "nameserver": server.address}
            client_file.write_text(yaml.safe_dump({"cluster": {"discovery": discovery}}))
            async with Cluster(
                config_path=client_file, tls=TLS(ca=tls.ca, cert=tls.cert, key=tls.key)
            ) as client:
                await cluster.until_role(client, "late", "VOTER")
                job = await client.submit_task("late", type="echo", payload=1)
                assert await job.wait(timeout=60) == 1
                assert (await job.get()).node == "late"


def joining_config(cluster: GrowingCluster, tmp_path: Path, nameserver: str) -> dict[str, dict[str, str]]:
    """The file of a node that no list names: the founders, how to find the others, and its own address."""
    [address] = free_addresses(1)
    issue_node(
        open_authority(cluster.base_dir / "tls"), cluster.base_dir / "tls", "late", ["127.0.0.1", "localhost"]
    )
    document = yaml.safe_load(cluster.config_path.read_text())
    document["cluster"]["discovery"] = {"method": "dns", "name": NAME, "nameserver": nameserver}
    document["listen"] = {"grpc": address, "advertise": address}
    for entry in document["cluster"]["nodes"]:
        entry["host"] = f"{entry['id']}.invalid"  # they are found by the other name
    (tmp_path / "joining.yaml").write_text(yaml.safe_dump(document))
    return dict(document)


def _command(tmp_path: Path, node_id: str) -> list[str]:

    return [
        sys.executable,
        "-m",
        "coterie.node.main",
        "--config",
        str(tmp_path / "joining.yaml"),
        "--id",
        node_id,
    ]
