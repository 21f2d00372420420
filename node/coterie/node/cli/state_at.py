"""`coterie state --at INDEX`: the cluster, or a task, as it was right after an entry of the log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.framework import WHOLE, LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.debugger import StateAt
    from coterie.client.models import StepInfo, TaskInfo

VALUE_CHARS_MAX = 200


@click.command("state", cls=LeafCommand)
@click.argument("task_id", metavar="RUN", required=False, default="")
@click.option("--at", "index", type=WHOLE, default=0, help="Index in the log; 0: now.")
@click.pass_obj
def state_at(session: Session, task_id: str, index: int) -> None:
    """Show how the cluster stood right after a log entry, or RUN, a task or a run of a workflow.

    \b
    coterie state --at 1200                 tasks by state, nodes, live tasks
    coterie state j1 --at 1200              one task: state, payload, steps; the nodes of a run

    `coterie history` tells the indexes. How far back this goes depends on the node's snapshot and log; what
    cannot be shown is refused, and the oldest index that can be is named.
    """

    async def work(cluster: Cluster) -> StateAt:
        return await cluster.debugger.state(index, task_id)

    found = session.call(work)
    session.emit({"state": found}, lambda out: _print(out, found))


def _print(out: Console, found: StateAt) -> None:
    when = f"{found.time:%Y-%m-%d %H:%M:%S.%f}Z" if found.time is not None else "before the first entry"
    out.print(f"index {found.index}, {when} (from {found.oldest_index} to {found.newest_index} can be shown)")
    if found.task is not None:
        _print_task(out, found, found.task)
    else:
        _print_cluster(out, found)


def _print_task(out: Console, found: StateAt, task: TaskInfo) -> None:
    from coterie.node.cli.output import table, task_facts

    out.print(task_facts(task))
    if found.nodes:
        rows = [(node.id, node.type, node.state, node.message) for node in found.nodes]
        out.print(table(("NODE", "TYPE", "STATE", "WHY"), rows))
    if task.steps:
        steps = [(step.name, str(step.attempt), _value(step)) for step in task.steps]
        out.print(table(("STEP", "ATTEMPT", "RESULT"), steps, right=("ATTEMPT",)))


def _value(step: StepInfo) -> str:
    from coterie.node.cli.text import one_line

    data = step.raw.result
    if data.HasField("blob"):
        return f"blob of {data.blob.size_bytes} bytes"
    text = data.inline.decode("utf-8", "replace")
    try:
        found: Any = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return one_line(text, VALUE_CHARS_MAX)
    return one_line(json.dumps(found, ensure_ascii=False), VALUE_CHARS_MAX)


def _print_cluster(out: Console, found: StateAt) -> None:
    from coterie.node.cli.output import table

    counts = ", ".join(f"{count} {name}" for name, count in sorted(found.tasks_by_state.items()))
    out.print(f"tasks: {counts or 'none'}")
    rows = [
        (one.id, one.status, "yes" if one.draining else "", str(one.held), one.reason)
        for one in found.cluster
    ]
    out.print(table(("NODE", "STATUS", "DRAINING", "HELD", "WHY"), rows, right=("HELD",)))
    if found.live:
        live = [(task.id, task.type, task.state, task.node or "-", str(task.attempt)) for task in found.live]
        out.print(table(("TASK", "TYPE", "STATE", "NODE", "ATTEMPT"), live, right=("ATTEMPT",)))
    if found.live_total > len(found.live):
        out.print(f"… {found.live_total - len(found.live)} more live tasks")
