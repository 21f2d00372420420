"""Ways to the network that are not the proxy, and the proxy itself."""

from __future__ import annotations

import socket
import urllib.request
from typing import Any

from .kit import attack


@attack
def tcp(given: Any) -> Any:
    socket.create_connection(("127.0.0.1", given["tcp_port"]), timeout=2)
    return "connected"


@attack
def udp(given: Any) -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return sender.sendto(b"x", ("127.0.0.1", given["udp_port"]))


@attack
def abstract_unix(given: Any) -> Any:
    socket.socket(socket.AF_UNIX).connect(given["abstract"])
    return "connected"


@attack
def unix_path(given: Any) -> Any:
    socket.socket(socket.AF_UNIX).connect(given["unix_path"])
    return "connected"


@attack
def datagram_pair_turned(given: Any) -> Any:
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return ours.sendto(b"x", given["unix_datagram"])


@attack
def raw_socket(given: Any) -> Any:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).fileno()


@attack
def packet_socket(given: Any) -> Any:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW).fileno()


@attack
def netlink(given: Any) -> Any:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).fileno()


@attack
def listen(given: Any) -> Any:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        return door.getsockname()


@attack
def dns(given: Any) -> Any:
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04leak\x04test\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return sender.sendto(query, (given.get("dns", "127.0.0.1"), given["udp_port"]))


@attack
def resolve(given: Any) -> Any:
    return socket.getaddrinfo("example.org", 80)[0][4]


@attack
def metadata_address(given: Any) -> Any:
    return urllib.request.urlopen("http://169.254.169.254/latest/meta-data/", timeout=3).read(20).decode()


@attack
def loopback_by_proxy(given: Any) -> Any:
    return urllib.request.urlopen(f"http://127.0.0.1:{given['tcp_port']}/", timeout=3).read(20).decode()


@attack
def name_of_loopback_by_proxy(given: Any) -> Any:
    return urllib.request.urlopen(f"http://localhost:{given['tcp_port']}/", timeout=3).read(20).decode()


@attack
def mapped_loopback_by_proxy(given: Any) -> Any:
    return urllib.request.urlopen(f"http://[::ffff:127.0.0.1]:{given['tcp_port']}/", timeout=3).status


@attack
def around_the_proxy(given: Any) -> Any:
    socket.create_connection((given["host_address"], given["tcp_port"]), timeout=2)
    return "connected"
