"""Which addresses are inside, and so nothing for a program that goes where others send it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

# Addresses at which clouds hand out credentials, also those that count as global.
METADATA = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
        *("fd00:ec2::/32", "fd20:ce::254/128", "fe80::/10"),
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def why_not(host: str, address: str, inside: Sequence[Network]) -> str:
    """Why nobody may be sent to this address of the host; empty: it is outside, or in one of the networks
    `inside` that are open all the same."""
    for meant in _meanings(ipaddress.ip_address(address)):
        if any(meant in network for network in METADATA if network.version == meant.version):
            return f"{host} is {address}, where machines keep their credentials"
        if any(meant in network for network in inside if network.version == meant.version):
            continue
        if not meant.is_global or meant.is_multicast:
            return f"{host} is {address}, an address inside"
    return ""


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
