"""`coterie workflow run|show|list|watch|cancel|pause|resume|retry|approve`: runs of workflows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.failures import EXIT_TIMEOUT, EXIT_USAGE, CommandFailed, Failure, bad_input
from coterie.node.cli.framework import DURATION, LeafCommand
from coterie.node.cli.payloads import read_payload
from coterie.node.cli.session import Session
from coterie.node.cli.submit import LabelType
from coterie.node.cli.tasks import LIST_MAX, PAGE_MAX, STATES, join_filters

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.job import Job
    from coterie.client.models import TaskInfo
    from coterie.client.workflows import RunInfo

    Begin = Callable[[Cluster], Awaitable[Job]]

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
WORKFLOW_FILTER = 'type="workflow"'


@click.command(cls=LeafCommand)
@click.argument("file", type=FILE, required=False)
@click.option("--kept", default="", metavar="NAME", help="One that is kept in the cluster, instead of FILE.")
@click.option("--rule", default="", help="Which routing rule of the file, when several have a workflow.")
@click.option("--inputs", default=None, metavar="JSON|@FILE|-", help="What the run is given, as an object.")
@click.option("--input", "single", type=LabelType(), multiple=True, help="One of them; JSON or text.")
@click.option("--label", "labels", type=LabelType(), multiple=True, help="Your own words. Repeatable.")
@click.option("--deadline", type=DURATION, help="For the whole run.")
@click.option("--request-id", default="", help="Idempotency key: the same key gives the same run.")
@click.option("--no-wait", is_flag=True, help="Print the id of the run and leave.")
@click.pass_obj
def run(session: Session, /, file: Path | None, kept: str, rule: str, no_wait: bool, **options: Any) -> None:
    """Run the workflow in FILE, show how it goes, and print its outputs. Ctrl-C leaves the run going.

    \b
    coterie workflow run delivery.yaml --input requirement="a login page"
    coterie workflow run --kept report --inputs @inputs.json --no-wait
    """
    if (file is None) == (not kept):
        raise bad_input("FILE", "give a file, or --kept NAME of a workflow in the cluster")
    inputs, wanted = _inputs(options.pop("inputs"), options.pop("single")), _wanted(options)
    flow = _read(file, rule) if file is not None else ""

    async def work(cluster: Cluster) -> Job:
        return await cluster.workflows.run(flow, inputs, kept=kept, **wanted)

    _begun(session, work, wait=not no_wait)


@click.command(cls=LeafCommand)
@click.argument("run_id", metavar="RUN")
@click.option("--from-node", default="", metavar="NODE", help="Do this node and all after it again.")
@click.option("--request-id", default="", help="Idempotency key: the same key gives the same new run.")
@click.option("--no-wait", is_flag=True, help="Print the id of the new run and leave.")
@click.pass_obj
def retry(session: Session, run_id: str, from_node: str, request_id: str, no_wait: bool) -> None:
    """Run an ended run again as a new one: nodes that succeeded are taken over, not done again."""

    async def work(cluster: Cluster) -> Job:
        return await cluster.workflows.retry(run_id, from_node=from_node, request_id=request_id)

    _begun(session, work, wait=not no_wait)


@click.command(cls=LeafCommand)
@click.argument("run_id", metavar="RUN")
@click.pass_obj
def watch(session: Session, run_id: str) -> None:
    """Show how a run goes until it has ended, and print its outputs."""

    async def work(cluster: Cluster) -> Job:
        return cluster.job(run_id)

    _begun(session, work, wait=True)


@click.command(cls=LeafCommand)
@click.argument("run_id", metavar="RUN")
@click.option("--graph", is_flag=True, help="The workflow too, and a diagram of where it stands.")
@click.pass_obj
def show(session: Session, run_id: str, graph: bool) -> None:
    """Show a run with its nodes, live or ended, and its outputs when it has some."""

    async def work(cluster: Cluster) -> tuple[RunInfo, Any]:
        found = await cluster.workflows.get(run_id, graph=graph)
        done = found.task.state == "SUCCEEDED"
        return found, await cluster.job(run_id).result() if done else None

    found, result = session.call(work)

    def human(out: Console) -> None:
        _print_run(out, found, result)

    session.emit({"run": found, "result": result}, human)


@click.command("list", cls=LeafCommand)
@click.option("--state", "states", type=click.Choice(STATES, case_sensitive=False), multiple=True)
@click.option("--filter", "filter_", default="", help="E.g. 'labels.team=\"x\"'.")
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True)
@click.option("--all", "inner", is_flag=True, help="Also those inside of others: of loops, maps, goals.")
@click.pass_obj
def list_runs(session: Session, states: tuple[str, ...], filter_: str, limit: int, inner: bool) -> None:
    """List runs, newest first."""
    wanted = " AND ".join(part for part in (WORKFLOW_FILTER, join_filters(states, filter_)) if part)

    async def work(cluster: Cluster) -> list[TaskInfo]:
        listing = cluster.list_tasks(filter=wanted, page_size=min(limit, PAGE_MAX))
        runs: list[TaskInfo] = []
        async for task in listing:
            if inner or not task.parent_task:
                runs.append(task)
            if len(runs) == limit:
                break
        return runs

    found = session.call(work)
    session.emit({"runs": found}, lambda out: _print_runs(out, found))


@click.command(cls=LeafCommand)
@click.argument("run_id", metavar="RUN")
@click.argument("node")
@click.option("--reject", is_flag=True, help="Say no.")
@click.option("--comment", default="", help="What the nodes after it may read.")
@click.option("--request-id", default="", help="Idempotency key: the same key is the same answer.")
@click.pass_obj
def approve(session: Session, run_id: str, node: str, reject: bool, comment: str, request_id: str) -> None:
    """Answer the approval NODE of a run, yes or no."""
    answer: dict[str, Any] = {"approved": not reject, **({"comment": comment} if comment else {})}

    async def work(cluster: Cluster) -> TaskInfo:
        known = await cluster.workflows.get(run_id)
        if not any(one.id == node and one.type == "approval" for one in known.nodes):
            asked = ", ".join(one.id for one in known.nodes if one.type == "approval") or "none"
            raise bad_input("NODE", f"{node!r} is no approval of this run; it has {asked}")
        return await cluster.job(run_id).signal(f"approval.{node}", answer, request_id=request_id)

    task = session.call(work)
    said = "rejected" if reject else "approved"
    session.emit({"task": task, "answer": answer}, lambda out: out.print(f"{node} of {task.id}: {said}"))


# --- help


def _begun(session: Session, begin: Begin, *, wait: bool) -> None:
    """Begin (or find) a run; stay with it if that is wanted."""
    if wait:
        session.call(lambda cluster: _stay(session, cluster, begin), patient=True)
        return

    async def work(cluster: Cluster) -> TaskInfo:
        job = await begin(cluster)
        return job.task or await job.get()

    task = session.call(work)
    session.emit({"task": task}, lambda out: click.echo(task.id))


async def _stay(session: Session, cluster: Cluster, begin: Begin) -> None:
    from coterie.node.cli.following import print_end
    from coterie.node.cli.output import console
    from coterie.node.cli.run_view import RunScreen, follow_run

    job = await begin(cluster)
    session.say(f"run {job.id}")
    try:
        async with asyncio.timeout(session.timeout):
            with RunScreen(console(err=True), session.say) as screen:
                found = await follow_run(cluster, job.id, screen)
    except TimeoutError as error:
        text = f"run {job.id} did not end in {session.timeout:g} s; it goes on: coterie workflow watch"
        facts = {"run": job.id}
        raise CommandFailed(
            Failure(EXIT_TIMEOUT, "DEADLINE_EXCEEDED", text, "WAIT_TIMEOUT", facts=facts)
        ) from error
    result = await job.wait(timeout=session.timeout)
    if session.json:
        session.emit({"run": found, "result": result}, lambda out: None)
    else:
        print_end(session, found.task, result)


def _read(file: Path, rule: str) -> Any:
    from coterie.client.workflow import Workflow

    try:
        return Workflow.from_file(file, rule=rule)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(Failure(EXIT_USAGE, "INVALID_ARGUMENT", f"{file}: {error}")) from error


def _inputs(given: str | None, single: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    inputs = read_payload(given, "--inputs") if given is not None else {}
    if not isinstance(inputs, dict):
        raise bad_input("--inputs", "is a JSON object with the inputs of the run by their names")
    for name, text in single:
        if name in inputs:
            raise bad_input("--input", f"{name} is given twice; give it once")
        try:
            inputs[name] = json.loads(text)
        except (ValueError, RecursionError):
            inputs[name] = text
    return inputs


def _wanted(options: dict[str, Any]) -> dict[str, Any]:
    labels = dict(options.pop("labels"))
    return {name: value for name, value in {**options, "labels": labels}.items() if value}


def _print_run(out: Console, found: RunInfo, result: Any) -> None:
    from coterie.node.cli.output import print_result
    from coterie.node.cli.run_view import tree_of

    out.print(tree_of(found, found.task.end_time))
    if found.task.error:
        out.print(f"{found.task.error.code}: {found.task.error.message}", style="red")
    if found.mermaid:
        out.print(found.mermaid, soft_wrap=True)
    if found.task.state == "SUCCEEDED":
        out.print()
        print_result(out, result)


def _print_runs(out: Console, found: list[TaskInfo]) -> None:
    from coterie.node.cli.output import state, table
    from coterie.node.cli.text import ago

    if not found:
        out.print("no such runs")
        return
    rows = [
        (
            task.id,
            state(task.state),
            f"{task.progress.percent:.0f}%",
            ago(task.create_time),
            ago(task.end_time),
        )
        for task in found
    ]
    out.print(table(("RUN", "STATE", "DONE", "SUBMITTED", "ENDED"), rows, right=("DONE",)))
