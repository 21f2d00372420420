"""Everything an open Cluster owns, built in one place and closed in order."""

from __future__ import annotations

import asyncio
import random

from coterie.client.blobs import Blobs
from coterie.client.caller import Caller
from coterie.client.endpoints import Pool
from coterie.client.errors import ClusterError, ConfigError, Unavailable
from coterie.client.names import Found, NameNotFound, look_up
from coterie.client.owned import TaskSet, log
from coterie.client.record import Recorder
from coterie.client.settings import Settings, Timeouts, parse_endpoints
from coterie.client.spec import INLINE_BYTES_MAX
from coterie.client.submit import Submitter
from coterie.client.waits import Waiter
from coterie.v1 import cluster_pb2

_DISCOVERY_SOONEST_S = 1.0
_MEMBERS_MAX = 256
_PAGES_MAX = 10
_WILDCARDS = ("0.0.0.0:", "[::]:", ":::", ":")
# A draining node still answers, but it is about to go; a node that is down does not answer at all.
_TAKES_CALLS = (cluster_pb2.NODE_STATE_UNSPECIFIED, cluster_pb2.ACTIVE, cluster_pb2.SUSPECT)


class Connection:
    """The endpoints, the retrying caller, and the background work of one open Cluster."""

    def __init__(self, settings: Settings, timeouts: Timeouts, recorder: Recorder | None = None) -> None:
        self.settings = settings
        self.recorder = recorder
        self.tenant = settings.tenant
        self.pool = Pool(settings.endpoints, settings.tls, token=settings.token)
        self.caller = Caller(self.pool, timeouts)
        self.tasks = TaskSet()
        self.submitter = Submitter(self.caller, self.tasks)
        self.waiter = Waiter(self.caller, self.tasks)
        self.blobs = Blobs(self.caller)
        self.inline_bytes_max = INLINE_BYTES_MAX  # less where the cluster says so: see sizes
        self._trouble = asyncio.Event()

    def start(self) -> None:
        """Starts discovery, when it is wanted. Nothing is called before it is needed otherwise."""
        if self.settings.auto_discovery:
            self.pool.on_trouble = self._trouble.set
            self.tasks.start(self._discover(), "discovery")

    async def look_up(self) -> list[Found]:
        """Asks the name servers for the names that were given, and takes over what they say. Returns it if
        each name was found, else nothing. Raises Unavailable where they know nothing, and ConfigError."""
        found: list[Found] = []
        errors: dict[str, str] = {}
        for name in self.settings.names:
            try:
                found += await look_up(name)
            except NameNotFound as error:
                errors[name.name] = str(error)
        refused = [hint.address for hint in found if not self.settings.allows(hint.address)]
        if refused:
            raise ConfigError(
                f"plain text to {', '.join(refused)} is refused: pass tls=TLS(ca=...), "
                "or insecure=True if the network in between is trusted"
            )
        self.pool.set_hints(found)
        if not self.pool.addresses:
            raise Unavailable(f"no node was found: {'; '.join(errors.values())}", endpoints=errors)
        return [] if errors else found

    async def close(self) -> None:
        """Ends the background work, fails what still waits, closes every channel."""
        self.caller.close()
        self.submitter.close()
        self.waiter.close()
        await self.tasks.close()
        await self.pool.close()

    def task_name(self, task_id: str) -> str:
        """The full name of a task of this client's tenant; full names pass unchanged."""
        return task_id if "/" in task_id else f"tenants/{self.tenant}/tasks/{task_id}"

    async def nodes(self, timeout: float | None = None) -> list[cluster_pb2.Node]:
        """Every node of the cluster; `timeout` bounds each page."""
        nodes: list[cluster_pb2.Node] = []
        token = ""
        for _ in range(_PAGES_MAX):
            page = await self.caller.unary(
                lambda endpoint: endpoint.cluster.ListNodes,
                cluster_pb2.ListNodesRequest(page_token=token),
                timeout=timeout,
            )
            nodes.extend(page.nodes)
            token = page.next_page_token
            if not token:
                break
        return nodes

    async def _discover(self) -> None:
        """Learns the members at the start, now and then, and soon after an endpoint failed."""
        interval = self.caller.timeouts.discovery
        while True:
            await self._learn()
            await self.pool.close_retired()
            self._trouble.clear()
            await asyncio.sleep(min(interval, _DISCOVERY_SOONEST_S))
            try:
                async with asyncio.timeout(interval * (0.75 + 0.5 * random.random())):
                    await self._trouble.wait()
            except TimeoutError:
                pass

    async def _learn(self) -> None:
        if self.settings.has_no_certificate and self.settings.names:
            # The addresses that nodes tell are those of the port where one is needed: it has the names alone.
            if found := await self._look_up_again():
                self.pool.set_members({hint.address: True for hint in found})
            return
        try:
            self._adopt(await self.nodes())
        except ClusterError as error:
            log.debug("discovery failed", extra={"error": str(error)})
            await self._look_up_again()

    async def _look_up_again(self) -> list[Found]:
        """Nobody answers where the nodes were, and they may all have moved; or the names are all there is."""
        try:
            return await self.look_up() if self.settings.names else []
        except (ClusterError, ConfigError) as error:
            log.debug("looking up the names failed", extra={"error": str(error)})
            return []

    def _adopt(self, nodes: list[cluster_pb2.Node]) -> None:
        if self.settings.has_no_certificate:
            return  # see _learn
        members: dict[str, bool] = {}
        for node in nodes[:_MEMBERS_MAX]:
            if usable(node.address) and self.settings.allows(node.address):
                members[node.address] = node.state in _TAKES_CALLS
        if members:
            self.pool.set_members(members)


def usable(address: str) -> bool:
    """Whether an advertised address can be dialled: host:port, and not a wildcard to listen on."""
    if address.startswith(_WILDCARDS):
        return False
    try:
        return len(parse_endpoints(address)) == 1
    except ValueError:
        return False
