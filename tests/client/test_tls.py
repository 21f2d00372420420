"""TLS: what works, and that each mix-up is told apart and told at once."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coterie.client import TLS, Cluster, Timeouts, Unavailable
from coterie.client.connection import Connection
from coterie.client.names import DnsName
from coterie.client.settings import Settings
from tests.client.fake import FakeCluster, FakeNode
from tests.tools.nameserver import name_server

START = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
FAR = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)
NAME = x509.oid.NameOID.COMMON_NAME


@dataclass
class Party:
    """A key with its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def cert_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        cert.write_bytes(self.cert_pem)
        key.write_bytes(self.key_pem)
        return cert, key


def party(
    name: str, issuer: Party | None = None, host: str = "127.0.0.1", until: datetime.datetime = FAR
) -> Party:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        is_address = host.replace(".", "").isdigit()
        san = x509.IPAddress(ipaddress.ip_address(host)) if is_address else x509.DNSName(host)
        builder = builder.add_extension(x509.SubjectAlternativeName([san]), critical=False)
    return Party(key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))


@dataclass
class House:
    """A CA, its files, and two nodes that demand client certificates."""

    folder: Path
    ca: Party
    endpoints: list[str]
    tls: TLS


async def serve(fake: FakeCluster, name: str, ca: Party, server: Party | None, *, mutual: bool = True) -> str:
    node = FakeNode(fake, name)
    credentials = None
    if server is not None:
        credentials = grpc.ssl_server_credentials(
            [(server.key_pem, server.cert_pem)], root_certificates=ca.cert_pem, require_client_auth=mutual
        )
    await node.start(credentials)
    fake.nodes.append(node)
    return node.address


@pytest.fixture
async def bare() -> AsyncIterator[FakeCluster]:
    fake = FakeCluster()
    yield fake
    for node in fake.nodes:
        await node.stop()


@pytest.fixture
async def house(bare: FakeCluster, tmp_path: Path) -> House:
    ca = party("house ca")
    endpoints = [await serve(bare, f"n{number}", ca, party("node", ca)) for number in (1, 2)]
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem)
    cert, key = party("user", ca).write(tmp_path, "user")
    return House(tmp_path, ca, endpoints, TLS(ca=tmp_path / "ca.pem", cert=cert, key=key))


async def failure(endpoints: list[str], tls: TLS | None, call: float = 30.0) -> str:
    async with Cluster(endpoints, tls=tls, auto_discovery=False, timeouts=Timeouts(call=call)) as client:
        with pytest.raises(Unavailable) as failed:
            await client.get_status()
    assert set(failed.value.endpoints) == set(endpoints)
    return str(failed.value)


async def test_mutual_tls_works(house: House) -> None:
    async with Cluster(house.endpoints, tls=house.tls, auto_discovery=False) as client:
        assert (await client.get_status()).leader == "n1"


@pytest.mark.parametrize("certificate", [True, False])
async def test_a_caller_without_a_certificate_stays_with_the_addresses_it_was_given(
    bare: FakeCluster, house: House, certificate: bool
) -> None:
    """Those that nodes tell want one."""
    given = await serve(bare, "n3", house.ca, party("node", house.ca), mutual=False)
    tls = house.tls if certificate else TLS(ca=house.tls.ca)
    async with Cluster(
        given, tls=tls, token="cot_1_0123456789ab", timeouts=Timeouts(discovery=0.05)
    ) as client:
        await bare.until(lambda: len(bare.methods("ListNodes")) >= 3)
        assert set(client.endpoints) == {given, *(house.endpoints if certificate else ())}
        assert await client.list_nodes()


async def test_a_caller_without_a_certificate_asks_the_name_again_while_nodes_answer(
    bare: FakeCluster, house: House
) -> None:
    """Nothing else tells it of a new node, or that one has gone. What was given stays."""
    first, second, given = [
        await serve(bare, f"open{number}", house.ca, party("node", house.ca), mutual=False)
        for number in (1, 2, 3)
    ]
    key = ("_coterie-clients._tcp.example.org", "SRV")
    async with name_server({key: [_record(first)]}) as server:
        name = DnsName(key[0], 1, server.address)
        settings = Settings(
            (given,), (name,), TLS(ca=house.tls.ca), False, True, "default", "cot_1_0123456789ab"
        )
        connection = Connection(settings, Timeouts(discovery=0.05))
        await connection.look_up()
        assert set(connection.pool.addresses) == {given, first}
        connection.start()
        try:
            server.records[key] = [_record(first), _record(second)]
            await until(lambda: set(connection.pool.addresses) == {given, first, second})
            server.records[key] = [_record(second)]
            await until(lambda: set(connection.pool.addresses) == {given, second})
            server.records.clear()
            asked = len(server.asked)
            await until(lambda: len(server.asked) >= asked + 3)
            assert set(connection.pool.addresses) == {given, second}, "no answer takes nothing away"
            assert await connection.nodes()
        finally:
            await connection.close()


def _record(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"1 1 {port} {host}."


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - no bell is rung for it
            await asyncio.sleep(0.01)


async def test_another_ca_is_told_at_once(house: House) -> None:
    (house.folder / "other.pem").write_bytes(party("other ca").cert_pem)
    text = await failure(house.endpoints, TLS(ca=house.folder / "other.pem"))
    assert "not signed by the given CA" in text and "TLS cannot work" in text


async def test_a_plain_server_is_told_at_once(bare: FakeCluster, house: House) -> None:
    plain = await serve(bare, "plain", house.ca, None)
    assert "speaks TLS but the server does not" in await failure([plain], house.tls)


async def test_a_plain_client_gets_a_hint(house: House) -> None:
    text = await failure(house.endpoints, None, call=1.0)
    assert "if the cluster uses TLS, this client must too" in text


async def test_a_client_without_a_certificate_gets_a_hint(house: House) -> None:
    text = await failure(house.endpoints, TLS(ca=house.tls.ca), call=1.0)
    assert "certificate" in text


async def test_another_name_is_told_and_can_be_given(bare: FakeCluster, house: House) -> None:
    named = await serve(bare, "named", house.ca, party("node", house.ca, host="node.example"))
    assert "certificate is for another name" in await failure([named], house.tls)
    tls = TLS(house.tls.ca, house.tls.cert, house.tls.key, server_name="node.example")
    async with Cluster(named, tls=tls, auto_discovery=False) as client:
        assert (await client.get_status()).leader == "n1"


async def test_an_expired_node_is_told_at_once(bare: FakeCluster, house: House) -> None:
    expired = party("node", house.ca, until=datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC))
    address = await serve(bare, "old", house.ca, expired)
    assert "has expired" in await failure([address], house.tls)


async def test_one_node_that_works_is_enough(bare: FakeCluster, house: House) -> None:
    plain = await serve(bare, "plain", house.ca, None)
    async with Cluster([plain, house.endpoints[0]], tls=house.tls, auto_discovery=False) as client:
        for _ in range(4):
            await client.get_status()
