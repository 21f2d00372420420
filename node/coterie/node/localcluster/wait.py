"""Waiting for a local cluster: asks its nodes over gRPC until they agree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Protocol

import grpc
import grpc.aio

from coterie.node.config.settings import TlsPaths
from coterie.node.links import ROW_BYTES_MAX
from coterie.v1 import cluster_pb2, cluster_pb2_grpc, tasks_pb2

POLL_S = 0.05
CALL_TIMEOUT_S = 2.0
# A channel must not sleep through the moment when the node has started to listen.
CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", ROW_BYTES_MAX),
]


def open_channel(address: str, tls: TlsPaths | None) -> grpc.aio.Channel:
    """A channel to one node, with mutual TLS when `tls` is given."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        tls.ca.read_bytes(), tls.key.read_bytes(), tls.cert.read_bytes()
    )
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


async def status_of(channel: grpc.aio.Channel) -> cluster_pb2.ClusterStatus | str:
    """What the node's own replica says; the error as text when it does not answer."""
    stub = cluster_pb2_grpc.ClusterStub(channel)
    request = cluster_pb2.GetStatusRequest(read_mode=tasks_pb2.STALE)
    try:
        return await stub.GetStatus(request, timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"


class Nodes(Protocol):
    """What waiting needs to know of a cluster."""

    @property
    def addresses(self) -> Mapping[str, str]: ...

    @property
    def client_tls(self) -> TlsPaths | None: ...

    def failed_nodes(self) -> list[str]: ...


def disagreement(statuses: Mapping[str, cluster_pb2.ClusterStatus | str]) -> str:
    """Why these nodes are not a working cluster yet; empty when they are."""
    leaders = set()
    for node_id, status in statuses.items():
        if isinstance(status, str):
            return f"{node_id} does not answer ({status})"
        if not status.has_quorum or not status.leader:
            return f"{node_id} knows no leader with a majority"
        active = {node.node_id for node in status.nodes if node.state == cluster_pb2.ACTIVE}
        if missing := sorted(set(statuses) - active):
            return f"{node_id} does not count {', '.join(missing)} as active yet"
        leaders.add(status.leader)
    if len(leaders) != 1:
        return f"the nodes name different leaders: {sorted(leaders)}"
    return "" if leaders <= set(statuses) else f"the leader {leaders} is not running"


async def wait_agreed(cluster: Nodes, running: list[str], timeout_s: float) -> tuple[str, str]:
    """Poll the `running` nodes until they agree. Returns (leader, "") or ("", why not)."""
    deadline = time.monotonic() + timeout_s
    async with AsyncExitStack() as stack:
        channels = {
            node_id: await stack.enter_async_context(
                open_channel(cluster.addresses[node_id], cluster.client_tls)
            )
            for node_id in running
        }
        while True:
            answers = await asyncio.gather(*(status_of(channel) for channel in channels.values()))
            statuses = dict(zip(running, answers, strict=True))
            why = disagreement(statuses)
            if not why:
                first = statuses[running[0]]
                assert not isinstance(first, str)
                return first.leader, ""
            if failed := cluster.failed_nodes():
                return "", f"{', '.join(failed)} ended by itself"
            if time.monotonic() > deadline:
                return "", why
            await asyncio.sleep(POLL_S)
