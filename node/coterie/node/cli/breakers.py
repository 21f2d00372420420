"""`coterie breakers list|reset`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.breakers import Breaker
    from coterie.client.cluster import Cluster


@click.command("list", cls=LeafCommand)
@click.pass_obj
def list_breakers(session: Session) -> None:
    """List the circuit breakers that have been open, with what opened them."""

    async def work(cluster: Cluster) -> list[Breaker]:
        return await cluster.breakers.list()

    found = session.call(work)
    session.emit({"breakers": found}, lambda out: _print(out, found))


@click.command(cls=LeafCommand)
@click.argument("key")
@click.pass_obj
def reset(session: Session, key: str) -> None:
    """Close the breaker KEY now, such as node:node-02 or skill:render@node-02."""

    async def work(cluster: Cluster) -> Breaker:
        return await cluster.breakers.reset(key)

    found = session.call(work)
    session.emit({"breaker": found}, lambda out: _print(out, [found]))


def _print(out: Console, breakers: list[Breaker]) -> None:
    from coterie.node.cli.output import table

    rows = [(one.key, one.state, _until(one), str(one.opened), one.reason) for one in breakers]
    columns = ("BREAKER", "STATE", "PROBES FROM", "OPENED", "REASON")
    out.print(table(columns, rows, right=("OPENED",)) if rows else "no breaker has been open")


def _until(breaker: Breaker) -> str:
    if breaker.state == "OPEN" and breaker.until is not None:
        return breaker.until.strftime("%H:%M:%S")
    return f"{breaker.passed} passed, {breaker.probes} on their way" if breaker.state == "HALF_OPEN" else "-"
