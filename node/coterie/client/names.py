"""Where the nodes behind a DNS name are: A and AAAA records, or SRV records for names that begin with `_`.

SRV (RFC 2782) carries ports and the nodes' own names; it needs the package dnspython, as does a name server
other than the system's. What is found are hints of where to ask: who belongs to the cluster is in its log.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Any

from coterie.client.errors import ConfigError

LOOK_UP_S = 5.0
FOUND_MAX = 256


class NameNotFound(Exception):
    """The name has no such records, or no name server answered; the message says which."""


@dataclass(frozen=True, slots=True)
class DnsName:
    """A name to look up. `port` is for A and AAAA records; SRV records bring their own.

    `nameserver`: host:port of a server to ask in place of the system's, such as a service registry's."""

    name: str
    port: int = 8080
    nameserver: str = ""

    @property
    def is_service(self) -> bool:
        """It has SRV records."""
        return self.name.startswith("_")


@dataclass(frozen=True, slots=True)
class Found:
    """Where a node may be asked: host:port, and the name its certificate must bear, if not that host."""

    address: str
    server_name: str = ""


async def look_up(wanted: DnsName) -> list[Found]:
    """The addresses behind the name, in the order of the answer, SRV by priority and then by weight.
    Raises NameNotFound, and ConfigError where dnspython is missing and needed."""
    if not wanted.is_service and not wanted.nameserver:
        return await _by_system(wanted)
    resolver = _resolver(wanted)
    import dns.exception

    try:
        found = await (_services(resolver, wanted) if wanted.is_service else _hosts(resolver, wanted))
    except dns.exception.DNSException as error:
        raise NameNotFound(f"{wanted.name}: {str(error) or type(error).__name__}") from error
    if not found:
        raise NameNotFound(f"{wanted.name}: the name server knows no address of it")
    return found[:FOUND_MAX]


async def _by_system(wanted: DnsName) -> list[Found]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOK_UP_S):
            rows = await loop.getaddrinfo(wanted.name, wanted.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise NameNotFound(f"{wanted.name}: no name server answered within {LOOK_UP_S:g} s") from None
    except OSError as error:
        raise NameNotFound(f"{wanted.name}: {error.strerror or error}") from error
    hosts = dict.fromkeys(str(row[4][0]) for row in rows)
    return [Found(_address(host, wanted.port), wanted.name) for host in hosts][:FOUND_MAX]


async def _services(resolver: Any, wanted: DnsName) -> list[Found]:
    answer = await resolver.resolve(wanted.name, "SRV", lifetime=LOOK_UP_S)
    rows = sorted(answer, key=lambda row: (row.priority, -row.weight, row.target.to_text()))
    return [Found(_address(row.target.to_text(omit_final_dot=True), row.port)) for row in rows]


async def _hosts(resolver: Any, wanted: DnsName) -> list[Found]:
    answer = await resolver.resolve_name(wanted.name, lifetime=LOOK_UP_S)
    return [Found(_address(host, wanted.port), wanted.name) for host in answer.addresses()]


def _resolver(wanted: DnsName) -> Any:
    try:
        from dns.asyncresolver import Resolver
    except ImportError:
        raise ConfigError(
            f"{wanted.name}: looking up service records needs dnspython: pip install dnspython"
        ) from None
    resolver = Resolver(configure=not wanted.nameserver)
    if wanted.nameserver:
        host, _, port = wanted.nameserver.rpartition(":")
        resolver.nameservers = [host.strip("[]")]
        resolver.port = int(port)
    return resolver


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
