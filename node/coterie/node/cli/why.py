"""`coterie why`: what a task waits for, and what speaks for and against each node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.models import TaskInfo
    from coterie.client.routes import Route, RouteCandidate


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="TASK")
@click.option("--strategy", default="", help="Compare the nodes by another strategy than the cluster's.")
@click.pass_obj
def why(session: Session, task_id: str, strategy: str) -> None:
    """Say why a task does not run, or why where it does: every node with all that counts.

    The coordinator recomputes its decision from the present state; nothing is changed."""

    async def work(cluster: Cluster) -> Route:
        return await cluster.job(task_id).explain(strategy=strategy)

    route = session.call(work)
    assert route.task is not None
    session.emit(_document(route, route.task), lambda out: _print(out, route, route.task))


def summary(task: TaskInfo, route: Route) -> str:
    """One sentence about the task."""
    if task.done:
        cause = f": {task.error.code}: {task.error.message}" if task.error else ""
        return f"it is over: {task.state} after attempt {task.attempt}{cause}"
    if task.state == "RUNNING":
        return f"it runs on {task.node}, attempt {task.attempt}"
    if task.state == "SCHEDULED":
        return f"it is given to {task.node}, attempt {task.attempt}, and starts there"
    reason = route.wait_reason or task.wait_reason or "no reason is recorded yet"
    detail = route.wait_detail or task.wait_detail
    return f"it is {task.state}: {reason}" + (f": {detail}" if detail else "")


def _document(route: Route, task: TaskInfo) -> dict[str, Any]:
    return {
        "task": {"id": task.id, "type": task.type, "state": task.state, "node": task.node},
        "reason": route.wait_reason or task.wait_reason,
        "detail": route.wait_detail or task.wait_detail,
        "summary": summary(task, route),
        "chosen": route.node,
        "strategy": route.strategy,
        "weights": dict(route.weights),
        "decided_by": route.decided_by,
        "applied_index": route.applied_index,
        "nodes": [_node(candidate) for candidate in route.candidates],
    }


def _node(candidate: RouteCandidate) -> dict[str, Any]:
    return {
        "id": candidate.node,
        "fits": candidate.fit,
        "chosen": candidate.chosen,
        "cost": candidate.cost,
        "held": candidate.held,
        "capacity": candidate.capacity,
        "terms": [
            {"name": t.name, "amount": t.amount, "factor": t.factor, "detail": t.detail}
            for t in candidate.terms
        ],
        "against": [{"filter": name, "reason": reason} for name, reason in candidate.objections],
    }


def _print(out: Console, route: Route, task: TaskInfo | None) -> None:
    from coterie.node.cli.output import table

    assert task is not None
    out.print(f"{task.id} ({task.type}): {summary(task, route)}", soft_wrap=True)
    if task.done:
        return
    now = f"{route.node} would be chosen now" if route.node else "no node can take it now"
    by = f"by strategy {route.strategy}, from the state at index {route.applied_index}"
    out.print(f"{now}, {by}, as {route.decided_by} sees the load", soft_wrap=True)
    rows = [(c.node, _verdict(c), _cost(c), "; ".join(_reasons(c))) for c in route.candidates]
    out.print(table(("NODE", "VERDICT", "COST", "WHY"), rows))


def _verdict(candidate: RouteCandidate) -> str:
    if candidate.chosen:
        return "chosen"
    if not candidate.fit:
        return "unfit"
    return "not now" if candidate.objections else "fit"


def _cost(candidate: RouteCandidate) -> str:
    return "-" if candidate.cost is None else f"{candidate.cost:.4g}"


def _reasons(candidate: RouteCandidate) -> list[str]:
    """Against it first, then the terms of its cost: amounts are added, factors multiply their sum."""
    terms = []
    for term in candidate.terms:
        weight = f"+{term.amount:.4g}" if term.amount else f"x{term.factor:.4g}"
        terms.append(f"{term.name} {weight}" + (f" ({term.detail})" if term.detail else ""))
    return [reason for _, reason in candidate.objections] + terms
