"""`coterie task pause|resume|signal|retry`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.payloads import read_payload
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from coterie.client.cluster import Cluster
    from coterie.client.models import TaskInfo


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.option("--reason", default="", help="For the history of the task.")
@click.pass_obj
def pause(session: Session, task_id: str, reason: str) -> None:
    """Stop a task where it is: at once when it waits, after its next completed step when it runs."""

    async def work(cluster: Cluster) -> TaskInfo:
        return await cluster.job(task_id).pause(reason)

    task = session.call(work)
    how = f"{task.state}, pauses after its next step" if task.pause_requested else task.state
    session.emit({"task": task}, lambda out: out.print(f"{task.id}: {how}"))


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.pass_obj
def resume(session: Session, task_id: str) -> None:
    """Let a paused task go on, at its old place in the queue."""

    async def work(cluster: Cluster) -> TaskInfo:
        return await cluster.job(task_id).resume()

    task = session.call(work)
    session.emit({"task": task}, lambda out: out.print(f"{task.id}: {task.state}"))


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.argument("name")
@click.option("--payload", default=None, metavar="JSON|@FILE|-", help="JSON, a file of it, or stdin.")
@click.option("--request-id", default="", help="Idempotency key: the same key is the same signal.")
@click.pass_obj
def signal(session: Session, task_id: str, name: str, payload: str | None, request_id: str) -> None:
    """Send the signal NAME to a task: a skill that waits for it goes on."""
    content = read_payload(payload)

    async def work(cluster: Cluster) -> TaskInfo:
        return await cluster.job(task_id).signal(name, content, request_id=request_id)

    task = session.call(work)
    session.emit({"task": task}, lambda out: out.print(f"{task.id}: {task.state}"))


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.option("--discard-steps", is_flag=True, help="A new run starts from zero.")
@click.option("--request-id", default="", help="Idempotency key: the same key gives the same new run.")
@click.pass_obj
def retry(session: Session, task_id: str, discard_steps: bool, request_id: str) -> None:
    """Run a task now that waits for its next attempt; or once more, as a new task, one that has failed.

    Prints the id of the task that runs."""

    async def work(cluster: Cluster) -> TaskInfo:
        job = await cluster.job(task_id).retry(discard_steps=discard_steps, request_id=request_id)
        return job.task or await job.get()

    task = session.call(work)
    session.emit({"task": task}, lambda out: click.echo(task.id))
