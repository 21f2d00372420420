"""Three fake nodes, and clients of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from coterie.client import Cluster, Timeouts
from tests.client.fake import FakeCluster, FakeNode

PATIENT = Timeouts(call=30.0, attempt=20.0, outage=30.0, stream_silence=20.0, probe=20.0, discovery=30.0)
# For tests in which a node does not answer: the machine may be busy, so only such tests are impatient.
IMPATIENT = Timeouts(call=30.0, attempt=0.5, outage=30.0, stream_silence=0.5, probe=0.2, discovery=30.0)


@pytest.fixture
async def fake() -> AsyncIterator[FakeCluster]:
    cluster = FakeCluster()
    for number in (1, 2, 3):
        node = FakeNode(cluster, f"n{number}")
        await node.start()
        cluster.nodes.append(node)
    yield cluster
    for node in cluster.nodes:
        await node.stop()
    left = {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("coterie-client")}
    assert left == set(), "a client left tasks behind"


def client_of(fake: FakeCluster, *nodes: FakeNode, **arguments: Any) -> Cluster:
    """A client of the given nodes (all by default), without discovery unless asked for."""
    arguments.setdefault("timeouts", PATIENT)
    arguments.setdefault("auto_discovery", False)
    return Cluster([node.address for node in nodes or fake.nodes], **arguments)


@asynccontextmanager
async def served(service: ServiceDescriptor, servicer: Any) -> AsyncIterator[str]:
    """The address of a server with those methods of the service that the servicer has."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in service.methods:
        if (serve := getattr(servicer, method.name, None)) is not None:
            kind = "unary_stream" if method.server_streaming else "unary_unary"
            handlers[method.name] = getattr(grpc, f"{kind}_rpc_method_handler")(
                serve,
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)
