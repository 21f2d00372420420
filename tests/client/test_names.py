"""Looking the nodes up: by the system, and by a real name server on loopback."""

from __future__ import annotations

import pytest

from coterie.client import ConfigError, Unavailable
from coterie.client.connection import Connection
from coterie.client.names import DnsName, Found, NameNotFound, look_up
from coterie.client.settings import Settings, Timeouts
from tests.tools.nameserver import name_server

SERVICE = "_coterie._tcp.example.org"
HINTED = [("c", 7003), ("a", 7001), ("b", 7002)]
RECORDS = {
    (SERVICE, "SRV"): ["10 5 7002 b.example.org.", "10 9 7001 a.example.org.", "5 0 7003 c.example.org."],
    ("pods.example.org", "A"): ["10.0.0.2", "10.0.0.1"],
    ("pods.example.org", "AAAA"): ["fd00::1"],
}


async def test_service_records_bring_names_and_ports_in_their_order() -> None:
    async with name_server(RECORDS) as server:
        found = await look_up(DnsName(SERVICE, 1, server.address))
    assert found == [Found("c.example.org:7003"), Found("a.example.org:7001"), Found("b.example.org:7002")]


async def test_addresses_are_asked_for_under_the_name_that_led_to_them() -> None:
    async with name_server(RECORDS) as server:
        found = await look_up(DnsName("pods.example.org", 8080, server.address))
    assert {hint.address for hint in found} == {"10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"}
    assert {hint.server_name for hint in found} == {"pods.example.org"}


async def test_the_system_knows_localhost() -> None:
    assert Found("127.0.0.1:9000", "localhost") in await look_up(DnsName("localhost", 9000))


@pytest.mark.parametrize("name", ["_nothing._tcp.example.org", "nothing.example.org"])
async def test_what_is_not_there_is_said_so(name: str) -> None:
    async with name_server(RECORDS) as server:
        with pytest.raises(NameNotFound, match=name):
            await look_up(DnsName(name, 1, server.address))


def settings(*names: DnsName, insecure: bool = True) -> Settings:
    return Settings((), names, None, insecure, True, "default")


async def test_a_client_without_a_single_address_says_what_it_sought() -> None:
    async with name_server(RECORDS) as server:
        wanted = DnsName("_nothing._tcp.example.org", 1, server.address)
        with pytest.raises(Unavailable, match="_nothing"):
            await Connection(settings(wanted), Timeouts()).look_up()
        with pytest.raises(ConfigError, match="plain text to"):
            known = DnsName(SERVICE, 1, server.address)
            await Connection(settings(known, insecure=False), Timeouts()).look_up()


async def test_hints_are_used_until_the_members_are_known() -> None:
    async with name_server(RECORDS) as server:
        connection = Connection(settings(DnsName(SERVICE, 1, server.address)), Timeouts())
        await connection.look_up()
    assert list(connection.pool.addresses) == [f"{host}.example.org:{port}" for host, port in HINTED]
    connection.pool.set_members({"a.example.org:7001": True, "d.example.org:7004": True})
    assert set(connection.pool.addresses) == {"a.example.org:7001", "d.example.org:7004"}
