"""What runs in a node for as long as it runs."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Protocol

from coterie.node.loads import Reporter
from coterie.node.preference import LeaderPreference
from coterie.node.server import HealthKeeper
from coterie.node.vitals import load_report
from coterie.node.wiring import dialer, introducer, membership_keeper

if TYPE_CHECKING:
    from coterie.node.parts import NodeParts


class Loop(Protocol):
    """Ends only by an error, or when it is cancelled."""

    def run(self) -> Coroutine[None, None, None]: ...


def loops(app: NodeParts) -> list[Coroutine[None, None, None]]:
    """The loops of a node whose parts are built, not begun yet."""
    return [loop.run() for loop in (*_watchers(app), *_workers(app))]


def _watchers(app: NodeParts) -> list[Loop]:
    """Who sees how the others are, and says how this node is."""
    keeper = HealthKeeper(
        app.listener,
        takes_clients=app.takes_clients,
        leads=lambda: app.engine.is_leader,
        runs_skills=lambda: app.lease.valid,
    )
    reporter = Reporter(
        app.engine,
        app.channels,
        app.book,
        app.lease,
        lambda: load_report(app),
        app.clock,
        app.settings.health.report_interval_ms / 1000,
    )
    return [dialer(app), reporter, keeper, app.latency, introducer(app)]


def _workers(app: NodeParts) -> list[Loop]:
    """Who does something about it."""
    preferred = app.settings.preferred_leaders
    preference = LeaderPreference(app.me, preferred, app.engine, app.state, app.clock)
    members = membership_keeper(app)
    keepers = (app.blob_keeper, app.collector)
    return [app.filler, app.coordinator, members, preference, *keepers, app.worker, app.agent_watch]
