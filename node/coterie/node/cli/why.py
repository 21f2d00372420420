"""`coterie why`: what a task waits for, and what speaks against each node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.models import NodeInfo, TaskInfo

_NO_GPU = frozenset({"", "0", "false", "none"})


@click.command(cls=LeafCommand)
@click.argument("task_id", metavar="TASK")
@click.pass_obj
def why(session: Session, task_id: str) -> None:
    """Say why a task does not run: the coordinator's reason, and for each node what speaks against it."""

    async def work(cluster: Cluster) -> tuple[TaskInfo, list[NodeInfo]]:
        return await cluster.job(task_id).get(), await cluster.list_nodes()

    task, nodes = session.call(work)
    against = {node.id: objections(task, node) for node in sorted(nodes, key=lambda node: node.id)}
    document = {
        "task": {"id": task.id, "type": task.type, "state": task.state, "node": task.node},
        "reason": task.wait_reason,
        "detail": task.wait_detail,
        "summary": summary(task),
        "nodes": [{"id": name, "fits": not found, "against": found} for name, found in against.items()],
    }
    session.emit(document, lambda out: _print(out, task, against))


def summary(task: TaskInfo) -> str:
    """One sentence about the task."""
    if task.done:
        cause = f": {task.error.code}: {task.error.message}" if task.error else ""
        return f"it is over: {task.state} after attempt {task.attempt}{cause}"
    if task.state == "RUNNING":
        return f"it runs on {task.node}, attempt {task.attempt}"
    if task.state == "SCHEDULED":
        return f"it is given to {task.node}, attempt {task.attempt}, and starts there"
    reason = task.wait_reason or "no reason is recorded yet"
    return f"it is {task.state}: {reason}" + (f": {task.wait_detail}" if task.wait_detail else "")


def objections(task: TaskInfo, node: NodeInfo) -> list[str]:
    """What speaks against the node for this task now, in the order of the scheduler's filters."""
    wanted = task.raw.constraints
    found = []
    if node.state != "ACTIVE":
        found.append(f"is {node.state}" + (f": {node.reason}" if node.reason else ""))
    if task.type not in node.skills:
        found.append(f"lacks skill {task.type}")
    if wanted.target_node and wanted.target_node != node.id:
        found.append(f"is not the target node {wanted.target_node}")
    if wanted.require_gpu and node.labels.get("gpu", "0") in _NO_GPU:
        found.append("has no GPU (label gpu)")
    if wanted.zones and node.zone not in wanted.zones:
        found.append(f"is in zone {node.zone or 'none'}")
    missing = [f"{key}={value}" for key, value in wanted.labels.items() if node.labels.get(key) != value]
    found += [f"lacks label {label}" for label in missing]
    if node.running >= node.capacity:
        found.append(f"is full ({node.running} of {node.capacity} slots)")
    return found


def _print(out: Console, task: TaskInfo, against: dict[str, list[str]]) -> None:
    from coterie.node.cli.output import table

    out.print(f"{task.id} ({task.type}): {summary(task)}", soft_wrap=True)
    if not task.done:
        rows = [(name, "no" if found else "yes", "; ".join(found)) for name, found in against.items()]
        out.print(table(("NODE", "FITS", "WHY"), rows))
