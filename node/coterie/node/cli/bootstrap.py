"""`coterie token bootstrap`: the first admin token, made on the host of a node that will know it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session


@click.command(cls=LeafCommand)
@click.option("--config", "configs", multiple=True, type=click.Path(path_type=Path), help="Cluster file.")
@click.option("--id", "node_id", default="", help="Which node of it this host runs.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="The node's own data directory, instead.")
@click.pass_obj
def bootstrap(session: Session, configs: tuple[Path, ...], node_id: str, data_dir: Path | None) -> None:
    """Make a node's bootstrap token: a file in its data directory, which this node alone accepts.

    Whoever can read the file is admin at that node, so make a real token with it and delete it:

    \b
    coterie token bootstrap --config cluster.yaml --id node-1
    coterie --endpoint node-1:8080 --tls-ca ca.crt --tls-cert node-1.crt --tls-key node-1.key \\
        --token data/node-1/bootstrap.token token create --role admin --out admin.token
    rm data/node-1/bootstrap.token

    On the port of nodes a certificate is needed too: that of the node lies on its host. Where the node has
    a clientsPort, --tls-ca is enough there.
    """
    from coterie.node.config.secret_files import BOOTSTRAP_FILE, SecretFileError, write_secret
    from coterie.node.security.tokens import BOOTSTRAP, mint

    path = (data_dir or _data_dir(configs, node_id)) / BOOTSTRAP_FILE
    try:
        write_secret(path, mint(BOOTSTRAP))
    except SecretFileError as error:
        raise bad_input("--data-dir", str(error)) from error
    session.emit({"file": path}, lambda out: out.print(f"{path}: admin at this node; delete it after use"))


def _data_dir(configs: tuple[Path, ...], node_id: str) -> Path:
    if not configs:
        raise bad_input("--config", "is missing; give the cluster file and --id, or --data-dir")
    from coterie.node.config import load_config

    config = load_config(configs, os.environ).config
    entry = config.node(node_id) if node_id or len(config.node_ids) != 1 else config.cluster.nodes[0]
    if entry is None:
        raise bad_input("--id", f"{node_id!r} is none of {', '.join(config.node_ids)}")
    return config.storage.dir.absolute() / entry.id
