"""Live views: the status of a cluster, again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from coterie.client.errors import CoterieError
from coterie.node.cli.output import console, nodes_table, status_lines
from coterie.node.cli.reading import read_status
from coterie.node.cli.text import clean, one_line

if TYPE_CHECKING:
    from coterie.client.cluster import Cluster
    from coterie.client.models import Status

LOOK_S: Final = 1.0  # how long a live view waits for the leader before it asks a node alone
SILENCE_S: Final = 4.0  # how long it waits for any answer


class Rate:
    """Events per second between two readings of a counter."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, int] | None = None

    def of(self, count: int) -> float | None:
        """The rate since the last reading; None for the first, and when the counter went back."""
        now, last = self._clock(), self._last
        self._last = (now, count)
        if last is None or count < last[1] or now <= last[0]:
            return None
        return (count - last[1]) / (now - last[0])


class StatusView:
    """Asks the cluster and shows the answer; while there is none, the last one and why."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._rate = Rate()
        self._status: Status | None = None
        self._speed: float | None = None
        self._trouble = ""

    @property
    def status(self) -> Status | None:
        """The last answer."""
        return self._status

    async def refresh(self) -> None:
        """Ask once."""
        try:
            async with asyncio.timeout(SILENCE_S):
                self._status = await read_status(self._cluster, LOOK_S)
            self._speed = self._rate.of(self._status.tasks_finished_total)
            self._trouble = ""
        except (CoterieError, TimeoutError) as error:
            self._trouble = one_line(str(error) or "no node answers", 160)

    def render(self, processes: Mapping[str, str] | None = None) -> RenderableType:
        """The table as it is now; `processes` (text by node id) get a column."""
        parts: list[RenderableType] = []
        if self._status is not None:
            parts += [*status_lines(self._status, self._speed), Text()]
            parts.append(nodes_table(self._status.nodes, processes))
        if self._trouble:
            parts.append(Text(clean(self._trouble), style="yellow"))
        return Group(*parts) if parts else Text("asking …")

    def brief(self) -> str:
        """What matters, on one line: for a log instead of a screen."""
        if self._trouble or self._status is None:
            return self._trouble or "asking …"
        found = self._status
        quorum = "quorum" if found.has_quorum else "NO QUORUM"
        members = f"{found.active_nodes} of {found.total_nodes} nodes active"
        return f"leader {found.leader or 'none known'}  term {found.term}  {quorum}  {members}"


class Screen:
    """A table that is drawn over itself on a terminal; elsewhere a line whenever something changed."""

    def __init__(self, out: Console, view: StatusView) -> None:
        self._out = out
        self._view = view
        self._live = Live(console=out, auto_refresh=False, transient=False) if out.is_terminal else None
        self._said = ""

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def draw(self, processes: Mapping[str, str] | None = None) -> None:
        """Show the view as it is now."""
        if self._live is not None:
            self._live.update(self._view.render(processes), refresh=True)
        elif self._view.brief() != self._said:
            self._said = self._view.brief()
            self._out.print(self._said, soft_wrap=True)


async def watch_status(cluster: Cluster, interval_s: float) -> None:
    """Show the status until somebody ends it."""
    view = StatusView(cluster)
    with Screen(console(), view) as screen:
        while True:
            await view.refresh()
            screen.draw()
            await asyncio.sleep(interval_s)
