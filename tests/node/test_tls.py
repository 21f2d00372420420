"""Certificates: what is made can be used by gRPC, and every wrong set of files is one clear line."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from coterie.node.config import ConfigError, TlsPaths
from coterie.node.tls import (
    TlsError,
    TlsMaterial,
    init_tls,
    issue_node,
    issue_user,
    load_tls,
    node_paths,
    user_paths,
)
from coterie.node.tls.issue import open_authority


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    init_tls(
        directory, ["node-1", "node-2"], {"node-1": ["10.0.0.1", "one.example"], "node-2": ["127.0.0.1"]}
    )
    return directory


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    shutil.copytree(made, tmp_path / "tls")
    return tmp_path / "tls"


def names_of(cert: bytes) -> tuple[set[str], set[str], set[str]]:
    subject = x509.load_pem_x509_certificate(cert).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return (
        set(subject.value.get_values_for_type(x509.DNSName)),
        {str(address) for address in subject.value.get_values_for_type(x509.IPAddress)},
        set(subject.value.get_values_for_type(x509.UniformResourceIdentifier)),
    )


def test_a_node_is_named_by_id_and_hosts(made: Path) -> None:
    material = load_tls(node_paths(made, "node-1"), "node-1")
    assert names_of(material.cert) == ({"node-1", "one.example"}, {"10.0.0.1"}, {"coterie://node/node-1"})


def test_a_node_on_loopback_answers_to_all_its_names(made: Path) -> None:
    names, addresses, uris = names_of(load_tls(node_paths(made, "node-2"), "node-2").cert)
    assert names == {"node-2", "localhost"} and addresses == {"127.0.0.1", "::1"}
    assert uris == {"coterie://node/node-2"}


def test_a_user_is_named_and_cannot_serve(made: Path) -> None:
    material = load_tls(user_paths(made, "admin"))
    assert names_of(material.cert) == (set(), set(), {"coterie://user/admin"})
    usage = x509.load_pem_x509_certificate(material.cert).extensions.get_extension_for_class(
        x509.ExtendedKeyUsage
    )
    assert list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_only_the_owner_can_read_the_files(made: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o600}
    assert not list(made.glob(".*")), "no temporary file is left"


def test_the_key_is_not_printed(made: Path) -> None:
    assert "PRIVATE" not in repr(load_tls(node_paths(made, "node-1"), "node-1"))


def test_an_authority_is_used_again(own: Path) -> None:
    before = (own / "ca.crt").read_bytes()
    paths = issue_node(own, "node-3", ["127.0.0.1"])
    assert (own / "ca.crt").read_bytes() == before
    assert load_tls(paths, "node-3").ca == before
    assert load_tls(issue_user(own, "eve@example")).expires_at > datetime.now(UTC) + timedelta(days=365)


async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    names = context.auth_context()["x509_subject_alternative_name"]
    return b",".join(name for name in names if name.startswith(b"coterie://"))


async def call(server_side: TlsMaterial, client_side: TlsMaterial, name: str | None) -> bytes:
    """What a server says about its caller, over a real connection."""
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", {"Who": handler})])
    pair = [(server_side.key, server_side.cert)]
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials(pair, server_side.ca, require_client_auth=True)
    )
    await server.start()
    credentials = grpc.ssl_channel_credentials(client_side.ca, client_side.key, client_side.cert)
    options = [("grpc.ssl_target_name_override", name)] if name else []
    try:
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            who: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test/Who")
            return await who(b"", timeout=10)
    finally:
        await server.stop(0)


async def test_a_peer_and_a_user_are_known_over_grpc(made: Path) -> None:
    one, two = (load_tls(node_paths(made, node_id), node_id) for node_id in ("node-1", "node-2"))
    assert await call(one, two, "node-1") == b"coterie://node/node-2"
    assert await call(two, load_tls(user_paths(made, "admin")), None) == b"coterie://user/admin"


async def test_a_peer_with_another_name_or_authority_gets_no_answer(made: Path, tmp_path: Path) -> None:
    one, two = (load_tls(node_paths(made, node_id), node_id) for node_id in ("node-1", "node-2"))
    with pytest.raises(grpc.aio.AioRpcError):
        await call(one, two, "node-2")
    stranger = load_tls(init_tls(tmp_path / "other", []))
    with pytest.raises(grpc.aio.AioRpcError):
        await call(two, TlsMaterial(two.ca, stranger.cert, stranger.key, stranger.expires_at), None)


def test_the_certificate_of_another_node_is_refused(made: Path) -> None:
    with pytest.raises(
        TlsError, match=r"node-1\.crt: belongs to coterie://node/node-1, but this is node-2; give"
    ):
        load_tls(node_paths(made, "node-1"), "node-2")


def test_the_certificate_of_a_user_is_no_node(made: Path) -> None:
    with pytest.raises(TlsError, match="belongs to coterie://user/admin, but this is node-1"):
        load_tls(user_paths(made, "admin"), "node-1")


def test_a_key_of_another_certificate_is_refused(made: Path) -> None:
    one, two = node_paths(made, "node-1"), node_paths(made, "node-2")
    with pytest.raises(TlsError, match=r"node-2\.key: not the key of .*node-1\.crt"):
        load_tls(TlsPaths(one.ca, one.cert, two.key), "node-1")


def test_another_authority_is_refused(made: Path, tmp_path: Path) -> None:
    init_tls(tmp_path / "other", [])
    one = node_paths(made, "node-1")
    with pytest.raises(TlsError, match=r"node-1\.crt: not signed by .*other/ca\.crt; give the ca\.crt"):
        load_tls(TlsPaths(tmp_path / "other" / "ca.crt", one.cert, one.key), "node-1")


def test_a_certificate_that_is_no_authority_signs_nothing(made: Path) -> None:
    one = node_paths(made, "node-1")
    with pytest.raises(TlsError, match="not signed by"):
        load_tls(TlsPaths(one.cert, one.cert, one.key), "node-1")


@pytest.mark.parametrize(("days", "words"), [(800, "expired on"), (-30, "not valid before")])
def test_a_certificate_out_of_its_time_is_refused(made: Path, days: int, words: str) -> None:
    with pytest.raises(TlsError, match=rf"node-1\.crt: {words} \d{{4}}-"):
        load_tls(node_paths(made, "node-1"), "node-1", datetime.now(UTC) + timedelta(days=days))


@pytest.mark.parametrize("name", ["ca.crt", "node-1.crt", "node-1.key"])
def test_a_missing_or_damaged_file_is_named(own: Path, name: str) -> None:
    (own / name).write_text("-----BEGIN NONSENSE-----", encoding="utf-8")
    with pytest.raises(TlsError, match=f"{name}: not a PEM"):
        load_tls(node_paths(own, "node-1"), "node-1")
    (own / name).unlink()
    with pytest.raises(TlsError, match=f"{name}: cannot be read: No such file"):
        load_tls(node_paths(own, "node-1"), "node-1")


@pytest.mark.parametrize("name", ["ca.crt", "ca.key"])
def test_half_an_authority_is_refused(own: Path, name: str) -> None:
    (own / name).unlink()
    with pytest.raises(TlsError, match=f"{name}: missing; put it back"):
        issue_node(own, "node-4")


def test_a_mixed_up_authority_is_refused(own: Path, tmp_path: Path) -> None:
    init_tls(tmp_path / "other", [])
    shutil.copy(tmp_path / "other" / "ca.key", own / "ca.key")
    with pytest.raises(TlsError, match=r"ca\.key: not the key of .*ca\.crt"):
        issue_node(own, "node-4")
    (own / "ca.key").write_text("x", encoding="utf-8")
    with pytest.raises(TlsError, match="cannot be read"):
        issue_node(own, "node-4")


def test_an_authority_that_has_expired_signs_nothing_more(own: Path) -> None:
    late = datetime.now(UTC) + timedelta(days=3_651)
    with pytest.raises(TlsError, match=r"ca\.crt: expired on .*; move it and ca\.key away"):
        open_authority(own, late)
    open_authority(own, late - timedelta(days=2))


@pytest.mark.parametrize(
    ("hosts", "user"), [({"node-2": ["a b"]}, "admin"), ({"node-1": ["10.0.0.1"]}, "../admin")]
)
def test_nothing_is_written_for_names_that_cannot_be(
    tmp_path: Path, hosts: dict[str, list[str]], user: str
) -> None:
    with pytest.raises(TlsError):
        init_tls(tmp_path / "tls", ["node-1", "node-2"], hosts, user)
    assert not (tmp_path / "tls").exists()


@pytest.mark.parametrize("node_id", ["", "ca", "a/b", "../x", "a b", "-a"])
def test_a_name_that_is_no_node_id_gets_no_certificate(own: Path, node_id: str) -> None:
    before = {path.name for path in own.parent.rglob("*")}
    with pytest.raises(TlsError, match="is not a node id"):
        issue_node(own, node_id)
    assert {path.name for path in own.parent.rglob("*")} == before


def test_a_wrong_host_or_user_gets_no_certificate(own: Path) -> None:
    with pytest.raises(TlsError, match="'a b' is not a host name"):
        issue_node(own, "node-4", ["a b"])
    with pytest.raises(TlsError, match="is not a user name"):
        issue_user(own, "../admin")


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(TlsError, match=r"cannot be made: .*; choose a writable directory"):
        init_tls(tmp_path / "file" / "tls", ["node-1"])


def test_a_tls_error_is_a_configuration_error(made: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tls(node_paths(made, "node-1"), "node-2")
    assert len(caught.value.problems) == 1
