"""Showing the run while it goes on: a live table on a terminal, one line a second elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coterie.node.demo.journal import Journal

LIVE_PERIOD_S = 0.25
PLAIN_PERIOD_S = 1.0
EVENTS_SHOWN = 8
BAR_WIDTH = 48
_STATE_STYLES = {"ACTIVE": "green", "SUSPECT": "yellow", "DOWN": "red", "killed": "bold red"}


async def show(console: Console, journal: Journal, plain: bool) -> None:
    """Show the journal until cancelled."""
    if plain or not console.is_terminal:
        await _show_lines(console, journal)
    else:
        await _show_live(console, journal)


def plain_line(journal: Journal) -> str:
    """The state of the run in one line."""
    states = journal.status.tasks_by_state if journal.status else {}
    alive = sum(1 for state in journal.processes.values() if state == "running")
    return (
        f"{journal.elapsed():6.1f} s  {journal.phase:<9} {journal.done:>5}/{journal.total} {journal.unit}  "
        f"queue {states.get('PENDING', 0):>4}  running {_running(journal):>3}  {journal.rate:6.1f} tasks/s  "
        f"leader {_leader(journal):<7} processes {alive}/{len(journal.processes)}"
    )


def picture(journal: Journal) -> RenderableType:
    """The live view."""
    return Group(_headline(journal), _nodes(journal), _bar(journal), *_events(journal))


async def _show_live(console: Console, journal: Journal) -> None:
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(picture(journal), refresh=True)
            await asyncio.sleep(LIVE_PERIOD_S)


async def _show_lines(console: Console, journal: Journal) -> None:
    shown = 0.0
    try:
        while True:
            shown = _print_events(console, journal, shown)
            _print(console, plain_line(journal))
            await asyncio.sleep(PLAIN_PERIOD_S)
    finally:
        _print_events(console, journal, shown)


def _print_events(console: Console, journal: Journal, after: float) -> float:
    for at, text in [line for line in journal.lines if line[0] > after]:
        _print(console, f"{at:6.1f} s  * {text}")
        after = at
    return after


def _print(console: Console, text: str) -> None:
    # Not print(): a path or an error message may hold what looks like markup.
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _running(journal: Journal) -> int:
    states = journal.status.tasks_by_state if journal.status else {}
    return states.get("RUNNING", 0) + states.get("SCHEDULED", 0)


def _leader(journal: Journal) -> str:
    return (journal.status.leader if journal.status else "") or "none"


def _headline(journal: Journal) -> Text:
    text = Text(f"Coterie demo  {journal.phase}", style="bold")
    term = journal.status.term if journal.status else 0
    return text.append(f"   {journal.elapsed():.1f} s   term {term}", style="not bold dim")


def _nodes(journal: Journal) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("node", "state", "role", "running", "cpu", "memory"):
        table.add_column(heading, justify="right" if heading in ("running", "cpu", "memory") else "left")
    known = {node.id: node for node in journal.status.nodes} if journal.status else {}
    leader = _leader(journal)
    for node_id, process in journal.processes.items():
        node = known.get(node_id)
        state = "killed" if process == "dead" else node.state if node else "starting"
        role = "leader" if node_id == leader and process == "running" else ""
        figures = (
            (f"{node.running}/{node.capacity}", f"{node.cpu:.0%}", f"{node.rss_bytes / 1e6:.0f} MB")
            if node and process == "running"
            else ("", "", "")
        )
        table.add_row(node_id, Text(state, style=_STATE_STYLES.get(state, "")), role, *figures)
    return table


def _bar(journal: Journal) -> Group:
    states = journal.status.tasks_by_state if journal.status else {}
    # A progress bar does not end its line; a grid does.
    bar = Table.grid()
    bar.add_row(ProgressBar(total=max(1, journal.total), completed=journal.done, width=BAR_WIDTH))
    text = (
        f"{journal.done:,}/{journal.total:,} {journal.unit}   acknowledged {len(journal.acked):,}   "
        f"queue {states.get('PENDING', 0):,}   running {_running(journal)}   {journal.rate:.1f} tasks/s"
    )
    return Group(Text(), bar, Text(text), Text())


def _events(journal: Journal) -> Iterator[Text]:
    for at, text in list(journal.lines)[-EVENTS_SHOWN:]:
        yield Text(f"{at:6.1f} s  {text}", style="red" if "kill -9" in text else "")
