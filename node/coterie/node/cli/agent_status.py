"""`coterie agents status`: how the runs of agents went, by revision, by objective, and what is advised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.agents import AgentFigures, AgentObjective, AgentStatus
    from coterie.client.cluster import Cluster

SHORT = 12
NUMBERS = ("RUNS", "SUCCESS", "P50", "P95", "P99", "STEPS", "TOKENS", "USD", "LLM ERRORS")


@click.command(cls=LeafCommand)
@click.argument("agent_id", required=False, default="")
@click.pass_obj
def status(session: Session, agent_id: str) -> None:
    """Show how the runs of AGENT_ID, or of all agents, went: by revision, by objective; and advice."""

    async def work(cluster: Cluster) -> list[AgentStatus]:
        return await cluster.agents.status(agent_id)

    found = session.call(work)
    session.emit({"agents": found}, lambda out: print_status(out, found))


def print_status(out: Console, agents: list[AgentStatus]) -> None:
    """As `agents show` does it too."""
    from coterie.node.cli.output import table

    if not agents:
        out.print("there is no agent")
        return
    rows = [(one.id, *_row(figures)) for one in agents for figures in one.revisions]
    columns = ("AGENT", "REVISION", *NUMBERS, "ERRORS")
    out.print(table(columns, rows, right=NUMBERS) if rows else "no run has begun yet")
    for one in agents:
        for line in _lines(one):
            out.print(f"{one.id}: {line}", markup=False, highlight=False, soft_wrap=True)


def _row(figures: AgentFigures) -> tuple[str, ...]:
    ended = figures.succeeded + figures.failed + figures.timed_out + figures.dead_lettered
    errors = sorted(figures.errors.items(), key=lambda one: (-one[1], one[0]))
    return (
        f"{figures.revision[:SHORT]} {figures.version}".strip() or "(never begun)",
        str(ended),
        "-" if figures.success is None else f"{figures.success:.2%}",
        *(
            _seconds(ms) if figures.succeeded else "-"
            for ms in (figures.p50_ms, figures.p95_ms, figures.p99_ms)
        ),
        str(figures.steps),
        str(figures.tokens_in + figures.tokens_out),
        f"{figures.micro_usd / 1_000_000:.6f}",
        str(figures.llm_failed),
        ", ".join(f"{code} {count}" for code, count in errors) or "-",
    )


def _lines(one: AgentStatus) -> Iterator[str]:
    limit = f" of {one.replicas}" if one.replicas else ""
    yield f"{one.running}{limit} running, {one.waiting} waiting for a slot, {one.sleeping} sleeping"
    if one.unwatched:
        yield "its runs are not counted (agent.monitoring.enabled: false)"
    for objective in one.objectives:
        yield from _objective(objective)
    found = one.advice
    if found is not None:
        now = f" (now {one.replicas})" if one.replicas else ""
        nodes = f", nodes more: {found.nodes_more}" if found.nodes_more else ""
        yield f"advice: replicas {found.replicas}{now}{nodes}: {found.reason}"
        if found.queue_ms:
            yield f"advice: a run waits {_seconds(found.queue_ms)} for its first slot, on average"


def _objective(one: AgentObjective) -> Iterator[str]:
    from coterie.node.units import format_duration

    what = f"{one.slo} within {format_duration(one.response_ms)}" if one.response_ms else one.slo
    if not one.runs:
        window = format_duration(one.window_ms)
        yield f"slo: {what}: no run in {window} (objective {one.objective:.5g})"
        return
    left = f"{one.budget_left:.0%} of the error budget left" if one.budget_left >= 0 else "MISSED"
    burns = ", ".join(f"{burn.rate:.1f} in {format_duration(burn.window_ms)}" for burn in one.burns)
    yield (
        f"slo: {what}: {one.attained:.3%} of {one.runs} runs in {format_duration(one.window_ms)} "
        f"(objective {one.objective:.5g}), {left}; burn rate {burns}"
    )
    for burn in one.burns:
        if burn.burning:
            within = format_duration(burn.window_ms)
            rates = f"{burn.rate:.1f} within {within}, at most {burn.limit:.1f} are well"
            yield f"WARNING: the error budget of {one.slo} burns too fast: {rates}"


def _seconds(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1_000 else f"{ms / 1_000:.1f} s"
