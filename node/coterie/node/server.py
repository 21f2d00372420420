"""The gRPC listener of a node: services, health, reflection, credentials, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from coterie.node.bodies import BodyGuard
from coterie.node.forgetting import Forgetting
from coterie.node.health import HealthService
from coterie.node.links import FRAME_BYTES_MAX, ROW_BYTES_MAX
from coterie.node.tls import TlsMaterial
from coterie.v1 import (
    agents_pb2,
    agents_pb2_grpc,
    breakers_pb2,
    breakers_pb2_grpc,
    bus_pb2,
    bus_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    config_pb2,
    config_pb2_grpc,
    debugger_pb2,
    debugger_pb2_grpc,
    decisions_pb2,
    decisions_pb2_grpc,
    kv_pb2,
    kv_pb2_grpc,
    locks_pb2,
    locks_pb2_grpc,
    peer_pb2,
    peer_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    schedules_pb2,
    schedules_pb2_grpc,
    security_pb2,
    security_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
    workflows_pb2,
    workflows_pb2_grpc,
)

TASKS = tasks_pb2.DESCRIPTOR.services_by_name["Tasks"].full_name
DEAD_LETTERS = tasks_pb2.DESCRIPTOR.services_by_name["DeadLetters"].full_name
LIMITS = tasks_pb2.DESCRIPTOR.services_by_name["Limits"].full_name
USAGE = usage_pb2.DESCRIPTOR.services_by_name["Usage"].full_name
APPROVALS = decisions_pb2.DESCRIPTOR.services_by_name["Approvals"].full_name
EFFECTS = decisions_pb2.DESCRIPTOR.services_by_name["Effects"].full_name
REGISTRY = registry_pb2.DESCRIPTOR.services_by_name["Registry"].full_name
AGENTS = agents_pb2.DESCRIPTOR.services_by_name["Agents"].full_name
BREAKERS = breakers_pb2.DESCRIPTOR.services_by_name["Breakers"].full_name
SCHEDULES = schedules_pb2.DESCRIPTOR.services_by_name["Schedules"].full_name
LOCKS = locks_pb2.DESCRIPTOR.services_by_name["Locks"].full_name
KEY_VALUE = kv_pb2.DESCRIPTOR.services_by_name["KeyValue"].full_name
BUS = bus_pb2.DESCRIPTOR.services_by_name["Bus"].full_name
WORKFLOWS = workflows_pb2.DESCRIPTOR.services_by_name["Workflows"].full_name
DEBUGGER = debugger_pb2.DESCRIPTOR.services_by_name["Debugger"].full_name
BLOBS = tasks_pb2.DESCRIPTOR.services_by_name["Blobs"].full_name
CONFIG = config_pb2.DESCRIPTOR.services_by_name["Config"].full_name
CLUSTER = cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].full_name
SECURITY = security_pb2.DESCRIPTOR.services_by_name["Security"].full_name
AUDIT = security_pb2.DESCRIPTOR.services_by_name["Audit"].full_name
PEER = peer_pb2.DESCRIPTOR.services_by_name["Peer"].full_name
# Off while draining; Cluster answers on: it is how a drain is ended.
CLIENT_SERVICES = (
    *("", TASKS, DEAD_LETTERS, LIMITS, USAGE, AGENTS, BREAKERS, REGISTRY, APPROVALS, EFFECTS),
    *(SCHEDULES, LOCKS, KEY_VALUE, BUS, WORKFLOWS, DEBUGGER, BLOBS),
)
SERVICES = (*CLIENT_SERVICES[1:], CLUSTER, CONFIG, SECURITY, AUDIT, PEER)
SERVER_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 1_000),
    ("grpc.server_handshake_timeout_ms", 3_000),
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.max_send_message_length", ROW_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_metadata_size", 16 << 10),
]
CALLS_MAX = 20_000  # on the whole server
CLIENT_CALLS_MAX = 18_000  # of these, on the Tasks and Blobs services; operators and peers get in after that


@dataclass(frozen=True, slots=True)
class Coordination:
    """The services that skills and clients coordinate by."""

    schedules: schedules_pb2_grpc.SchedulesServicer
    locks: locks_pb2_grpc.LocksServicer
    keys: kv_pb2_grpc.KeyValueServicer
    bus: bus_pb2_grpc.BusServicer


@dataclass(frozen=True, slots=True)
class Services:
    """The implementations the listener serves."""

    tasks: tasks_pb2_grpc.TasksServicer
    dead_letters: tasks_pb2_grpc.DeadLettersServicer
    limits: tasks_pb2_grpc.LimitsServicer
    usage: usage_pb2_grpc.UsageServicer
    agents: agents_pb2_grpc.AgentsServicer
    breakers: breakers_pb2_grpc.BreakersServicer
    approvals: decisions_pb2_grpc.ApprovalsServicer
    effects: decisions_pb2_grpc.EffectsServicer
    registry: registry_pb2_grpc.RegistryServicer
    coordination: Coordination
    blobs: tasks_pb2_grpc.BlobsServicer
    workflows: workflows_pb2_grpc.WorkflowsServicer
    debugger: debugger_pb2_grpc.DebuggerServicer
    cluster: cluster_pb2_grpc.ClusterServicer
    config: config_pb2_grpc.ConfigServicer
    security: security_pb2_grpc.SecurityServicer
    audit: security_pb2_grpc.AuditServicer
    peer: peer_pb2_grpc.PeerServicer


class PortInUse(Exception):
    """The address cannot be listened on."""


def server_credentials(tls: TlsMaterial) -> grpc.ServerCredentials:
    """Mutual TLS: a caller without a certificate of our CA does not get past the handshake."""
    return grpc.ssl_server_credentials([(tls.key, tls.cert)], tls.ca, require_client_auth=True)


def channel_credentials(tls: TlsMaterial) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)


class Listener:
    """The gRPC server with its health service."""

    def __init__(
        self,
        services: Services,
        address: str,
        tls: TlsMaterial | None,
        guard: grpc.aio.ServerInterceptor | None = None,
        clients: str = "",
    ) -> None:
        """`guard` looks at every call first; `clients` is an address for callers without certificates."""
        self._server = grpc.aio.server(
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=CALLS_MAX,
            interceptors=[Forgetting(), *([guard] if guard is not None else []), BodyGuard()],
        )
        self._health = HealthService()
        self._served: dict[str, bool] = {}
        self._register(services)
        self._bind(address, server_credentials(tls) if tls else None)
        if clients:
            assert tls is not None and guard is not None  # the settings are checked
            self._bind(clients, grpc.ssl_server_credentials([(tls.key, tls.cert)]))

    def _register(self, services: Services) -> None:
        server: Any = self._server
        tasks_pb2_grpc.add_TasksServicer_to_server(services.tasks, server)
        tasks_pb2_grpc.add_DeadLettersServicer_to_server(services.dead_letters, server)
        tasks_pb2_grpc.add_LimitsServicer_to_server(services.limits, server)
        usage_pb2_grpc.add_UsageServicer_to_server(services.usage, server)
        agents_pb2_grpc.add_AgentsServicer_to_server(services.agents, server)
        breakers_pb2_grpc.add_BreakersServicer_to_server(services.breakers, server)
        decisions_pb2_grpc.add_ApprovalsServicer_to_server(services.approvals, server)
        decisions_pb2_grpc.add_EffectsServicer_to_server(services.effects, server)
        registry_pb2_grpc.add_RegistryServicer_to_server(services.registry, server)
        schedules_pb2_grpc.add_SchedulesServicer_to_server(services.coordination.schedules, server)
        locks_pb2_grpc.add_LocksServicer_to_server(services.coordination.locks, server)
        kv_pb2_grpc.add_KeyValueServicer_to_server(services.coordination.keys, server)
        bus_pb2_grpc.add_BusServicer_to_server(services.coordination.bus, server)
        tasks_pb2_grpc.add_BlobsServicer_to_server(services.blobs, server)
        workflows_pb2_grpc.add_WorkflowsServicer_to_server(services.workflows, server)
        debugger_pb2_grpc.add_DebuggerServicer_to_server(services.debugger, server)
        cluster_pb2_grpc.add_ClusterServicer_to_server(services.cluster, server)
        config_pb2_grpc.add_ConfigServicer_to_server(services.config, server)
        security_pb2_grpc.add_SecurityServicer_to_server(services.security, server)
        security_pb2_grpc.add_AuditServicer_to_server(services.audit, server)
        peer_pb2_grpc.add_PeerServicer_to_server(services.peer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> None:
        text = f"cannot listen on {address}: the port is in use or the address is not of this host"
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise PortInUse(text) from error
        if not port:
            raise PortInUse(text)

    async def start(self) -> None:
        await self._server.start()

    def set_serving(self, name: str, serving: bool) -> None:
        if self._served.get(name) is not serving:
            self._served[name] = serving
            self._health.set(name, serving)

    async def stop(self, grace_s: float) -> None:
        self._health.end()
        await self._server.stop(grace_s)


class HealthKeeper:
    """Keeps the health answers true: clients leave a draining node, `raft.leader` follows the leadership."""

    def __init__(
        self,
        listener: Listener,
        takes_clients: Callable[[], bool],
        leads: Callable[[], bool],
        runs_skills: Callable[[], bool],
        interval_s: float = 0.1,
    ) -> None:
        self._listener, self._interval_s = listener, interval_s
        self._takes_clients, self._leads, self._runs_skills = takes_clients, leads, runs_skills

    async def run(self) -> None:
        while True:
            serving = self._takes_clients()
            for name in CLIENT_SERVICES:
                self._listener.set_serving(name, serving)
            self._listener.set_serving(CLUSTER, True)
            self._listener.set_serving("raft.leader", self._leads())
            self._listener.set_serving("runner", self._runs_skills())
            await asyncio.sleep(self._interval_s)
