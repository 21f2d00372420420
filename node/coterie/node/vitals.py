"""What a node says of itself: its load to the leader, its gauges to whoever scrapes them, its readiness."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from coterie.core.breakers import BreakerState, phase
from coterie.core.llm.accounts import DIMENSIONS, window_of
from coterie.core.ports import Role
from coterie.core.state import ClusterState
from coterie.node.on_loop import OnLoop
from coterie.node.tls import TlsMaterial
from coterie.v1 import peer_pb2

if TYPE_CHECKING:
    from coterie.node.parts import NodeParts

BREAKERS_SHOWN_MAX = 50
BUDGETS_SHOWN_MAX, ACCOUNTS_LOOKED_AT_MAX = 50, 5_000
BEHIND_MAX = 10_000  # entries not applied yet


def load_report(app: NodeParts) -> peer_pb2.LoadReport:
    """The report that is sent to the leader."""
    report = peer_pb2.LoadReport(
        node_id=app.me,
        incarnation=app.incarnation,
        capacity=app.settings.capacity,
        running=app.worker.running,
        cpu=app.gauge.cpu(),
        rss_bytes=app.gauge.rss_bytes(),
        applied_index=app.engine.applied_index,
        blobs_kept_for=sorted(app.blob_keeper.kept_for),
    )
    for name, load in app.worker.skill_loads().items():
        report.skills.add(
            skill=name,
            service_ms=load.service_ms,
            samples=load.samples,
            idle_ms=load.idle_ms,
            running=load.running,
            running_ms=load.running_ms,
        )
    for peer, rtt_ms in app.latency.rtt_ms.items():
        report.peers.add(node_id=peer, rtt_ms=rtt_ms)
    return report


def ready(app: NodeParts) -> tuple[bool, str]:
    """Whether this node can answer clients, and why not."""
    if not app.engine.has_quorum:
        return False, "no leader with a majority is known"
    behind = app.engine.commit_index - app.engine.applied_index
    return behind < BEHIND_MAX, f"{behind} entries behind"


def ready_beside(app: NodeParts) -> Callable[[], tuple[bool, str]]:
    """The same for other threads."""
    on_loop = OnLoop(asyncio.get_running_loop())
    return lambda: on_loop(lambda: ready(app))


def bind_gauges(app: NodeParts) -> None:
    """Give the metrics their sources: what the loop changes is looked at on the loop."""
    metrics = app.metrics
    metrics.on_loop = OnLoop(asyncio.get_running_loop())
    metrics.bind(lambda: gauges(app))
    metrics.bind(app.outside.gauges)
    metrics.bind(app.goals.gauges)
    metrics.bind_beside(lambda: shares(app))
    metrics.bind_families(app.agent_watch.families)


def gauges(app: NodeParts) -> dict[str, float]:
    """What metrics show as of now, as the event loop sees it."""
    state, engine = app.state(), app.engine
    waiters, watchers = app.hub.counts()
    return {
        "raft_term": engine.term,
        "raft_commit_index": engine.commit_index,
        "raft_applied_index": engine.applied_index,
        "raft_is_leader": engine.is_leader,
        "raft_has_quorum": engine.has_quorum,
        "raft_fsync_p99_seconds": engine.sync_p99_s,
        "disk_room": int(engine.room),
        "disk_free_bytes": engine.free_bytes,
        "raft_members": len(engine.members),
        "raft_voters": sum(member.role is Role.VOTER for member in engine.members),
        "message_queue_depth": len(state.indexes.queue) + len(state.indexes.delayed),
        "running_tasks": app.worker.running,
        "capacity": app.settings.capacity,
        "live_tasks": len(state.tasks),
        "ledger_backlog": app.ledger.backlog,
        "ledger_gaps": len(app.ledger.gaps),
        "ledger_rows_lost_total": app.ledger.rows_lost,
        "blob_bytes": app.blobs.total_bytes,
        "waiting_calls": waiters,
        "watching_calls": watchers,
        "breakers_opened_total": state.meta.breakers_opened,
        "dead_letters": len(state.dead_letters),
        "dead_letters_dropped_total": state.meta.dead_letters_dropped,
        **_certificate(app.tls),
    }


def _certificate(tls: TlsMaterial | None) -> dict[str, float]:
    """The one that this process goes by: new files count after the next start."""
    return {} if tls is None else {"tls_certificate_expires_seconds": tls.expires_at.timestamp()}


def shares(app: NodeParts) -> dict[str, float]:
    """What takes too long for the event loop. Only records that never change are looked at, of lists that one
    step of the interpreter copied."""
    state = app.state()
    return {**_breakers(state, app.clock.now_ms()), **_budgets(state)}


def _budgets(state: ClusterState) -> dict[str, float]:
    """How far each budget is used: billed and set aside, of the limit that is nearest, in the account that is
    fullest. Of as many budgets and accounts as are looked at quickly."""
    budgets = {budget.budget_id: budget for budget in list(state.llm.budgets.values())[:BUDGETS_SHOWN_MAX]}
    found = {name: 0.0 for name in budgets if '"' not in name}
    for account in list(state.llm.accounts.values())[:ACCOUNTS_LOOKED_AT_MAX]:
        name = account.name.partition("\0")[0]
        budget = budgets.get(name)
        if budget is None or name not in found or account.window != window_of(budget, state.meta.clock_ms):
            continue
        for dimension in DIMENSIONS:
            if limit := getattr(budget, dimension):
                used = getattr(account.billed, dimension) + getattr(account.reserved, dimension)
                found[name] = max(found[name], used / limit)
    return {f'budget_used_ratio{{budget="{name}"}}': ratio for name, ratio in found.items()}


def _breakers(state: ClusterState, now_ms: int) -> dict[str, float]:
    """How many are open, and half-open; those that are not closed by key, as far as they are few."""
    phases = {breaker.key: phase(breaker, now_ms) for breaker in list(state.breakers.values())}
    found: dict[str, float] = {}
    for wanted in (BreakerState.OPEN, BreakerState.HALF_OPEN):
        found[f'breakers{{state="{wanted.name}"}}'] = sum(one is wanted for one in phases.values())
    tripped = [key for key, one in phases.items() if one is not BreakerState.CLOSED and '"' not in key]
    return found | {f'breaker_open{{key="{key}"}}': 1.0 for key in sorted(tripped)[:BREAKERS_SHOWN_MAX]}
