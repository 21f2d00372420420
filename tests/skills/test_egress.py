"""Which hosts a confined skill may connect to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import pytest

from coterie.node.skillhost import egress
from coterie.node.skillhost.egress import Egress, NotAllowed
from coterie.node.skillhost.proxy import Proxy
from coterie.skills.targets import parse_target


@pytest.mark.parametrize(
    ("entry", "host", "port", "covered"),
    [
        ("example.org", "example.org", 443, True),
        ("example.org", "example.org", 80, True),
        ("example.org", "example.org", 22, False),
        ("example.org:22", "example.org", 22, True),
        ("example.org:22", "example.org", 443, False),
        ("example.org", "www.example.org", 443, False),
        ("*.example.org", "www.example.org", 443, True),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "evilexample.org", 443, False),
        ("EXAMPLE.org", "example.org", 443, True),
        ("[2001:db8::1]:8080", "[2001:db8::1]", 8080, True),
    ],
)
def test_an_entry_covers_what_it_says(entry: str, host: str, port: int, covered: bool) -> None:
    assert parse_target(entry).covers(host, port) is covered


@pytest.mark.parametrize(
    "entry", ["", "*", "http://x.org", "a b", "x.org:", "x.org:99999", "*.", "x/y", "a*b.org"]
)
def test_what_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        parse_target(entry)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "100.100.100.200", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254",
        "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "2002:7f00:1::",
        "ff02::1",
    ],
)  # fmt: skip
async def test_a_name_that_leads_inside_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34", address]  # one good answer does not cover a bad one

    monkeypatch.setattr(egress, "_resolve", resolve)
    with pytest.raises(NotAllowed, match=r"an address inside|credentials"):
        await Egress((parse_target("rebound.example"),)).connect("rebound.example", 443, 1)


async def test_what_the_operator_opened_is_open_but_never_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {"inner.example": "10.1.2.3", "cloud.example": "169.254.169.254"}

    async def resolve(host: str, port: int) -> list[str]:
        return [answers[host]]

    async def connect(self: Egress, addresses: list[str], port: int) -> object:
        return addresses

    monkeypatch.setattr(egress, "_resolve", resolve)
    monkeypatch.setattr(Egress, "_first", connect)
    everything = (ipaddress.ip_network("0.0.0.0/0"),)
    rules = Egress(tuple(parse_target(host) for host in answers), everything)
    reached: object = await rules.connect("Inner.Example.", 443, 1)
    assert reached == ["10.1.2.3"]
    with pytest.raises(NotAllowed, match="credentials"):
        await rules.connect("cloud.example", 443, 1)


@pytest.mark.parametrize("turns", range(1, 6))
async def test_a_run_that_ends_while_its_door_is_opened_leaves_no_door(turns: int) -> None:
    door = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(Egress((), ()), "t")
    opening = asyncio.create_task(proxy.serve(door))
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    await proxy.close()
    await asyncio.sleep(0)
    assert door.fileno() == -1
