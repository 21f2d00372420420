"""`coterie workflow apply|kept|rm`: workflows that the cluster keeps under a name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.framework import WHOLE, LeafCommand
from coterie.node.cli.runs import FILE
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.workflows import KeptWorkflow


@click.command(cls=LeafCommand)
@click.argument("file", type=FILE)
@click.option("--name", default="", help="Default: the name of the file.")
@click.option("--revision", type=WHOLE, default=0, help="The one it replaces. 0: any.")
@click.pass_obj
def apply(session: Session, file: Path, name: str, revision: int) -> None:
    """Keep the workflow in FILE in the cluster, for runs by name and for use inside other workflows."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise bad_input("FILE", f"{file}: {error}") from error

    async def work(cluster: Cluster) -> KeptWorkflow:
        return await cluster.workflows.apply(name or file.stem, text, revision=revision)

    kept = session.call(work)
    session.emit({"workflow": kept}, lambda out: out.print(f"{kept.name}: revision {kept.revision}"))


@click.command("kept", cls=LeafCommand)
@click.argument("name", required=False, default="")
@click.pass_obj
def kept(session: Session, name: str) -> None:
    """List the workflows that are kept, or show the text of one."""

    async def work(cluster: Cluster) -> list[KeptWorkflow]:
        return [await cluster.workflows.show(name)] if name else await cluster.workflows.list()

    found = session.call(work)
    if name:
        session.emit({"workflow": found[0]}, lambda out: click.echo(found[0].text))
    else:
        session.emit({"workflows": found}, lambda out: _print(out, found))


@click.command("rm", cls=LeafCommand)
@click.argument("name")
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Keep a workflow no longer. Its runs go on."""

    async def work(cluster: Cluster) -> None:
        await cluster.workflows.remove(name)

    session.call(work)
    session.emit({"removed": name}, lambda out: out.print(f"{name} is removed"))


def _print(out: Console, found: list[KeptWorkflow]) -> None:
    from coterie.node.cli.output import table
    from coterie.node.cli.text import ago

    rows = [(one.name, str(one.revision), ago(one.applied)) for one in found]
    out.print(table(("NAME", "REVISION", "APPLIED"), rows, right=("REVISION",)) if rows else "none is kept")
