"""What there is to call, and the choice among it: round robin over the endpoints that answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

import grpc
import grpc.aio

from coterie.client.bearer import BearerChannel
from coterie.client.channels import Channels
from coterie.client.errors import ClusterError
from coterie.client.names import Found
from coterie.client.rpc_errors import Verdict, explain
from coterie.client.settings import TLS, credentials
from coterie.v1.agents_pb2_grpc import AgentsStub
from coterie.v1.breakers_pb2_grpc import BreakersStub
from coterie.v1.bus_pb2_grpc import BusStub
from coterie.v1.cluster_pb2_grpc import ClusterStub
from coterie.v1.config_pb2_grpc import ConfigStub
from coterie.v1.debugger_pb2_grpc import DebuggerStub
from coterie.v1.decisions_pb2_grpc import ApprovalsStub, EffectsStub
from coterie.v1.kv_pb2_grpc import KeyValueStub
from coterie.v1.locks_pb2_grpc import LocksStub
from coterie.v1.registry_pb2_grpc import RegistryStub
from coterie.v1.schedules_pb2_grpc import SchedulesStub
from coterie.v1.security_pb2_grpc import AuditStub, SecurityStub
from coterie.v1.tasks_pb2_grpc import BlobsStub, DeadLettersStub, LimitsStub, TasksStub
from coterie.v1.usage_pb2_grpc import UsageStub
from coterie.v1.workflows_pb2_grpc import WorkflowsStub

if TYPE_CHECKING:
    from coterie.v1.agents_pb2_grpc import AgentsAsyncStub
    from coterie.v1.breakers_pb2_grpc import BreakersAsyncStub
    from coterie.v1.bus_pb2_grpc import BusAsyncStub
    from coterie.v1.cluster_pb2_grpc import ClusterAsyncStub
    from coterie.v1.config_pb2_grpc import ConfigAsyncStub
    from coterie.v1.debugger_pb2_grpc import DebuggerAsyncStub
    from coterie.v1.decisions_pb2_grpc import ApprovalsAsyncStub, EffectsAsyncStub
    from coterie.v1.kv_pb2_grpc import KeyValueAsyncStub
    from coterie.v1.locks_pb2_grpc import LocksAsyncStub
    from coterie.v1.registry_pb2_grpc import RegistryAsyncStub
    from coterie.v1.schedules_pb2_grpc import SchedulesAsyncStub
    from coterie.v1.security_pb2_grpc import AuditAsyncStub, SecurityAsyncStub
    from coterie.v1.tasks_pb2_grpc import (
        BlobsAsyncStub,
        DeadLettersAsyncStub,
        LimitsAsyncStub,
        TasksAsyncStub,
    )
    from coterie.v1.usage_pb2_grpc import UsageAsyncStub
    from coterie.v1.workflows_pb2_grpc import WorkflowsAsyncStub

Stub = TypeVar("Stub")

SENT_BYTES_MAX = 4 * 1024 * 1024
RECEIVED_BYTES_MAX = 16 * 1024 * 1024 + 65_536  # a node answers with up to 16 MiB
_REFUSED_PAUSE_S = 0.25
_REFUSED_PAUSE_MAX_S = 5.0
_SILENT_PAUSE_S = 10.0
_SILENT_PAUSE_MAX_S = 60.0

_CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # Each channel keeps a connection of its own, so that a broken or full one says nothing about others.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", SENT_BYTES_MAX),
    ("grpc.max_receive_message_length", RECEIVED_BYTES_MAX),
    # Retries are made here, on another node and with the same request_id; gRPC's own would hide failures.
    ("grpc.enable_retries", 0),
    # A proxy meant for the web must not get between a client and its cluster.
    ("grpc.enable_http_proxy", 0),
)


class Endpoint:
    """One address: its channels (made at first use), its stubs, and how it fared lately."""

    def __init__(
        self, address: str, connect: Callable[[str, str], grpc.aio.Channel], *, given: bool, name: str = ""
    ) -> None:
        self.address = address
        self.given = given
        self.active = True
        self.failures = 0
        self.rests_until = 0.0
        self.picked_at = 0.0
        self.last_error = ""
        self.bad_tls = False
        self.calls = 0
        self._connect = connect
        self._name = name
        self._channels: Channels | None = None
        self._stubs: dict[object, object] = {}  # by their classes, made at first use

    @property
    def tasks(self) -> TasksAsyncStub:
        """The stub of the Tasks service."""
        return self._stub(TasksStub)

    @property
    def blobs(self) -> BlobsAsyncStub:
        """The stub of the Blobs service."""
        return self._stub(BlobsStub)

    @property
    def cluster(self) -> ClusterAsyncStub:
        """The stub of the Cluster service."""
        return self._stub(ClusterStub)

    @property
    def dead_letters(self) -> DeadLettersAsyncStub:
        """The stub of the DeadLetters service."""
        return self._stub(DeadLettersStub)

    @property
    def limits(self) -> LimitsAsyncStub:
        """The stub of the Limits service."""
        return self._stub(LimitsStub)

    @property
    def usage(self) -> UsageAsyncStub:
        """The stub of the Usage service."""
        return self._stub(UsageStub)

    @property
    def workflows(self) -> WorkflowsAsyncStub:
        """The stub of the Workflows service."""
        return self._stub(WorkflowsStub)

    @property
    def debugger(self) -> DebuggerAsyncStub:
        """The stub of the Debugger service."""
        return self._stub(DebuggerStub)

    @property
    def registry(self) -> RegistryAsyncStub:
        """The stub of the Registry service."""
        return self._stub(RegistryStub)

    @property
    def agents(self) -> AgentsAsyncStub:
        """The stub of the Agents service."""
        return self._stub(AgentsStub)

    @property
    def breakers(self) -> BreakersAsyncStub:
        """The stub of the Breakers service."""
        return self._stub(BreakersStub)

    @property
    def approvals(self) -> ApprovalsAsyncStub:
        """The stub of the Approvals service."""
        return self._stub(ApprovalsStub)

    @property
    def effects(self) -> EffectsAsyncStub:
        """The stub of the Effects service."""
        return self._stub(EffectsStub)

    @property
    def security(self) -> SecurityAsyncStub:
        """The stub of the Security service."""
        return self._stub(SecurityStub)

    @property
    def schedules(self) -> SchedulesAsyncStub:
        """The stub of the Schedules service."""
        return self._stub(SchedulesStub)

    @property
    def locks(self) -> LocksAsyncStub:
        """The stub of the Locks service."""
        return self._stub(LocksStub)

    @property
    def keys(self) -> KeyValueAsyncStub:
        """The stub of the KeyValue service."""
        return self._stub(KeyValueStub)

    @property
    def bus(self) -> BusAsyncStub:
        """The stub of the Bus service."""
        return self._stub(BusStub)

    @property
    def audit(self) -> AuditAsyncStub:
        """The stub of the Audit service."""
        return self._stub(AuditStub)

    @property
    def config(self) -> ConfigAsyncStub:
        """The stub of the Config service."""
        return self._stub(ConfigStub)

    async def close(self) -> None:
        """Closes the channels; calls on them end at once."""
        channels, self._channels = self._channels, None
        self._stubs.clear()
        if channels is not None:
            await channels.close()

    def _stub(self, make: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        if make not in self._stubs:
            self._stubs[make] = make(self._open())
        return cast("Stub", self._stubs[make])

    def _open(self) -> grpc.aio.Channel:
        if self._channels is None:
            self._channels = Channels(lambda: self._connect(self.address, self._name))
        return cast("grpc.aio.Channel", self._channels)


class Pool:
    """The endpoints of a cluster: those given by the user, which stay, and those found by discovery.

    `pick` goes round robin over the best endpoints there are. An endpoint that could not be reached rests
    for a short time, one that took a call and did not answer rests longer; when all rest, the one that is
    due first is tried, so the pool never refuses to pick.
    """

    def __init__(
        self,
        given: Iterable[str],
        tls: TLS | None,
        *,
        token: str = "",
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._dice = dice
        self.secure = tls is not None
        self._token = token
        self._credentials = credentials(tls) if tls is not None else None
        self._server_name = (tls.server_name if tls is not None else None) or ""
        self._endpoints = {address: Endpoint(address, self._connect, given=True) for address in given}
        self._retired: list[Endpoint] = []
        self._picks = 0
        for endpoint in self._endpoints.values():
            # Clients that were given the same list must not all begin with its first node.
            endpoint.picked_at = -dice()
        self.on_trouble: Callable[[], None] = lambda: None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address in use, the given ones first."""
        return tuple(self._endpoints)

    def pick(self, avoid: Endpoint | None = None) -> Endpoint:
        """The endpoint for the next try, another one than `avoid` when there is a choice."""
        now = self._clock()
        candidates = [endpoint for endpoint in self._endpoints.values() if endpoint is not avoid]
        if not candidates:
            candidates = list(self._endpoints.values())
        for wanted in (True, False):
            best = [e for e in candidates if e.rests_until <= now and e.active is wanted]
            if best:
                return self._take(min(best, key=lambda endpoint: endpoint.picked_at))
        if avoid is not None and avoid.rests_until <= now:
            return self._take(avoid)
        return self._take(min(candidates, key=lambda endpoint: endpoint.rests_until))

    def succeeded(self, endpoint: Endpoint) -> None:
        """The endpoint answered."""
        endpoint.failures = 0
        endpoint.rests_until = 0.0
        endpoint.bad_tls = False

    def failed(self, endpoint: Endpoint, failure: ClusterError, verdict: Verdict) -> None:
        """Takes note of a failed try, and lets the endpoint rest when it did not answer at all."""
        endpoint.last_error = explain(failure, secure=self.secure)
        endpoint.bad_tls = verdict is Verdict.BAD_TLS
        if verdict in (Verdict.MOVE_ON, Verdict.FATAL):
            return
        silent = verdict is Verdict.TIMED_OUT
        base, limit = (
            (_SILENT_PAUSE_S, _SILENT_PAUSE_MAX_S) if silent else (_REFUSED_PAUSE_S, _REFUSED_PAUSE_MAX_S)
        )
        pause = min(limit, base * 2 ** min(endpoint.failures, 10)) * (0.75 + 0.5 * self._dice())
        endpoint.failures += 1
        endpoint.rests_until = max(endpoint.rests_until, self._clock() + pause)
        self.on_trouble()

    @property
    def hopeless(self) -> bool:
        """True when TLS cannot work with any endpoint: waiting will not help."""
        return all(endpoint.bad_tls for endpoint in self._endpoints.values())

    def last_errors(self) -> dict[str, str]:
        """Each address with the last error seen there ("not tried" when there was none)."""
        return {e.address: e.last_error or "not tried" for e in self._endpoints.values()}

    def set_members(self, members: Mapping[str, bool]) -> None:
        """Takes over what discovery found: address -> whether the node takes work.

        Members that are gone are retired; given endpoints always stay as a way back in.
        """
        for address, active in members.items():
            endpoint = self._endpoints.get(address)
            if endpoint is None:
                endpoint = self._endpoints[address] = Endpoint(address, self._connect, given=False)
            endpoint.active = active
        for address, endpoint in list(self._endpoints.items()):
            if address in members:
                continue
            if endpoint.given:
                endpoint.active = True
            else:
                self._retired.append(self._endpoints.pop(address))

    def set_hints(self, found: Iterable[Found]) -> None:
        """Takes over what a name server said, for as long as discovery has found nothing better."""
        for hint in found:
            if hint.address not in self._endpoints:
                self._endpoints[hint.address] = Endpoint(
                    hint.address, self._connect, given=False, name=hint.server_name
                )

    async def close_retired(self) -> None:
        """Closes the channels of retired members once no call uses them."""
        idle = [endpoint for endpoint in self._retired if endpoint.calls == 0]
        self._retired = [endpoint for endpoint in self._retired if endpoint.calls > 0]
        for endpoint in idle:
            await endpoint.close()

    async def close(self) -> None:
        """Closes every channel."""
        for endpoint in [*self._endpoints.values(), *self._retired]:
            await endpoint.close()

    def _take(self, endpoint: Endpoint) -> Endpoint:
        self._picks += 1
        endpoint.picked_at = self._picks
        return endpoint

    def _connect(self, address: str, name: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        options = list(_CHANNEL_OPTIONS)
        if expected := self._server_name or name:
            options.append(("grpc.ssl_target_name_override", expected))
        channel = grpc.aio.secure_channel(address, self._credentials, options=options)
        return cast("grpc.aio.Channel", BearerChannel(channel, self._token)) if self._token else channel
