"""`coterie history` and `coterie story`: what happened to a task or a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.debugger import History

FORMATS = ("text", "json", "mermaid", "gantt")


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="RUN")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--tasks", "tasks_max", type=click.IntRange(1, 2_000), default=500, show_default=True)
@click.pass_obj
def history(session: Session, task_id: str, form: str, tasks_max: int) -> None:
    """Show what happened to RUN, a task or a run of a workflow, and to all tasks below it.

    \b
    coterie history j1                      what happened when, on which node, and why it moved
    coterie history j1 --format mermaid     a flowchart of a run, the sequence of any other task
    coterie history j1 --format gantt       attempts as bars
    """
    session.json = session.json or form == "json"
    wanted: Any = "" if form == "json" else form

    async def work(cluster: Cluster) -> History:
        return await cluster.debugger.history(task_id, format=wanted, tasks_max=tasks_max)

    found = session.call(work)
    session.emit({"history": found}, lambda out: draw(out, found.drawing))


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="RUN")
@click.pass_obj
def story(session: Session, task_id: str) -> None:
    """Tell what happened to RUN in plain sentences, from the history alone."""

    async def work(cluster: Cluster) -> str:
        return await cluster.debugger.story(task_id)

    told = session.call(work)
    session.emit({"story": told}, lambda out: draw(out, told))


def draw(out: Console, text: str) -> None:
    """As it is: nothing in it is markup, and no line is wrapped."""
    out.print(text, end="", soft_wrap=True, markup=False, highlight=False)
