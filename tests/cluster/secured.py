"""A cluster where everybody must prove who they are; a second port is for callers with a token only."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import yaml

from coterie.client import TLS, Cluster
from coterie.node.localcluster import LocalCluster, free_addresses
from tests.cluster.conftest import ShownCluster, with_skills

A, B = "shop", "bank"


def secured_cluster(base_dir: Path, **options: Any) -> LocalCluster:
    """Three nodes with `security.auth: required`, not started yet."""
    merged = with_skills({"security": {"auth": "required"}, **options})
    cluster = ShownCluster(nodes=3, capacity=8, base_dir=base_dir, options=merged)
    document = yaml.safe_load(cluster.config_path.read_text("utf-8"))
    # The nodes do not listen yet, so what is free may be theirs.
    free = [address for address in free_addresses(6) if address not in cluster.addresses.values()]
    for node, address in zip(document["cluster"]["nodes"], free, strict=False):
        node["clientsPort"] = int(address.rpartition(":")[2])
    cluster.config_path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    return cluster


def client_ports(cluster: LocalCluster) -> list[int]:
    document = yaml.safe_load(cluster.config_path.read_text("utf-8"))
    return [node["clientsPort"] for node in document["cluster"]["nodes"]]


def bearer(cluster: LocalCluster, token: str, tenant: str, **arguments: Any) -> Cluster:
    """A client with a token and without a certificate."""
    assert cluster.client_tls is not None
    endpoints = [f"127.0.0.1:{port}" for port in client_ports(cluster)]
    tls = TLS(ca=cluster.client_tls.ca)
    return Cluster(endpoints, tls=tls, token=token, tenant=tenant, **arguments)


@contextlib.asynccontextmanager
async def raw_channel(cluster: LocalCluster, port: int) -> AsyncIterator[grpc.aio.Channel]:
    """A channel without a certificate of the caller."""
    assert cluster.client_tls is not None
    credentials = grpc.ssl_channel_credentials(cluster.client_tls.ca.read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        yield channel
