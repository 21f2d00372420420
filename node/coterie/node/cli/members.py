"""`coterie node list`, `add`, `remove`, `promote`, `move` and `resync`."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coterie.node.cli.failures import EXIT_REFUSED, CommandFailed, Failure, bad_input
from coterie.node.cli.framework import DURATION, LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.models import NodeInfo, Status
    from coterie.node.config import NodeSettings


@click.command("list", cls=LeafCommand)
@click.pass_obj
def list_members(session: Session) -> None:
    """List the nodes: who votes, who runs work without a vote, who is leaving."""

    async def work(cluster: Cluster) -> Status:
        return await cluster.get_status(stale=True)

    found = session.call(work)
    document = {"nodes": found.nodes, "voters": found.voters, "warnings": found.warnings}
    session.emit(document, lambda out: _print_members(out, found))


@click.command(cls=LeafCommand)
@click.argument("node")
@click.option("--address", required=True, metavar="HOST:PORT", help="Where the other nodes reach it.")
@click.pass_obj
def add(session: Session, node: str, address: str) -> None:
    """Make NODE a member of the running cluster.

    Start it with `join: true` in its entry of the cluster file, or with --join. It catches up, then votes
    unless maxVoters nodes do, and takes work."""

    async def work(cluster: Cluster) -> NodeInfo:
        return await cluster.add_node(node, address)

    found = session.call(work)
    text = f"{found.id} is a member at {found.address}; start it with --join and it catches up"
    session.emit({"node": found}, lambda out: out.print(text, soft_wrap=True))


@click.command(cls=LeafCommand)
@click.argument("node")
@click.option(
    "--deadline", type=DURATION, help="After it, running skills are stopped. Default: the cluster's own."
)
@click.option("--force", is_flag=True, help="Do not drain it: its work starts again elsewhere.")
@click.pass_obj
def remove(session: Session, node: str, deadline: float | None, force: bool) -> None:
    """Take NODE out for good: drain it, hand leadership over, remove it. Its process ends by itself.

    Waits until it is done; --timeout bounds that. `coterie undrain NODE` ends a removal that goes on."""

    async def work(cluster: Cluster) -> None:
        await cluster.remove_node(node, deadline=deadline, force=force, timeout=session.timeout)

    session.call(work, patient=True)
    session.emit({"removed": node}, lambda out: out.print(f"{node} is removed"))


@click.command(cls=LeafCommand)
@click.argument("node")
@click.pass_obj
def promote(session: Session, node: str) -> None:
    """Let NODE, a runner that has caught up, vote."""

    async def work(cluster: Cluster) -> NodeInfo:
        return await cluster.promote_node(node)

    found = session.call(work)
    session.emit({"node": found}, lambda out: out.print(f"{found.id} is a {found.role.lower()}"))


@click.command(cls=LeafCommand)
@click.argument("node")
@click.option("--address", required=True, metavar="HOST:PORT", help="Where the other nodes reach it now.")
@click.pass_obj
def move(session: Session, node: str, address: str) -> None:
    """Tell the others a new address of NODE. A node started at another address says so itself."""

    async def work(cluster: Cluster) -> NodeInfo:
        return await cluster.move_node(node, address)

    found = session.call(work)
    session.emit({"node": found}, lambda out: out.print(f"{found.id} is at {address}"))


@click.command(cls=LeafCommand)
@click.option(
    "--config",
    "configs",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Cluster file or directory of them, as for `node start`.",
)
@click.option(
    "--id", "node_id", default="", envvar="COTERIE_NODE_ID", help="Which node of it. COTERIE_NODE_ID."
)
@click.option("--insecure", is_flag=True, help="Allow plain text on loopback.")
@click.pass_obj
def resync(session: Session, configs: tuple[Path, ...], node_id: str, insecure: bool) -> None:
    """Give a node of this host a new data directory, to be filled by the others.

    For a data directory that is damaged, was wiped, or is refused. The node must be stopped. The old
    directory is put aside, nothing is deleted; the cluster forgets the old disk and takes the node in anew.
    Start the node afterwards as always."""
    settings = _settings(configs, node_id, insecure)
    moved = _resync(session, settings)
    place = f"the old data are in {moved.aside}; " if moved.aside else ""
    text = f"{settings.node_id}: {place}start it as always, and it fetches everything from the others"
    session.emit({"node": moved.node, "old_data": moved.aside}, lambda out: out.print(text, soft_wrap=True))


@dataclass(frozen=True, slots=True)
class _Moved:
    node: NodeInfo
    aside: Path | None


def _settings(configs: tuple[Path, ...], node_id: str, insecure: bool) -> NodeSettings:
    from coterie.node.config import load_config, node_settings

    config = load_config(configs, os.environ).config
    settings = node_settings(config, node_id, insecure=insecure, secrets=False)
    if not settings.peers:
        text = f"the file names no other node from which {settings.node_id} could fetch anything"
        raise bad_input("--config", text)
    return settings


def _resync(session: Session, settings: NodeSettings) -> _Moved:
    """The cluster is asked before anything is touched here; each step may be repeated."""
    from coterie.node.resync import check_stopped, put_aside
    from coterie.raft.errors import WrongDataDir

    if not session.endpoint:
        session.endpoint = ",".join(settings.peers.values())
    if settings.tls is not None and not session.tls_dir and not session.tls_ca:
        # The node's own certificate proves well enough who asks.
        paths = settings.tls
        session.tls_ca, session.tls_cert, session.tls_key = str(paths.ca), str(paths.cert), str(paths.key)
    session.insecure |= settings.tls is None

    async def work(cluster: Cluster) -> _Moved:
        await _forget_disk(cluster, settings.node_id)
        aside = put_aside(settings.data_dir)
        return _Moved(await cluster.add_node(settings.node_id, settings.advertise), aside)

    try:
        check_stopped(settings.data_dir)
        return session.call(work, patient=True)
    except WrongDataDir as error:
        failure = Failure(EXIT_REFUSED, "FAILED_PRECONDITION", f"stop the node first: {error}", "RUNNING")
        raise CommandFailed(failure) from error


async def _forget_disk(cluster: Cluster, node_id: str) -> None:
    """Take the node out, if it is in. Who is asked may lag, so what it lists decides nothing."""
    from coterie.client import NotFound, PermissionDenied

    try:
        await cluster.list_nodes()
    except PermissionDenied:  # to the certificate of a node that belongs to the cluster nothing is denied
        return
    with contextlib.suppress(NotFound):
        await cluster.remove_node(node_id, force=True)


def _print_members(out: Console, status: Status) -> None:
    from coterie.node.cli.output import nodes_table

    out.print(nodes_table(status.nodes))
    for warning in status.warnings:
        out.print(f"warning: {warning}", soft_wrap=True)
