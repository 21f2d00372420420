"""A run of a workflow as a tree that is drawn over itself, or as lines where nobody looks at a terminal."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from coterie.client.errors import Unavailable
from coterie.node.cli.text import clean, one_line, span

if TYPE_CHECKING:
    from coterie.client.cluster import Cluster
    from coterie.client.workflows import RunInfo, RunNode

SHOWN_MAX: Final = 60  # nodes of a run that are drawn one by one
LOOK_S: Final = 0.25
LARGE: Final = 500  # nodes from which a run is looked at less often
LARGE_LOOK_S: Final = 2.0
_LOOKS: Final[Mapping[str, tuple[str, str]]] = {
    "PENDING": ("·", "dim"),
    "READY": ("○", ""),
    "RUNNING": ("▶", "cyan"),
    "WAITING": ("◷", "yellow"),
    "SUCCEEDED": ("✓", "green"),
    "FAILED": ("✗", "red"),
    "SKIPPED": ("-", "dim"),
    "CANCELLED": ("■", "yellow"),
}
_ORDER: Final = ("RUNNING", "WAITING", "FAILED", "CANCELLED", "READY", "PENDING", "SUCCEEDED", "SKIPPED")


def counts(run: RunInfo) -> str:
    """`3 of 7 nodes done: 2 SUCCEEDED, 1 SKIPPED, 4 PENDING`."""
    found = Counter(node.state for node in run.nodes)
    done = sum(node.done for node in run.nodes)
    parts = ", ".join(f"{found[state]} {state}" for state in _ORDER if found[state])
    return f"{done} of {len(run.nodes)} nodes done: {parts}"


def tree_of(run: RunInfo, now: datetime | None = None) -> Tree:
    """Each node below the last of those it stands on. Of a large run, what is not drawn is counted."""
    moment = now or datetime.now(UTC)
    label = Text(clean(f"{run.workflow}  {run.task.id}  {run.task.state}  {counts(run)}"), style="bold")
    top = Tree(label, guide_style="dim")
    drawn: dict[str, Tree] = {}
    wanted = _shown(run)
    place = {node.id: number for number, node in enumerate(run.nodes)}
    for node in _in_order(run):
        if node.id in wanted:
            above = [name for name in node.depends_on if name in drawn]
            parent = drawn[max(above, key=place.__getitem__)] if above else top
            drawn[node.id] = parent.add(node_line(node, moment))
    if len(wanted) < len(run.nodes):
        top.add(Text(f"… {len(run.nodes) - len(wanted)} more nodes", style="dim"))
    return top


def node_line(node: RunNode, now: datetime) -> Text:
    """`✓ draft  task  12s  2 of 3` and why it did not succeed."""
    sign, style = _LOOKS.get(node.state, ("?", ""))
    parts = [f"{sign} {node.id}", node.type]
    if node.since is not None:
        parts.append(span(((node.ended or now) - node.since).total_seconds()))
    if node.total > 1 and not node.done:
        parts.append(f"{node.tasks} of {node.total} begun, {node.live} live")
    if node.outcome:
        parts.append(f"-> {node.outcome}")
    if node.state not in ("SUCCEEDED", "PENDING") and (node.code or node.message):
        parts.append(one_line(f"{node.code}: {node.message}".strip(": "), 100))
    if node.state == "WAITING":
        until = f" until {node.until:%H:%M:%S}" if node.until else ""
        parts.append(f"waits{until}")
    return Text(clean("  ".join(parts)), style=style)


def _in_order(run: RunInfo) -> list[RunNode]:
    """What a node stands on comes before it, as far as the order of the file allows."""
    nodes = {node.id: node for node in run.nodes}
    done: dict[str, RunNode] = {}
    for first in run.nodes:
        stack = [(first, iter(first.depends_on))]
        while stack:
            node, rest = stack[-1]
            below = next((name for name in rest if name in nodes and name not in done), None)
            if below is None:
                done.setdefault(node.id, node)
                stack.pop()
            else:
                stack.append((nodes[below], iter(nodes[below].depends_on)))
    return list(done.values())


def _shown(run: RunInfo) -> set[str]:
    """What happens now first, then what went wrong, then the rest, up to the limit."""
    rank = {state: number for number, state in enumerate(_ORDER)}
    nodes = sorted(run.nodes, key=lambda node: rank.get(node.state, 0))
    return {node.id for node in nodes[:SHOWN_MAX]}


class RunScreen:
    """Draws a run again and again, or says each change on a line of its own."""

    def __init__(self, out: Console, say: Callable[[str], None]) -> None:
        self._live = Live(console=out, auto_refresh=False, transient=False) if out.is_terminal else None
        self._say = say
        self._said: dict[str, str] = {}

    def __enter__(self) -> RunScreen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def draw(self, run: RunInfo) -> None:
        """Show it as it is now."""
        if self._live is not None:
            self._live.update(tree_of(run), refresh=True)
            return
        moment = datetime.now(UTC)
        large = len(run.nodes) > SHOWN_MAX
        for node in run.nodes:
            if node.state != self._said.get(node.id, "PENDING"):
                self._said[node.id] = node.state
                if not large or node.state in ("FAILED", "WAITING"):
                    self._say(f"{node.state} {node_line(node, moment).plain}")
        if large and self._said.get("") != counts(run):
            self._said[""] = counts(run)
            self._say(counts(run))


async def follow_run(cluster: Cluster, run_id: str, screen: RunScreen) -> RunInfo:
    """Draw the run until it has ended; while no node answers, the last picture stays."""
    run = await cluster.workflows.get(run_id)
    while True:
        screen.draw(run)
        if run.task.done:
            return run
        await asyncio.sleep(LARGE_LOOK_S if len(run.nodes) > LARGE else LOOK_S)
        try:
            run = await cluster.workflows.get(run_id)
        except Unavailable:
            continue
