"""`coterie limits set|list|rm` and `coterie tenants set|list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.framework import DURATION, WHOLE, LeafCommand, WholeType
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.queueing import Limit, Tenant


@click.command("set", cls=LeafCommand)
@click.argument("limit_id", metavar="ID")
@click.option("--concurrent", type=WHOLE, default=0, help="Tasks at once.")
@click.option("--rate", type=WHOLE, default=0, help="Starts per --period.")
@click.option("--period", type=DURATION, default=0.0, help="E.g. 1s or 1m.")
@click.option("--burst", type=WHOLE, default=0, help="So many at once. 0: strictly the rate.")
@click.option("--calls", is_flag=True, help="It counts calls (`ctx.limit`), not starts of tasks.")
@click.option("--tenant", default="", help="Only of this tenant; '*': of each for itself.")
@click.option("--agent", default="", help="Likewise of an agent.")
@click.option("--type", "type", default="", help="Likewise of a skill.")
@click.option("--key", default="", help="Likewise of a key.")
@click.pass_obj
def set_limit(session: Session, /, limit_id: str, **options: Any) -> None:
    """Set the limit ID on the whole cluster.

    \b
    coterie limits set per-customer --key '*' --concurrent 2
    coterie limits set search --type search --rate 100 --period 1m
    coterie limits set api --calls --rate 600 --period 1m   (for ctx.limit("api"))
    """
    from coterie.client.queueing import Limit

    limit = Limit(id=limit_id, **options)

    async def work(cluster: Cluster) -> Limit:
        return await cluster.limits.set(limit)

    found = session.call(work)
    session.emit({"limit": found}, lambda out: _print_limits(out, [found]))


@click.command("list", cls=LeafCommand)
@click.pass_obj
def list_limits(session: Session) -> None:
    """List the limits."""

    async def work(cluster: Cluster) -> list[Limit]:
        return await cluster.limits.list()

    found = session.call(work)
    session.emit({"limits": found}, lambda out: _print_limits(out, found))


@click.command(cls=LeafCommand)
@click.argument("limit_id", metavar="ID")
@click.pass_obj
def remove(session: Session, limit_id: str) -> None:
    """Lift the limit ID."""

    async def work(cluster: Cluster) -> None:
        await cluster.limits.remove(limit_id)

    session.call(work)
    session.emit({"removed": limit_id}, lambda out: out.print(f"{limit_id} is lifted"))


@click.command("set", cls=LeafCommand)
@click.argument("name")
@click.option("--weight", type=WholeType(1), default=1, show_default=True, help="Share of slots.")
@click.option("--pending-max", type=WHOLE, default=0, help="Tasks that may wait. 0: the cluster's own share.")
@click.pass_obj
def set_tenant(session: Session, name: str, weight: int, pending_max: int) -> None:
    """Set what the tenant NAME may have of the cluster."""
    from coterie.client.queueing import Tenant

    async def work(cluster: Cluster) -> Tenant:
        return await cluster.limits.set_tenant(Tenant(name, weight, pending_max))

    found = session.call(work)
    session.emit({"tenant": found}, lambda out: _print_tenants(out, [found]))


@click.command("list", cls=LeafCommand)
@click.pass_obj
def list_tenants(session: Session) -> None:
    """List the tenants for which something is set."""

    async def work(cluster: Cluster) -> list[Tenant]:
        return await cluster.limits.tenants()

    found = session.call(work)
    session.emit({"tenants": found}, lambda out: _print_tenants(out, found))


def _print_limits(out: Console, limits: list[Limit]) -> None:
    from coterie.node.cli.output import table

    rows = [
        (one.id, one.tenant, one.agent, one.type, one.key, str(one.concurrent or "-"), _rate(one))
        for one in limits
    ]
    columns = ("LIMIT", "TENANT", "AGENT", "TYPE", "KEY", "AT ONCE", "RATE")
    out.print(table(columns, rows, right=("AT ONCE",)) if rows else "no limits")


def _rate(limit: Limit) -> str:
    if not limit.rate:
        return "-"
    burst = f", {limit.burst} at once" if limit.burst else ""
    return f"{limit.rate} per {limit.period} s{burst}"


def _print_tenants(out: Console, tenants: list[Tenant]) -> None:
    from coterie.node.cli.output import table

    rows = [(one.name, str(one.weight), str(one.pending_max or "-")) for one in tenants]
    out.print(table(("TENANT", "WEIGHT", "PENDING MAX"), rows) if rows else "no tenants")
