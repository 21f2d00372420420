"""How the agents of the cluster are doing, as any node reads it from its replica."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from coterie.core.agent_counts import pledge_of
from coterie.core.agent_slo import LATELY_MS, Advice, Live, Room, Standing, advice, standings
from coterie.core.agentbook import NO_PLEDGE, AgentEntry, Pledge, find_agent
from coterie.core.agentstats import AgentLoad, AgentRun, AgentTally, tally_name
from coterie.core.llm.nouns import LlmUsage
from coterie.core.nouns import NodeStatus
from coterie.core.state import ClusterState

SPENT = ("llm_calls", "llm_failed", "tokens_in", "tokens_out", "micro_usd")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one revision: its ended runs, and what its live ones have used so far."""

    revision: str
    version: str
    tally: AgentTally
    spent: dict[str, int]


@dataclass(frozen=True, slots=True)
class AgentReport:
    """One agent at one moment."""

    entry: AgentEntry
    pledge: Pledge
    live: Live
    figures: tuple[Figures, ...]
    standings: tuple[Standing, ...]
    advice: Advice | None
    usage: tuple[LlmUsage, ...]  # by model, under all its names, since the cluster began


def reports(state: ClusterState, now_ms: int, wanted: str = "") -> Iterator[AgentReport]:
    """Of all agents by id, or of one, by any of its names."""
    found = find_agent(state.agents, wanted) if wanted else None
    entries = [found] if found is not None else [state.agents[name] for name in sorted(state.agents)]
    if not entries:
        return
    live, room, use = _live(state, now_ms), _room(state), _usage(state)
    runs: dict[str, list[AgentRun]] = {}
    for run in state.agent_runs.values():
        runs.setdefault(run.agent_id, []).append(run)
    for entry in entries:
        pledge = pledge_of(entry, entry.live) if entry.live else NO_PLEDGE
        load = state.agent_loads.get(entry.agent_id) or AgentLoad(entry.agent_id)
        mine = live.get(entry.agent_id, Live())
        yield AgentReport(
            entry,
            pledge,
            mine,
            tuple(_figures(state, entry, runs.get(entry.agent_id, []))),
            tuple(standings(pledge, load, now_ms)),
            advice(pledge, load, mine, room, now_ms) if pledge.scaling else None,
            tuple(use.get(entry.agent_id, ())),
        )


def without_spending(report: AgentReport) -> AgentReport:
    """The report without what language models have cost."""
    figures = tuple(replace(one, spent={}) for one in report.figures)
    return replace(report, figures=figures, usage=())


def _figures(state: ClusterState, entry: AgentEntry, runs: list[AgentRun]) -> Iterator[Figures]:
    """Newest revision first; at the end the runs that never chose one."""
    for revision, version in [*((one.revision, one.version) for one in reversed(entry.revisions)), ("", "")]:
        tally = state.agent_tallies.get(tally_name(entry.agent_id, revision))
        mine = [run for run in runs if run.revision == revision]
        if tally is None and not mine:
            continue
        tally = tally or AgentTally(entry.agent_id, revision)
        spent = {name: getattr(tally, name) + sum(getattr(run, name) for run in mine) for name in SPENT}
        yield Figures(revision, version, tally, spent)


def _live(state: ClusterState, now_ms: int) -> dict[str, Live]:
    """The runs that have not ended, by the id of their agent."""
    runs, found = state.indexes.agent_runs, dict[str, Live]()
    for name in runs.names():
        entry = find_agent(state.agents, name)
        if entry is not None:
            known, more = found.get(entry.agent_id, Live()), runs.stand(name)
            found[entry.agent_id] = Live(
                known.waiting + more.queued,
                known.running + more.with_slot,
                known.sleeping + more.asleep,
                known.arrived + runs.arrived(name, now_ms - LATELY_MS),
            )
    return found


def _room(state: ClusterState) -> Room:
    up = [one for one in state.nodes.values() if one.status is NodeStatus.UP and not one.draining]
    slots = sum(one.capacity for one in up)
    held = sum(len(state.indexes.held_by(one.node_id)) for one in up)
    return Room(len(up), slots, max(0, slots - held), min((one.memory_bytes for one in up), default=0))


def _usage(state: ClusterState) -> dict[str, list[LlmUsage]]:
    """What was used of each model, by the id of the agent; those of several tenants and names together."""
    sums: dict[tuple[str, str], LlmUsage] = {}

    @cache  # a name that is no id is looked for among all
    def named(agent: str) -> AgentEntry | None:
        return find_agent(state.agents, agent)

    for row in state.llm.usage.values():
        entry = named(row.agent) if row.agent else None
        if entry is not None:
            known = sums.get((entry.agent_id, row.model), LlmUsage("", entry.agent_id, row.model))
            sums[entry.agent_id, row.model] = LlmUsage(
                "",
                entry.agent_id,
                row.model,
                known.calls + row.calls,
                known.tokens_in + row.tokens_in,
                known.tokens_out + row.tokens_out,
                micro_usd=known.micro_usd + row.micro_usd + row.in_doubt_micro_usd,
                in_doubt=known.in_doubt + row.in_doubt,
            )
    found: dict[str, list[LlmUsage]] = {}
    for (agent, _), row in sorted(sums.items()):
        found.setdefault(agent, []).append(row)
    return found
