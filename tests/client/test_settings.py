"""Where the cluster is: arguments, then the file, then the environment; and what is refused."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from coterie.client import TLS, Cluster, ConfigError, Timeouts
from coterie.client.names import DnsName
from coterie.client.settings import Settings, credentials, load_config, parse_endpoints, resolve

CLUSTER_FILE = """
cluster:
  name: prod
  nodes:
    - {id: n1, host: 127.0.0.1, role: coordinator}
    - {id: n2, host: 127.0.0.1, port: 9002}
    - {id: n3, host: "::1"}
listen: {grpc: "0.0.0.0:9001"}
security: {tls: {ca: certs/ca.pem, cert: certs/me.pem, key: /keys/me.key}}
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_DIR"):
        monkeypatch.delenv(f"COTERIE_{name}", raising=False)


def settings_of(
    endpoints: Any = None, config_path: Path | None = None, tls: TLS | None = None, **more: Any
) -> Settings:
    defaults = {"insecure": False, "auto_discovery": True, "tenant": "default"}
    return resolve(endpoints, config_path, tls, **{**defaults, **more})


@pytest.mark.parametrize(
    "given",
    ["127.0.0.1:1, localhost:2 ,127.0.0.1:1", ["127.0.0.1:1", "localhost:2"], ("127.0.0.1:1", "localhost:2")],
)
def test_endpoints_are_a_text_or_a_list(given: Any) -> None:
    assert parse_endpoints(given) == ("127.0.0.1:1", "localhost:2")


@pytest.mark.parametrize(
    "wrong",
    [
        "host",
        "host:",
        ":80",
        "host:0",
        "host:70000",
        "host:x",
        "::1:80",
        "[::1:80",
        "fe80::1:80",
        f"host:{'9' * 5_000}",
        [7],
        ["a:1"] * 0,
    ],
    ids=lambda wrong: str(wrong)[:20],
)
def test_a_bad_endpoint_is_named(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        settings_of(wrong, insecure=True)


@pytest.mark.parametrize("target", ["dns:///coterie.svc:8080", "ipv4:10.0.0.1:8080", "[::1]:8080"])
def test_what_the_library_dials_by_other_words_is_taken(target: str) -> None:
    assert parse_endpoints(target) == (target,)


def test_the_environment_is_the_last_resort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COTERIE_ENDPOINT", "10.0.0.1:1,10.0.0.2:1")
    monkeypatch.setenv("COTERIE_TLS_CA", "ca.pem")
    settings = settings_of()
    assert settings.endpoints == ("10.0.0.1:1", "10.0.0.2:1") and settings.tls == TLS(ca="ca.pem")
    file = tmp_path / "client.json"
    file.write_text('{"endpoints": ["10.0.0.3:1"]}')
    assert settings_of(config_path=file).endpoints == ("10.0.0.3:1",)
    assert settings_of("10.0.0.4:1", file).endpoints == ("10.0.0.4:1",)
    own = TLS(ca="mine.pem")
    assert settings_of("10.0.0.4:1", file, own).tls == own


def test_the_environment_of_a_dev_cluster_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ca.crt", "user.admin.crt", "user.admin.key"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("COTERIE_ENDPOINT", "127.0.0.1:1")
    monkeypatch.setenv("COTERIE_TLS_DIR", str(tmp_path))
    admin = tmp_path / "user.admin.crt"
    assert settings_of().tls == TLS(tmp_path / "ca.crt", admin, admin.with_suffix(".key")) == TLS.of(tmp_path)
    monkeypatch.setenv("COTERIE_TLS_CA", "ca.pem")
    assert settings_of().tls == TLS(ca="ca.pem")


def test_plain_text_beyond_this_machine_needs_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for loopback in ("127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1"):
        assert settings_of(loopback).tls is None
    with pytest.raises(ConfigError, match=r"plain text to 10\.0\.0\.1:1 is refused"):
        settings_of("127.0.0.1:1,10.0.0.1:1")
    settings = settings_of("10.0.0.1:1", insecure=True)
    assert settings.allows("10.0.0.2:1")
    monkeypatch.setenv("COTERIE_TLS_CA", "ca.pem")
    assert settings_of("10.0.0.1:1", insecure=True).tls is None
    monkeypatch.delenv("COTERIE_TLS_CA")
    assert not settings_of("127.0.0.1:1").allows("10.0.0.2:1")
    assert settings_of("10.0.0.1:1", tls=TLS(ca="ca.pem")).allows("10.0.0.2:1")


def test_a_client_file(tmp_path: Path) -> None:
    file = tmp_path / "client.yaml"
    file.write_text(
        "endpoints: 'h1:1,h2:1'\ntls: {ca: ca.pem, serverName: node}\ntenant: acme\nautoDiscovery: false\n"
    )
    settings = settings_of(config_path=file)
    assert settings == Settings(
        ("h1:1", "h2:1"), (), TLS(ca=tmp_path / "ca.pem", server_name="node"), False, False, "acme"
    )
    assert settings_of(config_path=file, tenant="other").tenant == "other"


def test_a_cluster_file_tells_nodes_ports_and_tls(tmp_path: Path) -> None:
    file = tmp_path / "cluster-config.yaml"
    file.write_text(CLUSTER_FILE)
    settings = settings_of(config_path=file)
    assert settings.endpoints == ("127.0.0.1:9001", "127.0.0.1:9002", "[::1]:9001")
    assert settings.tls == TLS(
        ca=tmp_path / "certs/ca.pem", cert=tmp_path / "certs/me.pem", key=Path("/keys/me.key")
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not YAML"),
        ("[1]", "a mapping with the key"),
        ("endpoint: h:1", "did you mean 'endpoints'"),
        ("endpoints: 5", "give a list of host:port"),
        ("endpoints: [h:1]\ninsecure: maybe", "insecure='maybe'"),
        ("endpoints: [h:1]\ntls: {cert: c}", "tls.ca is missing"),
        ("endpoints: [h:1]\ntls: yes", "tls: a mapping"),
        ("endpoints: [h:1]\ntls: {ca: c, servername: n}", r"tls\.servername: .*did you mean 'server_name'"),
        ("endpoints: [h:1]\ntls: {dir: d, sert: c}", r"tls\.sert: .*did you mean 'cert'"),
        ("tenant: x", "no endpoint found"),
        ("cluster: {nodes: 5}", "cluster.nodes: a list"),
        ("cluster: {nodes: [x]}", r"cluster.nodes\[0\]: a mapping"),
        ("cluster: []", "cluster: a mapping"),
        ("a: &a [*a, *a]", "did you mean|unknown key"),
    ],
)
def test_a_bad_file_is_named_with_the_fault(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=fault) as refused:
        load_config(file)
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("port", ["http", "70000", "-1", "9" * 5_000, "1.5"], ids=lambda port: port[:8])
def test_a_port_to_look_up_that_is_none_is_named(tmp_path: Path, port: str) -> None:
    file = tmp_path / "cluster.json"
    discovery = {"method": "dns", "name": "c.example.org", "port": port}
    file.write_text(json.dumps({"cluster": {"discovery": discovery}}))
    with pytest.raises(ConfigError, match=r"cluster\.discovery\.port"):
        load_config(file)


CERTIFICATE = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("cert", "key", "fault"),
    [
        (CERTIFICATE, "no key", "key file .*: holds no PRIVATE KEY in PEM"),
        (CERTIFICATE, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "key file .* has a password"),
        ("no certificate", "-----BEGIN PRIVATE KEY-----\n", "cert file .* holds no CERTIFICATE in PEM"),
    ],
)
def test_a_file_that_is_no_pem_is_named(tmp_path: Path, cert: str, key: str, fault: str) -> None:
    for name, text in (("ca", CERTIFICATE), ("cert", cert), ("key", key)):
        (tmp_path / name).write_text(text)
    files = TLS(ca=tmp_path / "ca", cert=tmp_path / "cert", key=tmp_path / "key")
    with pytest.raises(ConfigError, match=fault):
        credentials(files)


def test_a_file_that_is_too_deep_is_named(tmp_path: Path) -> None:
    file = tmp_path / "client.json"
    file.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="not JSON"):
        load_config(file)


def test_a_missing_file_and_bad_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    bad = tmp_path / "bad.json"
    bad.write_text("endpoints: [h:1]")
    with pytest.raises(ConfigError, match="not JSON"):
        load_config(bad)


def test_without_a_yaml_parser_json_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def no_yaml(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "yaml":
            raise ImportError("No module named 'yaml'")
        return original(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", no_yaml)
    file = tmp_path / "client.yaml"
    file.write_text(json.dumps({"endpoints": ["h:1"]}))
    assert load_config(file) == {"endpoints": ["h:1"]}
    file.write_text("endpoints: [h:1]")
    with pytest.raises(ConfigError, match="pip install pyyaml"):
        load_config(file)


def test_wrong_arguments_are_refused_before_any_call(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no endpoint"):
        Cluster()
    with pytest.raises(ConfigError, match="tenant"):
        Cluster("127.0.0.1:1", tenant="a/b")
    for wrong in ({"call": 0}, {"attempt": -1.0}, {"probe": float("nan")}):
        with pytest.raises(ConfigError, match="timeouts"):
            Timeouts(**wrong)


def test_a_newer_node_may_have_keys_that_a_client_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "cluster-config.yaml"
    file.write_text(CLUSTER_FILE.replace("tls: {ca", "tls: {minVersion: 1.3, ca"))
    tls = settings_of(config_path=file).tls
    assert tls is not None and tls.ca == tmp_path / "certs/ca.pem"


async def test_tls_files_are_read_at_opening(tmp_path: Path) -> None:
    missing = TLS(ca=tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match=r"TLS ca file .*ca\.pem: No such file"):
        async with Cluster("127.0.0.1:1", tls=missing):
            pass
    with pytest.raises(ConfigError, match="cert and key together"):
        async with Cluster("127.0.0.1:1", tls=TLS(ca=missing.ca, cert="c")):
            pass


def test_service_names_among_the_endpoints() -> None:
    settings = settings_of("srv:_coterie._tcp.example.org, h1:1", insecure=True)
    assert settings.endpoints == ("h1:1",)
    assert settings.names == (DnsName("_coterie._tcp.example.org"),)
    with pytest.raises(ConfigError, match="write srv:_service"):
        settings_of("srv:example.org")


@pytest.mark.parametrize(
    ("discovery", "name"),
    [
        (
            "{method: dns, name: _coterie._tcp.x, nameserver: '127.0.0.1:53'}",
            DnsName("_coterie._tcp.x", 8080, "127.0.0.1:53"),
        ),
        ("{method: dns, name: c.example.org, port: 9000}", DnsName("c.example.org", 9000)),
        (
            "{method: k8s, service: coterie, namespace: ai}",
            DnsName("coterie.ai.svc.cluster.local", 8080),
        ),
    ],
)
def test_a_cluster_file_that_names_no_node_but_where_to_look_them_up(
    tmp_path: Path, discovery: str, name: DnsName
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(f"cluster: {{discovery: {discovery}}}\n")
    assert settings_of(config_path=file).names == (name,)
    assert settings_of("h1:1", config_path=file, insecure=True).names == ()


def test_a_cluster_file_whose_certificates_are_in_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("cluster: {nodes: [{id: a, host: h}]}\nsecurity: {tls: {dir: certs}}\n")
    certs = tmp_path / "certs"
    assert settings_of(config_path=file).tls == TLS(ca=certs / "ca.crt")
    certs.mkdir()
    (certs / "user.ann.crt").touch()
    ann = TLS(ca=certs / "ca.crt", cert=certs / "user.ann.crt", key=certs / "user.ann.key")
    assert settings_of(config_path=file).tls == ann
    (certs / "user.bob.crt").touch()
    with pytest.raises(ConfigError, match=r"user\.ann\.crt, user\.bob\.crt; choose with tls="):
        settings_of(config_path=file)
    (certs / "user.admin.crt").touch()
    tls = settings_of(config_path=file).tls
    assert tls is not None and tls.cert == certs / "user.admin.crt"
