"""`coterie approvals list|approve|reject`, `coterie task doubts` and `coterie task resolve`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.payloads import read_payload
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.decisions import Approval, Doubt
    from coterie.client.models import TaskInfo

LIST_MAX = 1_000


@click.command("list", cls=LeafCommand)
@click.option("--decided", is_flag=True, help="Also those that are decided.")
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True)
@click.pass_obj
def list_approvals(session: Session, decided: bool, limit: int) -> None:
    """List what tasks ask people, oldest first, each with the call it is about."""

    async def work(cluster: Cluster) -> list[Approval]:
        return await cluster.approvals.list(decided=decided, limit=limit)

    found = session.call(work)
    session.emit({"approvals": found}, lambda out: _print(out, found))


@click.command(cls=LeafCommand)
@click.argument("approval_id", metavar="ID")
@click.option("--comment", default="", help="For the history of the task.")
@click.option("--as", "principal", default="", help="Who approves, where the cluster asks nobody.")
@click.option("--call", "digest", default="", help="Only if the call's SHA-256 begins with this.")
@click.pass_obj
def approve(session: Session, approval_id: str, comment: str, principal: str, digest: str) -> None:
    """Approve the call that ID asks for, as `approvals list` shows it, and no other."""
    _vote(session, approval_id, True, comment, principal, digest)


@click.command(cls=LeafCommand)
@click.argument("approval_id", metavar="ID")
@click.option("--comment", default="", help="For the history of the task.")
@click.option("--as", "principal", default="", help="Who rejects, where the cluster asks nobody.")
@click.pass_obj
def reject(session: Session, approval_id: str, comment: str, principal: str) -> None:
    """Reject the call that ID asks for: one person is enough."""
    _vote(session, approval_id, False, comment, principal, "")


def _vote(
    session: Session, approval_id: str, approves: bool, comment: str, principal: str, digest: str
) -> None:
    async def work(cluster: Cluster) -> tuple[Approval, Approval]:
        task = approval_id.rpartition("~")[0]
        listed = await cluster.approvals.list(decided=True, limit=LIST_MAX, task=task)
        known = next((one for one in listed if one.id == approval_id), None)
        if known is None:
            said = f"no live task asks for {approval_id}; see `coterie approvals list --decided`"
            raise bad_input("ID", said)
        if not known.call_sha256.startswith(digest):
            raise bad_input("--call", f"{digest}: the call is {known.call_sha256}; look at it again")
        vote = cluster.approvals.approve if approves else cluster.approvals.reject
        return known, await vote(known, comment, principal=principal)

    before, found = session.call(work)
    if said := _counted(before, found):
        session.say(said)
    session.emit({"approval": found}, lambda out: _print(out, [found]))


def _counted(before: Approval, after: Approval) -> str:
    """What a person should know of their vote: whether it was there already, and how many are missing."""
    missing = after.needed - sum(vote.approve for vote in after.votes)
    more = f"{missing} more must approve it" if after.verdict == "PENDING" and missing > 0 else ""
    if len(after.votes) == len(before.votes):
        return f"you had voted so before, which counts once{'; ' + more if more else ''}"
    return more


@click.command(cls=LeafCommand)
@click.option("--open", "open_only", is_flag=True, help="Only those that nobody has decided about.")
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True)
@click.pass_obj
def doubts(session: Session, open_only: bool, limit: int) -> None:
    """List steps whose effect was begun and of which nobody knows, or knew, whether it happened."""

    async def work(cluster: Cluster) -> list[Doubt]:
        return await cluster.effects.doubts(open_only=open_only, limit=limit)

    found = session.call(work)
    session.emit({"doubts": found}, lambda out: _print_doubts(out, found))


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="ID")
@click.argument("step")
@click.option("--done", metavar="JSON|@FILE|-", help="It has happened, with this result.")
@click.option("--retry", "again", is_flag=True, help="It has not happened, or may happen again: call it.")
@click.option("--fail", "fails", is_flag=True, help="Tell the task that nobody knows.")
@click.option("--reason", default="", help="For the history of the task.")
@click.option("--as", "principal", default="", help="Who decides, where the cluster asks nobody.")
@click.pass_obj
def resolve(
    session: Session,
    task_id: str,
    step: str,
    done: str | None,
    again: bool,
    fails: bool,
    reason: str,
    principal: str,
) -> None:
    """Decide about a STEP in doubt, of which nobody knows whether its effect happened."""
    if (done is not None) + again + fails != 1:
        raise click.UsageError("give one of --done, --retry and --fail")
    result = read_payload(done, "--done")

    async def work(cluster: Cluster) -> TaskInfo:
        effects = cluster.effects
        if done is not None:
            return await effects.done(task_id, step, result, reason, principal=principal)
        call = effects.retry if again else effects.fail
        return await call(task_id, step, reason, principal=principal)

    task = session.call(work)
    session.emit({"task": task}, lambda out: out.print(f"{task.id}: {task.state}"))


def _print(out: Console, approvals: list[Approval]) -> None:
    from coterie.node.cli.output import table

    rows = [
        (one.id, one.verdict, f"{sum(v.approve for v in one.votes)}/{one.needed}", one.question, _call(one))
        for one in approvals
    ]
    columns = ("APPROVAL", "VERDICT", "VOTES", "QUESTION", "CALL")
    out.print(table(columns, rows) if rows else "nothing is asked")


def _print_doubts(out: Console, doubts: list[Doubt]) -> None:
    from coterie.node.cli.output import table

    rows = [
        (one.task, one.step, str(one.attempt), one.effect_key, one.resolution or "in doubt", one.by)
        for one in doubts
    ]
    columns = ("TASK", "STEP", "ATTEMPT", "EFFECT KEY", "RESOLUTION", "BY")
    out.print(table(columns, rows, right=("ATTEMPT",)) if rows else "nothing is in doubt")


def _call(approval: Approval) -> str:
    text = json.dumps(approval.call, ensure_ascii=False)
    return f"{approval.call_sha256[:12]} {text if len(text) <= 80 else text[:79] + '…'}"
