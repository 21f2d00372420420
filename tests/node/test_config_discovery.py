"""The section `discovery`, and nodes that are in no list."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.node.config import ConfigError, load_config, node_settings
from coterie.node.config.settings import DiscoverySettings, NodeSettings

NODES = "nodes: [{id: a, host: h1}, {id: b, host: h2}]"


def settings(tmp_path: Path, discovery: str, node_id: str, rest: str = "") -> NodeSettings:
    file = tmp_path / "cluster.yaml"
    tls = "security: {tls: {dir: tls}}"
    file.write_text(f"cluster: {{{NODES}, discovery: {{{discovery}}}}}\n{tls}\n{rest}\n")
    return node_settings(load_config([file], {}).config, node_id)


@pytest.mark.parametrize(
    ("discovery", "error"),
    [
        ("method: dns", "discovery.name: missing: method dns needs it"),
        ("method: k8s", "discovery.service: missing: method k8s needs it"),
        ("method: consul", "'consul' is not known; write static or dns or k8s"),
        ("name: x", "discovery.name: is not for method static, which has nodes; remove it"),
        (
            "method: k8s, service: c, nameserver: '1.1.1.1:53'",
            "discovery.nameserver: is not for method k8s, which has service, namespace, port",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, discovery: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, discovery, "a")
    assert error in str(caught.value)


def test_a_pod_that_is_in_no_list_joins_under_its_own_name(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        "method: k8s, service: coterie, namespace: ai",
        "coterie-5",
        "listen: {grpc: '0.0.0.0:9000'}",
    )
    assert found.join and found.founders == ("a", "b")
    assert found.advertise == "coterie-5.coterie.ai.svc.cluster.local:9000"
    assert found.membership.discovery == DiscoverySettings("coterie.ai.svc.cluster.local", 9000)


def test_a_node_in_no_list_must_say_where_it_is(tmp_path: Path) -> None:
    dns = "method: dns, name: _coterie._tcp.x, nameserver: '127.0.0.1:8600'"
    with pytest.raises(ConfigError, match=r"listen\.advertise: missing: late is not listed"):
        settings(tmp_path, dns, "late")
    found = settings(tmp_path, dns, "late", "listen: {advertise: 'h9:7000'}")
    assert (found.advertise, found.join) == ("h9:7000", True)
    assert found.membership.discovery == DiscoverySettings("_coterie._tcp.x", 8080, "127.0.0.1:8600")
    with pytest.raises(ConfigError, match="is not a node id"):
        settings(tmp_path, dns, "-", "listen: {advertise: 'h9:7000'}")


def test_a_founder_founds_and_asks_nobody(tmp_path: Path) -> None:
    found = settings(tmp_path, "method: dns, name: coterie.x", "a")
    assert not found.join and found.founders == ("a", "b")
