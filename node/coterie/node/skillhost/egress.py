"""Where a confined skill may connect to: its own list of hosts, and never an address inside.

A name is resolved here, once, and the connection goes to the very address that was checked: an answer that
changes in between helps nobody.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from coterie.skills.targets import Target

# Addresses at which clouds hand out credentials, also those that count as global.
METADATA = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::/32", "fe80::/10")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class NotAllowed(Exception):
    """The skill may not connect there; the message says why."""


@dataclass(frozen=True, slots=True)
class Egress:
    """The rules of one run: its skill's list, and the inside networks that the operator opened to skills."""

    targets: tuple[Target, ...]
    inside: tuple[Network, ...] = ()

    async def connect(
        self, host: str, port: int, timeout_s: float
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a host of the list. Raises NotAllowed, OSError, TimeoutError."""
        name = host.lower().rstrip(".")
        if not any(target.covers(name, port) for target in self.targets):
            raise NotAllowed(f"{host}:{port} is not in the skill's network list")
        async with asyncio.timeout(timeout_s):
            addresses = await _resolve(name, port)
            for address in addresses:
                self._check(name, address)
            return await self._first(addresses, port)

    def _check(self, host: str, address: str) -> None:
        """Raises NotAllowed for an address inside; all that a name resolves to must be outside."""
        for meant in _meanings(ipaddress.ip_address(address)):
            if any(meant in network for network in METADATA if network.version == meant.version):
                raise NotAllowed(f"{host} is {address}, where machines keep their credentials")
            if any(meant in network for network in self.inside if network.version == meant.version):
                continue
            if not meant.is_global or meant.is_multicast:
                raise NotAllowed(f"{host} is {address}, an address inside")

    async def _first(
        self, addresses: Sequence[str], port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failed: OSError = OSError("no address")
        for address in addresses:
            try:
                return await asyncio.open_connection(address, port)
            except OSError as error:
                failed = error
        raise failed


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]).partition("%")[0] for info in found))


def _meanings(address: Address) -> list[Address]:
    """The address, and the ones that are wrapped in it."""
    found = [address]
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = (address.ipv4_mapped, address.sixtofour, *(address.teredo or ()))
        found += [inner for inner in wrapped if inner is not None]
        if address in _NAT64:
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if address.ipv4_mapped is not None:
            found.remove(address)  # is_global of the wrapper says nothing
    return found
