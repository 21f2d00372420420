"""`coterie dlq list|show|replay|purge`."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.framework import DURATION, LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.models import TaskInfo

LIST_MAX: Final = 100_000
PAGE_MAX: Final = 1_000


@click.command("list", cls=LeafCommand)
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True)
@click.pass_obj
def list_letters(session: Session, limit: int) -> None:
    """List the tasks the cluster has given up, newest first."""

    async def work(cluster: Cluster) -> list[TaskInfo]:
        listing = cluster.dead_letters.list(limit=limit, page_size=min(limit, PAGE_MAX))
        async with aclosing(listing) as found:
            return [task async for task in found]

    found = session.call(work)
    session.emit({"tasks": found}, lambda out: _print_list(out, found))


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.pass_obj
def show(session: Session, task_id: str) -> None:
    """Show a dead letter: its error, its completed steps, the nodes on which it crashed."""

    async def work(cluster: Cluster) -> TaskInfo:
        return await cluster.dead_letters.get(task_id)

    task = session.call(work)
    session.emit({"task": task}, lambda out: _print_letter(out, task))


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.option("--discard-steps", is_flag=True, help="The new run starts from zero.")
@click.option("--request-id", default="", help="Idempotency key: the same key gives the same new run.")
@click.pass_obj
def replay(session: Session, task_id: str, discard_steps: bool, request_id: str) -> None:
    """Run a dead letter again as a new task, and print the new id. It leaves the list."""

    async def work(cluster: Cluster) -> TaskInfo:
        letters = cluster.dead_letters
        job = await letters.replay(task_id, discard_steps=discard_steps, request_id=request_id)
        return job.task or await job.get()

    task = session.call(work)
    session.emit({"task": task}, lambda out: click.echo(task.id))


@click.command(cls=LeafCommand)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--older-than", type=DURATION, help="All that ended longer ago, instead of IDs. 0s: all.")
@click.pass_obj
def purge(session: Session, task_ids: tuple[str, ...], older_than: float | None) -> None:
    """Throw dead letters away: those named, or with --older-than all that old. The history keeps them."""
    if bool(task_ids) == (older_than is not None):
        raise bad_input("--older-than", "give ids, or --older-than: one of the two")
    before = None if older_than is None else datetime.now(UTC) - timedelta(seconds=older_than)

    async def work(cluster: Cluster) -> int:
        return await cluster.dead_letters.purge(task_ids, before=before)

    purged = session.call(work)
    session.emit({"purged": purged}, lambda out: out.print(f"{purged} purged"))


def _print_list(out: Console, found: list[TaskInfo]) -> None:
    from coterie.node.cli.output import tasks_table

    out.print(tasks_table(found) if found else "no dead letters")


def _print_letter(out: Console, task: TaskInfo) -> None:
    from coterie.node.cli.output import facts, steps_table, task_facts

    out.print(task_facts(task))
    out.print(facts([("crashed on", ", ".join(task.crashed_on))]))
    if task.steps:
        out.print()
        out.print(steps_table(task))
