"""The cluster file of a local cluster: its addresses, quick failure detection, fresh certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from coterie.node.config.dev import dev_config, dump_config
from coterie.node.config.settings import TlsPaths

CONFIG_FILE = "cluster.yaml"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`: maps are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both_maps = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both_maps else value  # type: ignore[arg-type]
    return merged


def write_config(
    base_dir: Path,
    addresses: Sequence[str],
    tls: bool,
    capacity: int,
    options: Mapping[str, Any],
) -> Path:
    """Write the cluster file all nodes of `addresses` share. Returns its path.

    In `options`, `cluster.nodes` may be a map: it is laid upon the entries of the nodes, by id."""
    hosts = [address.rpartition(":")[0] for address in addresses]
    ports = [int(address.rpartition(":")[2]) for address in addresses]
    defaults = dump_config(dev_config(len(ports), base_dir, ports, tls=tls, capacity=capacity, hosts=hosts))
    base = yaml.safe_load(defaults)
    entries = {entry["id"]: entry for entry in base["cluster"]["nodes"]}
    document = merge(merge(base, {"cluster": {"nodes": entries}}), options)
    if isinstance(document["cluster"]["nodes"], Mapping):
        document["cluster"]["nodes"] = list(document["cluster"]["nodes"].values())
    path = base_dir / CONFIG_FILE
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def make_tls(tls_dir: Path, node_ids: list[str], hosts: Sequence[str] = ()) -> TlsPaths:
    """An authority, a certificate for each node, good on loopback and on `hosts`, and one for the client,
    whose files are returned."""
    from coterie.node.tls import init_tls

    return init_tls(tls_dir, node_ids, hosts=["127.0.0.1", "localhost", *hosts])
