"""How nodes are found: what the section may say, and what it means for a node that is in no list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from coterie.node.config.findings import ConfigError, Finding, KeyPath
from coterie.node.config.kinds import check_node_id
from coterie.node.config.model import ClusterConfig, Discovery, NodeEntry
from coterie.node.config.settings import DiscoverySettings

GRPC_PORT: Final = 8080
_SECTION: KeyPath = ("cluster", "discovery")
_KEYS = {"static": ("nodes",), "dns": ("name", "port", "nameserver"), "k8s": ("service", "namespace", "port")}
_NEEDED = {"dns": "name", "k8s": "service"}


def discovery_problems(section: Discovery) -> Iterator[Finding]:
    """Keys of another method, and the one that is missing."""
    allowed = _KEYS.get(section.method)
    if allowed is None:
        return
    written = section.model_fields_set - {"method"}
    for key in sorted(written - set(allowed)):
        text = f"is not for method {section.method}, which has {', '.join(allowed)}; remove it"
        yield Finding((*_SECTION, key), text)
    needed = _NEEDED.get(section.method)
    if needed and not getattr(section, needed):
        example = "coterie.example.org" if needed == "name" else "coterie, a headless service"
        yield Finding((*_SECTION, needed), f"missing: method {section.method} needs it, e.g. {example}")


def discovery_name(config: ClusterConfig) -> DiscoverySettings | None:
    """What to look up; None where the nodes are listed."""
    section = config.cluster.discovery
    if section.method == "static":
        return None
    k8s = section.method == "k8s"
    name = _kubernetes_name(section.service, section.namespace) if k8s else section.name
    port = section.port or config.listen.grpc.port or GRPC_PORT
    return DiscoverySettings(name, port, str(section.nameserver or ""))


def with_entry(config: ClusterConfig, node_id: str) -> ClusterConfig:
    """The configuration with an entry for a node that is in no list and joins what it finds by name.
    Raises ConfigError."""
    section = config.cluster.discovery
    if not node_id or section.method == "static" or config.node(node_id) is not None:
        return config
    try:
        check_node_id(node_id)
    except ValueError as error:
        raise ConfigError([f"--id: {error}"]) from None
    host = config.listen.advertise.host
    if section.method == "k8s":
        host = host or f"{node_id}.{_kubernetes_name(section.service, section.namespace)}"
    if not host:
        text = f"missing: {node_id} is not listed under cluster.nodes, so say where the others reach it"
        raise ConfigError([f"listen.advertise: {text}"])
    entry = NodeEntry(id=node_id, host=host, join=True)
    cluster = config.cluster.model_copy(update={"nodes": (*config.cluster.nodes, entry)})
    return config.model_copy(update={"cluster": cluster})


def _kubernetes_name(service: str, namespace: str) -> str:
    """The name under which the pods of a headless service are."""
    return f"{service}.{namespace}.svc.cluster.local"
