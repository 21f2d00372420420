"""Nodes and clients that find the cluster by a name, on real processes and a real name server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from coterie.client import TLS, Cluster, PermissionDenied
from coterie.node.localcluster import free_addresses
from coterie.node.tls.issue import issue_node, open_authority
from tests.cluster.conftest import READY_S
from tests.cluster.growing import GrowingCluster
from tests.tools.nameserver import name_server

pytestmark = pytest.mark.cluster

EXIT_REFUSED = 4
NAME = "_coterie._tcp.cluster.test"


@pytest.mark.parametrize("auth", ["", "required"])
async def test_a_node_in_no_list_finds_the_cluster_by_name_and_is_taken_in(auth: str, tmp_path: Path) -> None:
    """So does a client that knows nothing but the name. The name may name nodes that do not answer. Where
    everybody must prove who they are, the node's certificate is its invitation."""
    with GrowingCluster({"security": {"auth": auth}} if auth else None) as cluster:
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
                if auth:
                    await _its_certificate_opens_nothing_else(cluster)
                    await _removed_while_it_was_down_it_hears_of_it_and_comes_back(cluster, client, tmp_path)


async def _its_certificate_opens_nothing_else(cluster: GrowingCluster) -> None:
    """While it does not belong to the cluster."""
    folder = cluster.base_dir / "tls"
    paths = issue_node(open_authority(folder), folder, "stray", ["127.0.0.1"])
    tls = TLS(ca=paths.ca, cert=paths.cert, key=paths.key)
    async with Cluster(list(cluster.addresses.values()), tls=tls, auto_discovery=False) as stray:
        with pytest.raises(PermissionDenied, match="GetStatus needs viewer"):
            await stray.get_status()
        with pytest.raises(PermissionDenied, match="for itself"):
            await stray.add_node("accomplice", "127.0.0.1:1")
        with pytest.raises(PermissionDenied, match="DrainNode needs operator"):
            await stray.drain_node("late")


async def _removed_while_it_was_down_it_hears_of_it_and_comes_back(
    cluster: GrowingCluster, client: Cluster, tmp_path: Path
) -> None:
    cluster.kill_node("late")
    await cluster.cli("node", "remove", "late", "--force")
    cluster.start_node("late")
    code, said = await cluster.ended("late")
    assert code == EXIT_REFUSED and "removed" in said, said
    where = ["--config", str(tmp_path / "joining.yaml"), "--id", "late"]
    members = ",".join(address for node_id, address in cluster.addresses.items() if node_id != "late")
    await cluster.cli("--endpoint", members, "node", "resync", *where, on_its_host=True)
    cluster.start_node("late")
    await cluster.until_role(client, "late", "VOTER")


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
