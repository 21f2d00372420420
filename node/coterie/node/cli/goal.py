"""`coterie submit --goal`, `coterie workflow route` and `mend`, `coterie agents match`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.following import follow, print_end, progress_line
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.payloads import read_payload, read_text
from coterie.node.cli.session import Session
from coterie.node.cli.text import echo

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.agents import Match
    from coterie.client.cluster import Cluster
    from coterie.client.goals import GoalRoute
    from coterie.client.job import Job
    from coterie.client.models import TaskInfo

    Begin = Callable[[Cluster], Awaitable[Job]]

OF_TASKS = ("payload", "agent")  # options of submit that a goal does not have


def goal_of(options: dict[str, Any], type_: str | None) -> dict[str, Any] | None:
    """What `goals.submit` takes; None: a task is submitted. Options of goals leave `options`."""
    goal = options.pop("goal")
    names = ("context", "rule", "aggregate", "approve", "plan_only")
    given = {name: options.pop(name) for name in names}
    if goal is None:
        if type_ is None:
            raise bad_input("TYPE", "name a skill, or say what is wanted with --goal TEXT")
        extra = [name for name, value in given.items() if value not in (None, "", False)]
        if extra:
            raise bad_input(f"--{extra[0].replace('_', '-')}", "belongs to a request; give --goal TEXT too")
        return None
    if type_ is not None:
        raise bad_input("--goal", f"the cluster finds the skills by itself; leave {type_} out")
    for name in OF_TASKS:
        if options[name]:
            raise bad_input(f"--{name}", "is not for goals; what belongs to the request goes into --context")
    given["goal"] = read_text(goal, "--goal") if goal == "-" or goal.startswith("@") else goal
    given["context"] = _context(given["context"])
    return given


def _context(text: str | None) -> Any:
    if text is None:
        return None
    data = read_text(text, "--context") if text == "-" or text.startswith("@") else text
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data  # a text is a context too


@click.command(cls=LeafCommand)
@click.argument("goal", metavar="TEXT")
@click.pass_obj
def route(session: Session, goal: str) -> None:
    """Show which routing rule a request falls under, and which others match. Nothing is run."""

    async def work(cluster: Cluster) -> GoalRoute:
        return await cluster.goals.route(goal)

    found = session.call(work)
    session.emit({"route": found}, lambda out: _print_route(out, found))


def _print_route(out: Console, found: GoalRoute) -> None:
    names = f" {', '.join(found.names)}" if found.names else ""
    echo(f"{found.rule or 'no rule matches'}: {found.target}{names}")
    for name, priority in found.matched:
        echo(f"  {priority:>6}  {name}")
    if found.ambiguous:
        echo(f"ambiguous: {', '.join(found.ambiguous)} have the same priority; the first counts")


@click.command(cls=LeafCommand)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--inputs", default=None, metavar="JSON|@FILE|-", help="What the run is given, as an object.")
@click.option("--plan-only", is_flag=True, help="Show what would be changed, and run nothing.")
@click.option("--approve/--no-approve", default=None, help="A person looks at it before it is run.")
@click.option("--request-id", help="Idempotency key: the same key gives the same run.")
@click.option("--wait", is_flag=True, help="Stay until it ends, and print the result.")
@click.pass_obj
def mend(session: Session, /, file: Path, wait: bool, **options: Any) -> None:
    """Run the workflow in FILE. Where its dependencies are wrong, as in a cycle, a language model corrects
    them, and nothing else; the result says what it changed."""
    inputs = read_payload(options.pop("inputs"), "--inputs")
    if inputs is not None and not isinstance(inputs, dict):
        raise bad_input("--inputs", "is a JSON object with the inputs of the run by their names")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise bad_input("FILE", f"{file}: {error}") from error

    async def begin(cluster: Cluster) -> Job:
        return await cluster.goals.mend(text, inputs, **options)

    if wait:
        session.call(lambda cluster: _stay(session, cluster, begin), patient=True)
        return
    task = session.call(lambda cluster: _begun(cluster, begin))
    session.emit({"task": task}, lambda out: click.echo(task.id))


async def _begun(cluster: Cluster, begin: Begin) -> TaskInfo:
    job = await begin(cluster)
    return job.task or await job.get()


async def _stay(session: Session, cluster: Cluster, begin: Begin) -> None:
    job = await begin(cluster)
    session.say(f"submitted {job.id}")
    task, result = await follow(session, job, progress_line(session))
    print_end(session, task, result)


@click.command(cls=LeafCommand)
@click.argument("wanted", metavar="TEXT...", nargs=-1, required=True)
@click.option("--strategy", type=click.Choice(("score", "contract-net")), help="Default: the cluster's own.")
@click.pass_obj
def match(session: Session, wanted: Sequence[str], strategy: str | None) -> None:
    """Show which agent would get a piece of work: a request in words, or capabilities. The numbers are
    thousandths: how well it fits, how idle it is, how often it succeeded."""

    async def work(cluster: Cluster) -> Match:
        return await cluster.agents.match(*wanted, strategy=strategy or "")

    found = session.call(work)
    session.emit({"match": found}, lambda out: _print_match(out, found))


def _print_match(out: Console, found: Match) -> None:
    from coterie.node.cli.output import table

    rows = [
        (bid.agent_id, str(bid.score), str(bid.fit), str(bid.load), str(bid.success), _why(bid))
        for bid in found.bids
    ]
    columns = ("AGENT", "SCORE", "FIT", "LOAD", "SUCCESS", "WHY")
    right = ("SCORE", "FIT", "LOAD", "SUCCESS")
    out.print(table(columns, rows, right=right) if rows else "there is no agent")
    echo(f"{found.strategy}: {found.winner or 'nobody'}")


def _why(bid: Any) -> str:
    return f"declined: {bid.declined}" if bid.declined else ", ".join(bid.matched)
