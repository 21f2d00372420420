"""Tables and lines on a terminal or in a pipe. What comes from outside is text, never markup."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coterie.node.cli.text import ago, clean, one_line, pairs, size, span, value_text

if TYPE_CHECKING:
    from coterie.client.models import Event, NodeInfo, Status, TaskInfo

PIPE_WIDTH: Final = 200  # columns when nobody said how wide the reader is
RESULT_CHARS_MAX: Final = 4_000
_STATE_STYLES: Final[Mapping[str, str]] = {
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "ACTIVE": "green",
    "FAILED": "red",
    "DEAD_LETTERED": "red",
    "TIMED_OUT": "red",
    "DOWN": "red",
    "CANCELLED": "yellow",
    "SUSPECT": "yellow",
    "DRAINING": "yellow",
    "DRAINED": "yellow",
}
_LIVE_STATES: Final = ("PENDING", "SCHEDULED", "RUNNING", "WAITING", "PAUSED")


class _Console(Console):
    """Texts that are printed are shown, whoever wrote them; rich itself lets escape sequences through."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(clean(one) if isinstance(one, str) else one for one in objects), **options)


def console(*, err: bool = False) -> Console:
    """A console for the standard output (or error) of now. Colours only when a person looks at it."""
    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], right: Sequence[str] = ()) -> Table:
    """Aligned columns under a plain heading; those named in `right` are flush right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=name != "WHY")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row))
    return made


def facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Names and values below each other; empty values are left out."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column()
    for name, value in rows:
        if value:
            made.add_row(name, value if isinstance(value, Text) else Text(clean(value)))
    return made


def state(name: str) -> Text:
    """The name of a state in its colour."""
    return Text(clean(name), style=_STATE_STYLES.get(name, ""))


def tasks_table(tasks: Iterable[TaskInfo]) -> Table:
    """One line for each task."""
    rows = [
        (t.id, t.type, state(t.state), t.node or "-", str(t.attempt), ago(t.create_time), _note(t))
        for t in tasks
    ]
    return table(("TASK", "TYPE", "STATE", "NODE", "ATTEMPT", "SUBMITTED", "WHY"), rows, right=("ATTEMPT",))


def task_facts(task: TaskInfo) -> Table:
    """Everything worth knowing about one task."""
    why = f"{task.wait_reason}: {task.wait_detail}".strip(": ")
    failure = f"{task.error.code}: {task.error.message}" if task.error else ""
    return facts(
        [
            ("task", task.id),
            ("type", task.type),
            ("state", state(task.state)),
            ("why", why if not task.done else ""),
            ("error", failure),
            ("node", task.node),
            ("attempt", f"{task.attempt}  (failed {task.failures}, lost with their node {task.losses})"),
            ("priority", task.priority),
            ("progress", _progress(task)),
            ("cancel", "requested" if task.cancel_requested and not task.done else ""),
            ("labels", pairs(task.labels) if task.labels else ""),
            ("submitted", ago(task.create_time)),
            ("started", ago(task.start_time) if task.start_time else ""),
            ("ended", ago(task.end_time) if task.end_time else ""),
            ("took", _took(task)),
            ("steps", str(task.step_count) if task.step_count else ""),
        ]
    )


def steps_table(task: TaskInfo) -> Table:
    """The completed steps of a task."""
    rows = [(step.name, str(step.attempt), ago(step.completed_at)) for step in task.steps]
    return table(("STEP", "ATTEMPT", "COMPLETED"), rows, right=("ATTEMPT",))


def print_result(out: Console, value: object) -> None:
    """A result, cut when it is long."""
    text = value_text(value)
    out.print(text[:RESULT_CHARS_MAX], soft_wrap=True)
    if len(text) > RESULT_CHARS_MAX:
        out.print(f"… {len(text) - RESULT_CHARS_MAX} more characters; --json shows all")


def event_line(event: Event) -> str:
    """One line for one event of a task."""
    percent = f"{event.percent:.0f}% " if event.type == "progress" else ""
    moment = event.time.astimezone().strftime("%H:%M:%S.%f")[:-3] if event.time else "-"
    where = f"{event.node}#{event.attempt}" if event.node else ""
    return f"{moment}  {event.type:<16} {where:<12} {percent}{one_line(event.detail, 120)}".rstrip()


def nodes_table(nodes: Iterable[NodeInfo], processes: Mapping[str, str] | None = None) -> Table:
    """One line for each node, within 80 columns. With `processes` (text by node id) these stand where the
    addresses are otherwise; zones have a column when there are any."""
    shown = sorted(nodes, key=lambda node: node.id)
    columns = ["NODE", "STATE", "ROLE", "BUSY", "CPU", "RSS", "APPLIED", "HEARD"]
    columns.append("ADDRESS" if processes is None else "PROCESS")
    rows = [
        [*_node_row(node), node.address if processes is None else processes.get(node.id, "")]
        for node in shown
    ]
    if any(node.zone for node in shown):
        columns.append("ZONE")
        rows = [[*row, node.zone or "-"] for row, node in zip(rows, shown, strict=True)]
    return table(columns, rows, right=("BUSY", "CPU", "RSS", "APPLIED", "HEARD"))


def status_lines(status: Status, rate: float | None = None) -> list[Text]:
    """The head of the status: who leads, how far the log is, what is queued."""
    leader = status.leader or "none known"
    quorum = Text("quorum", style="green") if status.has_quorum else Text("NO QUORUM", style="bold red")
    members = f"{status.active_nodes} of {status.total_nodes} nodes active"
    log = f"term {status.term}  commit {status.commit_index}  applied {status.applied_index}"
    first = Text.assemble(
        (clean(status.cluster_name), "bold"), f"  leader {clean(leader)}  ", quorum, f"  {members}"
    )
    queue = "  ".join(f"{name.lower()} {count}" for name, count in _queue(status.tasks_by_state))
    queue = queue or "nothing queued"
    done = f"finished {status.tasks_finished_total}  steps {status.steps_recorded_total}"
    speed = f"  {rate:.1f} tasks/s" if rate is not None else ""
    return [first, Text(f"{log}  (as {clean(status.served_by)} sees it)"), Text(f"{queue}  {done}{speed}")]


def _queue(by_state: Mapping[str, int]) -> list[tuple[str, int]]:
    others = sorted(set(by_state) - set(_LIVE_STATES))
    return [(name, by_state[name]) for name in (*_LIVE_STATES, *others) if by_state.get(name, 0)]


def _node_row(node: NodeInfo) -> list[str | Text]:
    return [
        node.id,
        state(node.state),
        _role(node),
        f"{node.running}/{node.capacity}",
        f"{node.cpu:.0%}",
        size(node.rss_bytes),
        str(node.raw.applied_index),
        "never" if node.report_age_ms < 0 else span(node.report_age_ms / 1000),
    ]


def _role(node: NodeInfo) -> Text:
    """Leader, voter or runner; or what becomes of it."""
    if node.leaving:
        return Text("leaving", style="yellow")
    if node.leader:
        return Text("leader", style="bold")
    return Text(clean(node.role.lower()) or "-")


def _note(task: TaskInfo) -> str:
    if task.error and task.done:
        return one_line(f"{task.error.code}: {task.error.message}")
    if task.state == "RUNNING":
        return one_line(_progress(task))
    return one_line(f"{task.wait_reason} {task.wait_detail}") if not task.done else ""


def _progress(task: TaskInfo) -> str:
    if not task.progress.percent and not task.progress.message:
        return ""
    return f"{task.progress.percent:.0f}% {task.progress.message}".strip()


def _took(task: TaskInfo) -> str:
    if task.start_time is None or task.end_time is None:
        return ""
    return span((task.end_time - task.start_time).total_seconds())
