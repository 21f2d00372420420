"""`coterie tls init`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.node.config import ClusterConfig


@click.command(cls=LeafCommand)
@click.option(
    "--config",
    "configs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Cluster file that names the nodes and their hosts.",
)
@click.option("--nodes", default="", metavar="A,B,C", help="Node ids, when there is no cluster file.")
@click.option(
    "--hosts", default="", metavar="H1,H2", help="Names and addresses at which the nodes are called."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Directory for the files.")
@click.option("--user", default="admin", show_default=True, help="Whose client certificate is made.")
@click.pass_obj
def init(
    session: Session, configs: tuple[Path, ...], nodes: str, hosts: str, out: Path | None, user: str
) -> None:
    """Make an authority, a certificate for each node, and one for a user.

    An authority that is already in the directory is used again; certificates are made anew. Keep ca.key off
    the nodes: whoever has it can let anybody in."""
    from coterie.node.tls import CA_CERT, init_tls, node_paths

    node_ids, names, directory = _plan(configs, _listed(nodes), _listed(hosts), out)
    renewed = (directory / CA_CERT).exists()
    paths = init_tls(directory, node_ids, names, user)
    certificates = {node_id: node_paths(directory, node_id).cert for node_id in node_ids}
    document = {
        "directory": directory,
        "authority_was_there": renewed,
        "ca": paths.ca,
        "nodes": certificates,
        "client": {"cert": paths.cert, "key": paths.key},
    }
    session.emit(document, lambda console: _print(console, directory, node_ids, user, renewed))


def _plan(
    configs: Sequence[Path], node_ids: list[str], hosts: list[str], out: Path | None
) -> tuple[list[str], Sequence[str] | Mapping[str, Sequence[str]], Path]:
    if bool(configs) == bool(node_ids):
        raise bad_input("--nodes", "give either --nodes A,B,C or --config FILE, so that it is known for whom")
    if len(set(node_ids)) != len(node_ids):
        raise bad_input("--nodes", f"{','.join(node_ids)} names a node twice; give each id once")
    if not configs:
        if out is None:
            raise bad_input("--out", "is missing; give the directory for the files")
        return node_ids, hosts, out
    from coterie.node.config import load_config

    config = load_config(configs, os.environ).config
    by_node = {entry.id: [str(entry.host), *hosts] for entry in config.cluster.nodes}
    if not by_node:
        raise bad_input("--config", "the file names no nodes; add cluster.nodes, or give --nodes A,B,C")
    directory = out or _configured(config)
    if directory is None:
        raise bad_input("--out", "is missing, and the file has no security.tls.dir; give a directory")
    return list(by_node), by_node, directory


def _configured(config: ClusterConfig) -> Path | None:
    section = config.security.tls
    return section.dir if section else None


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _print(out: Console, directory: Path, node_ids: list[str], user: str, renewed: bool) -> None:
    authority = "the authority that was there" if renewed else "a new authority"
    files = ", ".join(f"{node_id}.crt" for node_id in node_ids)
    out.print(f"{directory}: {authority}; made {files}, user.{user}.crt and their keys", soft_wrap=True)
    out.print(f"nodes:  security: {{tls: {{dir: {directory}}}}}", soft_wrap=True)
    out.print(f"client: coterie --tls-dir {directory} …, or COTERIE_TLS_DIR", soft_wrap=True)
