"""Where a confined skill may connect to: its own list of hosts, and never an address inside.

A name is resolved here, once, and the connection goes to the very address that was checked: an answer that
changes in between helps nobody.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from coterie.skills.addresses import Network, why_not
from coterie.skills.targets import Target


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
        if reason := why_not(host, address, self.inside):
            raise NotAllowed(reason)

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
