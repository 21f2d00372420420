"""Where the cluster is and how to talk to it: from arguments, a config file, or the environment."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from coterie.client.bearer import checked
from coterie.client.constraints import unknown_key
from coterie.client.errors import ConfigError
from coterie.client.names import DnsName

ENDPOINT_ENV = "COTERIE_ENDPOINT"
CA_ENV, CERT_ENV, KEY_ENV = "COTERIE_TLS_CA", "COTERIE_TLS_CERT", "COTERIE_TLS_KEY"
DIR_ENV = "COTERIE_TLS_DIR"
_DEFAULT_PORT = 8080
_ENDPOINTS_MAX = 256
_CONFIG_BYTES_MAX = 1024 * 1024
_CLIENT_KEYS = ("endpoints", "tls", "insecure", "tenant", "auto_discovery")
_SRV = "srv:"
_NAME_CHARS_MAX = 253
_TLS_KEYS = ("ca", "cert", "key", "server_name")


@dataclass(frozen=True, slots=True)
class TLS:
    """Files for TLS: `ca` proves the nodes, `cert` and `key` prove this client (mutual TLS).

    `server_name` is the name to expect in the nodes' certificates when it is not their address.
    """

    ca: str | Path
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    @classmethod
    def of(cls, directory: str | Path) -> TLS:
        """The files of a directory that `coterie tls init` or `coterie dev` has made."""
        return tls_in(Path(directory))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to try, all in seconds.

    - `call`: one call in all, its retries included.
    - `attempt`: one try at one node, so that a stopped node costs no more than this.
    - `outage`: how long a `wait` or `watch` goes on without any node answering it.
    - `stream_silence`: a watch without any message for this long (heartbeats count) moves on.
    - `probe`: how often the stream of waits asks its node whether it still answers.
    - `discovery`: how often the members are asked for.
    """

    call: float = 60.0
    attempt: float = 5.0
    outage: float = 300.0
    stream_silence: float = 12.0
    probe: float = 2.0
    discovery: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < 1e9:
                raise ConfigError(f"timeouts.{name}={value!r}: give seconds above zero")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything Cluster needs to know; the product of `resolve`."""

    endpoints: tuple[str, ...]
    names: tuple[DnsName, ...]
    tls: TLS | None
    insecure: bool
    auto_discovery: bool
    tenant: str
    token: str = field(default="", repr=False)

    @property
    def has_no_certificate(self) -> bool:
        """Over TLS, and known by a token at most."""
        return self.tls is not None and self.tls.cert is None

    def allows(self, address: str) -> bool:
        """Whether an address may be used: without TLS only loopback, unless `insecure` says otherwise."""
        return self.tls is not None or self.insecure or is_loopback(address)


def resolve(
    endpoints: str | Sequence[str] | None,
    config_path: str | Path | None,
    tls: TLS | None,
    *,
    insecure: bool,
    auto_discovery: bool,
    tenant: str,
    token: str = "",
) -> Settings:
    """Settings from arguments first, then the config file, then the environment.

    Raises ConfigError: no endpoint, an unusable one, a bad file, or plain text beyond loopback.
    """
    file = load_config(Path(config_path)) if config_path is not None else {}
    given = endpoints or file.get("endpoints") or os.environ.get(ENDPOINT_ENV) or []
    addresses, services = split_endpoints(given)
    names = services or (() if endpoints else file.get("names", ()))
    if not addresses and not names:
        raise ConfigError(
            f'no endpoint is given: Cluster("host:port,host:port"), config_path=..., or {ENDPOINT_ENV}'
        )
    settings = Settings(
        endpoints=addresses,
        names=names,
        # Who says insecure=True wants plain text, whatever the environment holds for other programs.
        tls=tls or file.get("tls") or (None if insecure else _tls_from_env()),
        insecure=insecure or file.get("insecure", False),
        auto_discovery=auto_discovery and file.get("auto_discovery", True),
        tenant=tenant if tenant != "default" else file.get("tenant", tenant),
        token=checked(token) if token else "",
    )
    if not settings.tenant or "/" in settings.tenant:
        raise ConfigError(f"tenant={settings.tenant!r}: give a name without '/'")
    if settings.token and settings.tls is None:
        raise ConfigError("token: is never sent in plain text: pass tls=TLS(ca=...) too")
    refused = [address for address in addresses if not settings.allows(address)]
    if refused:
        raise ConfigError(
            f"plain text to {', '.join(refused)} is refused: pass tls=TLS(ca=...), "
            "or insecure=True if the network in between is trusted"
        )
    return settings


def split_endpoints(given: str | Sequence[str]) -> tuple[tuple[str, ...], tuple[DnsName, ...]]:
    """The host:port addresses, and the names of "srv:_coterie._tcp.example.org". Raises ConfigError."""
    items = _items(given)
    services = [item for item in items if item.startswith(_SRV)]
    names = tuple(DnsName(item.removeprefix(_SRV)) for item in services)
    for name in names:
        if not name.is_service or "/" in name.name or len(name.name) > _NAME_CHARS_MAX:
            raise ConfigError(f"endpoint {_SRV}{name.name!r}: write srv:_service._tcp.domain")
    return parse_endpoints([item for item in items if item not in services]), names


def parse_endpoints(given: str | Sequence[str]) -> tuple[str, ...]:
    """Distinct host:port addresses from "h1:p,h2:p" or a list, in order. IPv6 is written [::1]:8080."""
    addresses = _items(given)
    if len(addresses) > _ENDPOINTS_MAX:
        raise ConfigError(f"{len(addresses)} endpoints are given: at most {_ENDPOINTS_MAX} make sense")
    for address in addresses:
        host, _, port = address.rpartition(":")
        # No more digits than a port has: longer ones Python may refuse to read.
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
            raise ConfigError(f"endpoint {address!r}: write host:port, e.g. 127.0.0.1:8080")
        if _is_ipv6(host) or _is_ipv6(address) or host.startswith("[") != host.endswith("]"):
            # Else it would be dialled as an address without a port, and not the one it looks like.
            raise ConfigError(f"endpoint {address!r}: write an IPv6 address in brackets, e.g. [::1]:8080")
    return addresses


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _items(given: str | Sequence[str]) -> tuple[str, ...]:
    """Distinct, in order."""
    if not isinstance(given, str) and not all(isinstance(item, str) for item in given):
        raise ConfigError(f"endpoints={given!r}: give texts such as 'host:8080'")
    items = given.split(",") if isinstance(given, str) else given
    return tuple(dict.fromkeys(item.strip() for item in items if item.strip()))


def is_loopback(address: str) -> bool:
    """True when host:port is this very machine."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def credentials(tls: TLS) -> grpc.ChannelCredentials:
    """Channel credentials from the files of `tls`. ConfigError names a file that cannot be read."""
    if (tls.cert is None) != (tls.key is None):
        raise ConfigError("TLS needs cert and key together: one of them is missing")
    return grpc.ssl_channel_credentials(
        root_certificates=_read_pem(tls.ca, "ca"),
        private_key=_read_pem(tls.key, "key") if tls.key is not None else None,
        certificate_chain=_read_pem(tls.cert, "cert") if tls.cert is not None else None,
    )


def load_config(path: Path) -> dict[str, Any]:
    """The client's part of a config file: a client file (keys `endpoints`, `tls`, `tenant`, ...) or a
    cluster file (`cluster.nodes`, `listen`, `security.tls`). JSON, or YAML when PyYAML is installed."""
    document = _parse(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a mapping with the key 'endpoints' or 'cluster' is expected")
    read = _from_cluster_file if "cluster" in document else _from_client_file
    found = read(document, path)
    if not found.get("endpoints") and not found.get("names"):
        raise ConfigError(f"{path}: no endpoint found: give 'endpoints' or 'cluster.nodes[].host'")
    return found


def _from_client_file(document: dict[str, Any], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for raw_key, value in document.items():
        key = _snake(str(raw_key))
        if key not in _CLIENT_KEYS:
            raise ConfigError(f"{path}: {raw_key}: {unknown_key(str(raw_key), _CLIENT_KEYS)}")
        wanted = bool if key in ("insecure", "auto_discovery") else str if key == "tenant" else object
        if not isinstance(value, wanted):
            raise ConfigError(f"{path}: {raw_key}={value!r}: a {wanted.__name__} is expected")
        found[key] = _client_tls(value, path) if key == "tls" else value
    endpoints = found.get("endpoints")
    if not isinstance(endpoints, str | list | None):
        raise ConfigError(f"{path}: endpoints={endpoints!r}: give a list of host:port")
    return found


def _from_cluster_file(document: dict[str, Any], path: Path) -> dict[str, Any]:
    # Only what a client needs is read here; the nodes check the file in full.
    cluster = _mapping(document.get("cluster"), path, "cluster")
    listen = _mapping(document.get("listen") or {}, path, "listen")
    grpc_listen = str(listen.get("grpc", f":{_DEFAULT_PORT}"))
    default_port = grpc_listen.rpartition(":")[2]
    nodes = cluster.get("nodes") or []
    if not isinstance(nodes, list):
        raise ConfigError(f"{path}: cluster.nodes: a list is expected")
    addresses = [
        _node_address(_mapping(node, path, f"cluster.nodes[{index}]"), default_port)
        for index, node in enumerate(nodes)
    ]
    found: dict[str, Any] = {"endpoints": [address for address in addresses if address]}
    discovery = _mapping(cluster.get("discovery") or {}, path, "cluster.discovery")
    if name := _discovery_name(discovery):
        server = str(discovery.get("nameserver") or "")
        found["names"] = (DnsName(name, _port(discovery.get("port") or default_port, path), server),)
    security = _mapping(document.get("security") or {}, path, "security")
    if security.get("tls"):
        found["tls"] = _tls(security["tls"], path)
    return found


def _port(value: Any, path: Path) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > len("65535") or not 0 < int(text) < 65536:
        raise ConfigError(f"{path}: cluster.discovery.port: {text[:40]!r} is no port")
    return int(text)


def _discovery_name(discovery: Mapping[str, Any]) -> str:
    """The name to look up; "" where the nodes are listed."""
    match discovery.get("method"):
        case "dns":
            return str(discovery.get("name") or "")
        case "k8s":
            return kubernetes_name(
                str(discovery.get("service") or ""), str(discovery.get("namespace") or "default")
            )
    return ""


def kubernetes_name(service: str, namespace: str) -> str:
    """The name under which the pods of a headless service are."""
    return f"{service}.{namespace}.svc.cluster.local"


def _node_address(node: Mapping[str, Any], default_port: str) -> str:
    host = str(node.get("host") or "")
    if not host:
        return ""
    port = node.get("port") or node.get("grpcPort") or node.get("grpc_port") or default_port
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{bracketed}:{port}"


def _client_tls(value: Any, path: Path) -> TLS:
    for key in _mapping(value, path, "tls"):
        if _snake(str(key)) not in ("dir", *_TLS_KEYS):
            raise ConfigError(f"{path}: tls.{key}: {unknown_key(str(key), ('dir', *_TLS_KEYS))}")
    return _tls(value, path)


def _tls(value: Any, path: Path) -> TLS:
    """Of a cluster file, too: the nodes check that one, and may know keys that this client does not."""
    section = _mapping(value, path, "tls")
    if section.get("dir") is not None:
        return tls_in(path.parent / str(section["dir"]))
    known: dict[str, Any] = {}
    for key, item in section.items():
        if _snake(str(key)) in _TLS_KEYS and item is not None:
            known[_snake(str(key))] = str(item)
    if "ca" not in known:
        raise ConfigError(
            f"{path}: tls.ca is missing: the file of the CA that signed the nodes' certificates"
        )
    for key in ("ca", "cert", "key"):
        if key in known:
            # Paths in a file are meant relative to it, wherever the program is started.
            known[key] = path.parent / known[key]
    return TLS(**known)


def tls_in(directory: Path) -> TLS:
    """The authority and the user's certificate in a directory that `coterie tls init` has made. Raises
    ConfigError where several users have one there."""
    users = sorted(directory.glob("user.*.crt"))
    admin = directory / "user.admin.crt"
    if len(users) > 1 and admin not in users:
        names = ", ".join(path.name for path in users)
        raise ConfigError(f"{directory}: holds {names}; choose with tls=TLS(ca=..., cert=..., key=...)")
    if not users:
        return TLS(ca=directory / "ca.crt")
    cert = admin if admin in users else users[0]
    return TLS(ca=directory / "ca.crt", cert=cert, key=cert.with_suffix(".key"))


def _tls_from_env() -> TLS | None:
    ca, directory = os.environ.get(CA_ENV), os.environ.get(DIR_ENV)
    if not ca:
        return TLS.of(directory) if directory else None
    return TLS(ca=ca, cert=os.environ.get(CERT_ENV) or None, key=os.environ.get(KEY_ENV) or None)


def _parse(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            text = file.read(_CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(text) > _CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {_CONFIG_BYTES_MAX} bytes: this is no config file")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix == ".json":
            raise ConfigError(f"{path}: not JSON: {error}") from error
    return _parse_yaml(text, path)


def _parse_yaml(text: bytes, path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ConfigError(
            f"{path}: reading YAML needs PyYAML: pip install pyyaml, or write the same content as JSON"
        ) from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def _mapping(value: Any, path: Path, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {name}: a mapping is expected")
    return value


def _read_pem(path: str | Path, name: str) -> bytes:
    """gRPC would say of what is no such file only that no node can be reached."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"TLS {name} file {path}: {error.strerror or error}") from error
    wanted = "PRIVATE KEY" if name == "key" else "CERTIFICATE"
    if f"{wanted}-----".encode() not in data:
        raise ConfigError(f"TLS {name} file {path}: holds no {wanted} in PEM")
    if name == "key" and b"ENCRYPTED" in data:
        raise ConfigError(f"TLS {name} file {path}: has a password; give one without")
    return data


def _snake(key: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in key)
