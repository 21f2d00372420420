"""`coterie history|story|replay|fork`: what happened to a run, and another run from a point of it on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.framework import INT32_MAX, LeafCommand, WholeType
from coterie.node.cli.session import Session
from coterie.node.cli.submit import LabelType

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.debugger import History
    from coterie.client.models import TaskInfo

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


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="RUN")
@click.option("--until", type=WholeType(1, INT32_MAX), default=None, help="Stop after so many events.")
@click.pass_obj
def replay(session: Session, task_id: str, until: int | None) -> None:
    """Recompute the states of RUN and of all below it from their events, one by one.

    Nothing is run. In the end it says whether what was recorded of the end follows from the events, or the
    first difference. --until shows where things stood after so many events.
    """

    async def work(cluster: Cluster) -> History:
        return await cluster.debugger.history(task_id, format="replay", until=until or 0)

    found = session.call(work)
    session.emit({"replay": found.drawing.splitlines()}, lambda out: draw(out, found.drawing))


@click.command(cls=LeafCommand)
@click.argument("point", metavar="RUN@POINT")
@click.option(
    "--set", "changes", type=LabelType(), multiple=True, help="var=VALUE; JSON or text. Repeatable."
)
@click.option("--request-id", default="", help="Idempotency key: the same key gives the same fork.")
@click.option("--wait", is_flag=True, help="Wait for its end, and print its result.")
@click.pass_obj
def fork(
    session: Session, point: str, changes: tuple[tuple[str, str], ...], request_id: str, wait: bool
) -> None:
    """Begin a new run that goes on from a node of RUN, or a new task from a step of a task.

    What was completed before that point is kept, and no model is paid again for it.

    \b
    coterie fork j1@report --set audience=experts
    coterie fork j2@llm#3
    """
    task_id, found, at = point.partition("@")
    if not (task_id and found and at):
        raise bad_input(
            "RUN@POINT", f"{point!r}: name the run and its node, or the task and its step: j1@report"
        )
    values = read_changes(changes)

    async def work(cluster: Cluster) -> tuple[TaskInfo, Any]:
        job = await cluster.debugger.fork(task_id, at, values, request_id=request_id)
        result = await job.wait(timeout=session.timeout) if wait else None
        return await job.get(), result

    task, result = session.call(work, patient=wait)

    def human(out: Console) -> None:
        from coterie.node.cli.output import print_result

        out.print(task.id)
        if wait:
            print_result(out, result)

    session.emit({"task": task, "result": result}, human)


def read_changes(changes: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Values by the names of variables: JSON where it is, else text."""
    values: dict[str, Any] = {}
    for name, text in changes:
        if name in values:
            raise bad_input("--set", f"{name} is given twice; give it once")
        try:
            values[name] = json.loads(text)
        except (ValueError, RecursionError):
            values[name] = text
    return values


def draw(out: Console, text: str) -> None:
    """As it is: nothing in it is markup, and no line is wrapped."""
    out.print(text, end="", soft_wrap=True, markup=False, highlight=False)
