"""Addresses as people write them: host, host:port, :port, [v6]:port."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

PORT_MAX: Final = 65_535
WILDCARDS: Final = frozenset({"0.0.0.0", "::", "*", ""})
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or dial. An empty host or a port of None was not written."""

    host: str = ""
    port: int | None = None

    def __str__(self) -> str:
        return self.host if self.port is None else join_address(self.host, self.port)


def parse_address(value: object) -> Address:
    """Read `host`, `host:port`, `:port`, `[v6]`, `[v6]:port` or a bare port number; ValueError otherwise."""
    if isinstance(value, Address):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Address(port=_port(str(value)))
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not an address: write host:port")
    text = value.strip()
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{value!r} is not an address: write [v6 address]:port")
        return Address(check_host(host), _port(rest[1:]) if rest else None)
    if _is_ip(text):
        return Address(text)
    host, colon, port = text.rpartition(":")
    if not colon:
        return Address(check_host(text))
    return Address(check_host(host) if host else "", _port(port))


def check_host(host: object) -> str:
    """The host itself when it is an IP address or a name; ValueError otherwise."""
    if not isinstance(host, str) or not (_is_ip(host) or host == "*" or _NAME.fullmatch(host)):
        raise ValueError(f"{host!r} is not a host name or an IP address")
    if re.fullmatch(r"[0-9.]+", host) and not _is_ip(host):
        raise ValueError(f"{host!r} is not an IP address")
    return host


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach a listener on `host`."""
    if _is_ip(host):
        return ipaddress.ip_address(host).is_loopback
    return host.rstrip(".").lower() == "localhost"


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= PORT_MAX:
        raise ValueError(f"{text!r} is not a port: write a number from 1 to {PORT_MAX}")
    return int(text)


def check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    """The same, when each is a network such as 10.0.0.0/8. Raises ValueError."""
    for text in networks:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is not a network; write it as 10.0.0.0/8") from error
    return networks
