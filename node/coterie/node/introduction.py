"""How a node that joins gets itself taken in: it finds some member by a DNS name and asks to be added."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc

from coterie.client.errors import ConfigError
from coterie.client.names import DnsName, Found, NameNotFound, look_up
from coterie.node.config.settings import DiscoverySettings
from coterie.node.links import ROW_BYTES_MAX
from coterie.node.observability import get_logger
from coterie.v1 import cluster_pb2
from coterie.v1.cluster_pb2_grpc import ClusterStub

log = get_logger(__name__)

FIRST_PAUSE_S, PAUSE_MAX_S = 0.5, 15.0
CALL_S = 10.0
CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", ROW_BYTES_MAX),
]


class Introducer:
    """Asks, until this node is a member, whoever the name server names. A node that has been removed is told
    so by its own log before it could ask (see RemovedFromCluster)."""

    def __init__(
        self,
        me: str,
        address: str,
        discovery: DiscoverySettings | None,
        is_member: Callable[[], bool],
        credentials: grpc.ChannelCredentials | None,
    ) -> None:
        self._me, self._address, self._is_member = me, address, is_member
        self._name = DnsName(discovery.name, discovery.port, discovery.nameserver) if discovery else None
        self._credentials = credentials
        self._said = ""

    async def run(self) -> None:
        """Never returns, like every loop of a node."""
        pause_s = FIRST_PAUSE_S
        while self._name is not None and not self._is_member():
            if await self._ask_around(self._name):
                pause_s = PAUSE_MAX_S  # it is being taken in: only if that comes to nothing it asks again
            await asyncio.sleep(pause_s * (0.75 + 0.5 * random.random()))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        await asyncio.Event().wait()

    async def _ask_around(self, name: DnsName) -> bool:
        try:
            found = await look_up(name)
        except (NameNotFound, ConfigError) as error:
            self._say(str(error))
            return False
        random.shuffle(found)
        for hint in found:
            if hint.address != self._address and await self._ask(hint):
                return True
        return False

    async def _ask(self, hint: Found) -> bool:
        """Whether the one asked has taken this node in."""
        request = cluster_pb2.AddNodeRequest(node_id=self._me, address=self._address)
        try:
            async with self._channel(hint) as channel:
                await ClusterStub(channel).AddNode(request, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            self._say(f"{hint.address}: {error.code().name}: {error.details()}")
            return False
        log.info("taken in", extra={"by": hint.address})
        return True

    def _channel(self, hint: Found) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(hint.address, options=CHANNEL_OPTIONS)
        named = [("grpc.ssl_target_name_override", hint.server_name)] if hint.server_name else []
        return grpc.aio.secure_channel(hint.address, self._credentials, options=[*CHANNEL_OPTIONS, *named])

    def _say(self, reason: str) -> None:
        """Each reason once, until it changes."""
        if reason != self._said:
            self._said = reason
            log.warning("not taken in yet", extra={"reason": reason})
