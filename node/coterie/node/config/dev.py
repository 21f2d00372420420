"""Clusters on loopback for trying, testing and showing: short timers, ports of their own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel

from coterie.node.config.model import ClusterConfig
from coterie.node.config.read import ENVIRONMENT, camel

FIRST_PORT = 7101
_LOOPBACK = "127.0.0.1"
_CONSENSUS = {"election_timeout": "250ms", "heartbeat_interval": "60ms"}
_HEALTH_CHECK = {"interval": "150ms", "timeout": "150ms", "unhealthy_threshold": 8}  # down after 1.2 s


def dev_config(
    nodes: int = 3,
    base_dir: Path = Path(".coterie-dev"),
    ports: Sequence[int] = (),
    *,
    tls: bool = True,
    capacity: int = 16,
    http_ports: Sequence[int] = (),
    skill_dirs: Sequence[Path] = (),
    hosts: Sequence[str] = (),
) -> ClusterConfig:
    """A cluster of `node-1`, `node-2` ... on 127.0.0.1 or on `hosts`, with timers for one machine.

    ports: one for each node; none: from FIRST_PORT on. http_ports: likewise, none: no HTTP. hosts: one for
    each node. Data goes to base_dir/data, certificates are expected in base_dir/tls, as coterie.node.tls
    makes them."""
    grpc_ports = list(ports) or list(range(FIRST_PORT, FIRST_PORT + nodes))
    if nodes < 1 or len(grpc_ports) != nodes or (http_ports and len(http_ports) != nodes):
        raise ValueError(f"{nodes} nodes need one port each, not {len(grpc_ports)} and {len(http_ports)}")
    entries: list[dict[str, object]] = [
        {"id": f"node-{number}", "host": host, "port": port, "capacity": capacity}
        for number, (host, port) in enumerate(zip(hosts or [_LOOPBACK] * nodes, grpc_ports, strict=True), 1)
    ]
    for entry, http_port in zip(entries, http_ports, strict=False):
        entry["http_port"] = http_port
    base = base_dir.absolute()
    security = {"tls": {"dir": base / "tls"}} if tls else {"allow_insecure_loopback": True}
    return ClusterConfig.model_validate(
        {
            "cluster": {"name": "coterie-dev", "nodes": entries, "consensus": _CONSENSUS},
            "fault_tolerance": {"health_check": _HEALTH_CHECK},
            "storage": {"dir": base / "data"},
            "security": security,
            "skills": {"dirs": [path.absolute() for path in skill_dirs]},
        }
    )


def without_places(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without what says where a cluster's data, addresses and certificates are: where it is
    set it means another cluster, and would be laid over the file of this one."""
    places = {name for name, path in ENVIRONMENT.items() if path[0] in ("storage", "listen", "security")}
    return {name: value for name, value in env.items() if name not in places}


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind((_LOOPBACK, 0))
        return [int(listener.getsockname()[1]) for listener in sockets]


def dump_config(config: ClusterConfig) -> str:
    """YAML that `load_config` reads back as the same configuration. Defaults are left out."""
    text: str = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
    return text


def _plain(section: BaseModel) -> dict[str, object]:
    shown = section.model_dump(mode="json", exclude_defaults=True)
    return {
        camel(name): _nested(getattr(section, name), shown[name])
        for name in type(section).model_fields
        if name in shown
    }


def _nested(value: object, shown: object) -> object:
    if isinstance(value, BaseModel):
        return _plain(value)
    if isinstance(value, tuple) and isinstance(shown, list):
        return [_nested(item, text) for item, text in zip(value, shown, strict=True)]
    return shown
