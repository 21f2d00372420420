"""`coterie tasks` and `coterie task show|wait|watch|cancel`."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import click

from coterie.node.cli.failures import CommandFailed, of_task
from coterie.node.cli.following import follow, print_end, watch_events
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.models import Event, TaskInfo

STATES: Final = (
    "PENDING",
    "SCHEDULED",
    "RUNNING",
    "WAITING",
    "PAUSED",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
    "TIMED_OUT",
    "DEAD_LETTERED",
)
LIST_MAX: Final = 100_000
PAGE_MAX: Final = 1_000


@click.command(cls=LeafCommand)
@click.option(
    "--state", "states", type=click.Choice(STATES, case_sensitive=False), multiple=True, help="Repeatable."
)
@click.option("--filter", "filter_", default="", help="""E.g. 'type="map" AND labels.team="x"'.""")
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True)
@click.pass_obj
def tasks(session: Session, states: tuple[str, ...], filter_: str, limit: int) -> None:
    """List tasks, newest first."""
    wanted = join_filters(states, filter_)
    found = session.call(lambda cluster: _list(cluster, wanted, limit))
    session.emit({"tasks": found}, lambda out: _print_list(out, found, limit))


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.pass_obj
def show(session: Session, task_id: str) -> None:
    """Show a task, its completed steps, and its result when it has one."""
    task, result = session.call(lambda cluster: _show(cluster, task_id))
    session.emit({"task": task, "result": result}, lambda out: _print_task(out, task, result))


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.pass_obj
def wait(session: Session, task_id: str) -> None:
    """Wait for a task and print its result. --timeout bounds the waiting; the task goes on after it."""

    async def work(cluster: Cluster) -> tuple[TaskInfo, Any]:
        return await follow(session, cluster.job(task_id))

    task, result = session.call(work, patient=True)
    print_end(session, task, result)


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.option("--resume-token", default="", help="Go on after the event that carried it.")
@click.option("--tokens", is_flag=True, help="Also the words of language models, as they come.")
@click.pass_obj
def watch(session: Session, task_id: str, resume_token: str, tokens: bool) -> None:
    """Print the events of a task, from the first to the last. Exit code 1 when it ends without a result."""
    events: list[Event] = []

    async def work(cluster: Cluster) -> TaskInfo:
        job = cluster.job(task_id)
        await watch_events(session, job, events, resume_token, tokens)
        return await job.get()

    task = session.call(work, patient=True)
    if task.state != "SUCCEEDED":
        from coterie.client.errors import TaskError

        raise CommandFailed(of_task(TaskError(task), events=events))
    session.emit({"task": task, "events": events}, lambda out: None)


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.option("--reason", default="", help="For the history of the task.")
@click.pass_obj
def cancel(session: Session, task_id: str, reason: str) -> None:
    """Ask for a task to be cancelled. A running skill is told to stop, and may finish first."""

    async def work(cluster: Cluster) -> TaskInfo:
        return await cluster.job(task_id).cancel(reason)

    task = session.call(work)
    how = task.state if task.done else f"{task.state}, told to stop"
    session.emit({"task": task}, lambda out: out.print(f"{task.id}: {how}"))


def join_filters(states: tuple[str, ...], filter_: str) -> str:
    """One filter: any of the states, and what `filter_` asks for."""
    clause = " OR ".join(f"state={state}" for state in states)
    return " AND ".join(part for part in (clause, filter_.strip()) if part)


async def _list(cluster: Cluster, wanted: str, limit: int) -> list[TaskInfo]:
    listing = cluster.list_tasks(filter=wanted, limit=limit, page_size=min(limit, PAGE_MAX))
    async with aclosing(listing) as found:
        return [task async for task in found]


async def _show(cluster: Cluster, task_id: str) -> tuple[TaskInfo, Any]:
    job = cluster.job(task_id)
    task = await job.get(include_steps=True)
    return task, await job.result() if task.state == "SUCCEEDED" else None


def _print_list(out: Console, found: list[TaskInfo], limit: int) -> None:
    from coterie.node.cli.output import tasks_table

    if not found:
        out.print("no such tasks")
        return
    out.print(tasks_table(found))
    if len(found) == limit:
        out.print(f"the newest {limit}; --limit shows more", style="dim")


def _print_task(out: Console, task: TaskInfo, result: Any) -> None:
    from coterie.node.cli.output import print_result, steps_table, task_facts

    out.print(task_facts(task))
    if task.steps:
        out.print()
        out.print(steps_table(task))
    if task.state == "SUCCEEDED":
        out.print()
        print_result(out, result)
