"""`coterie status`, `nodes`, `drain`, `undrain` and `leader transfer`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import click

from coterie.node.cli.failures import (
    EXIT_REFUSED,
    EXIT_TIMEOUT,
    EXIT_UNAVAILABLE,
    CommandFailed,
    Failure,
    bad_input,
)
from coterie.node.cli.framework import DURATION, LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.models import NodeInfo, Status

DRAIN_POLL_S: Final = 0.25


@click.command(cls=LeafCommand)
@click.option("--watch", is_flag=True, help="A live table, until Ctrl-C.")
@click.option(
    "--interval", type=DURATION, default="1s", show_default=True, help="Between two looks, with --watch."
)
@click.pass_obj
def status(session: Session, watch: bool, interval: float) -> None:
    """The cluster: leader, quorum, log, nodes, queue.

    Without a quorum: what one node still knows, and exit code 3."""
    if watch and session.json:
        raise bad_input("--watch", "does not go with --json, which is one document; call status repeatedly")
    if watch:
        from coterie.node.cli.live import watch_status

        session.call(lambda cluster: watch_status(cluster, max(interval, 0.1)), patient=True)
        return
    from coterie.node.cli.reading import LINEARIZABLE_S, read_status

    found = session.call(lambda cluster: read_status(cluster, LINEARIZABLE_S))
    if found.has_quorum:
        session.emit({"status": found}, lambda out: _print_status(out, found))
        return
    if not session.json:
        from coterie.node.cli.output import console

        _print_status(console(), found)
    text = f"no quorum: {found.served_by} reaches no majority of the {found.total_nodes} nodes; start more"
    raise CommandFailed(Failure(EXIT_UNAVAILABLE, "UNAVAILABLE", text, "NO_QUORUM", facts={"status": found}))


@click.command(cls=LeafCommand)
@click.pass_obj
def nodes(session: Session) -> None:
    """List the nodes, those that are down included."""

    async def work(cluster: Cluster) -> list[NodeInfo]:
        return await cluster.list_nodes()

    found = session.call(work)
    session.emit({"nodes": found}, lambda out: _print_nodes(out, found))


@click.command(cls=LeafCommand)
@click.argument("node")
@click.option(
    "--deadline", type=DURATION, help="After it, running skills are stopped. Default: the cluster's own."
)
@click.option("--wait", is_flag=True, help="Stay until the node is empty; --timeout bounds it.")
@click.pass_obj
def drain(session: Session, node: str, deadline: float | None, wait: bool) -> None:
    """Empty NODE before maintenance.

    It gets no new work, running tasks checkpoint and move, leadership goes elsewhere."""

    async def work(cluster: Cluster) -> NodeInfo:
        found = await cluster.drain_node(node, deadline=deadline)
        return await _drained(session, cluster, found) if wait else found

    _emit_node(session, session.call(work, patient=wait))


@click.command(cls=LeafCommand)
@click.argument("node")
@click.pass_obj
def undrain(session: Session, node: str) -> None:
    """Let a drained or draining NODE take work again."""

    async def work(cluster: Cluster) -> NodeInfo:
        return await cluster.undrain_node(node)

    _emit_node(session, session.call(work))


@click.command(cls=LeafCommand)
@click.argument("node", required=False)
@click.pass_obj
def transfer(session: Session, node: str | None) -> None:
    """Move leadership to NODE, or to the most up-to-date follower."""

    async def work(cluster: Cluster) -> str:
        return await cluster.transfer_leadership(node)

    leader = session.call(work)
    session.emit({"leader": leader}, lambda out: out.print(f"leader {leader}"))


async def _drained(session: Session, cluster: Cluster, node: NodeInfo) -> NodeInfo:
    try:
        async with asyncio.timeout(session.timeout) as scope:
            while not _is_empty(node):
                await asyncio.sleep(DRAIN_POLL_S)
                node = await _listed(cluster, node.id)
    except TimeoutError as error:
        if not scope.expired():
            raise
        text = (
            f"{node.id} is {node.state} with {node.running} running after {session.timeout:g} s; it goes on"
        )
        raise CommandFailed(
            Failure(EXIT_TIMEOUT, "DEADLINE_EXCEEDED", text, "WAIT_TIMEOUT", facts={"node": node})
        ) from error
    return node


def _is_empty(node: NodeInfo) -> bool:
    """What a node had that died while it was drained runs elsewhere."""
    return node.state == "DRAINED" or (node.state == "DOWN" and not node.running)


async def _listed(cluster: Cluster, node_id: str) -> NodeInfo:
    found = next((node for node in await cluster.list_nodes() if node.id == node_id), None)
    if found is None:
        text = f"{node_id} is no member any more: it was removed meanwhile"
        raise CommandFailed(Failure(EXIT_REFUSED, "NOT_FOUND", text, "NODE_NOT_FOUND"))
    return found


def _emit_node(session: Session, node: NodeInfo) -> None:
    text = f"{node.id}: {node.state}, {node.running} running"
    session.emit({"node": node}, lambda out: out.print(text))


def _print_status(out: Console, status: Status) -> None:
    from coterie.node.cli.output import nodes_table, status_lines

    for line in status_lines(status):
        out.print(line, soft_wrap=True)
    out.print()
    out.print(nodes_table(status.nodes))


def _print_nodes(out: Console, nodes: list[NodeInfo]) -> None:
    from coterie.node.cli.output import nodes_table

    out.print(nodes_table(nodes))
