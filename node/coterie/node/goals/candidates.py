"""The agents of the cluster as they bid: what they can do, how busy they are, how well they have done."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import cache
from typing import Any

from coterie.core.agentbook import AGENT_TYPE, AGENTS_MAX, AgentEntry, find_agent
from coterie.core.bidding import Bid, Candidate
from coterie.core.nouns import Data, Task, TaskState
from coterie.core.state import ClusterState
from coterie.node.agents.definition import Definition, read_definition
from coterie.node.agents.files import AgentProblems, unpack
from coterie.node.errors import ApiError

NEEDED = ("agent_id", "score", "fit", "load", "success")
Load = Callable[[Data], Awaitable[bytes]]
Definitions = dict[str, Definition]  # by revision
KEPT_MAX = AGENTS_MAX + 24  # else those of many agents would be read anew each time
Counts = dict[str, Counter[str]]


async def candidates(state: ClusterState, load: Load, known: Definitions) -> list[Candidate]:
    """All agents, by id. `known` keeps what their revisions say, for the next time."""
    counts = _counted(state)
    slots = sum(node.capacity for node in state.nodes.values())
    entries = [state.agents[name] for name in sorted(state.agents)]
    return [_candidate(entry, await _definition(entry, load, known), counts, slots) for entry in entries]


def bid_to_json(bid: Bid) -> dict[str, Any]:
    """What stands in the journal; what says nothing is left out."""
    return {name: value for name, value in asdict(bid).items() if value or name in NEEDED}


def _candidate(entry: AgentEntry, known: Definition | None, counts: Counts, slots: int) -> Candidate:
    count = counts.get(entry.agent_id, Counter())
    labels, declines, capacity = [*entry.domains, entry.name], "", slots
    if known is not None:
        labels += [binding.skill_id for binding in known.config.skills]
        capacity = known.concurrent or slots
        if known.registry is not None and known.registry.status == "paused":
            declines = "it is paused in its registry"
    if not entry.live:
        declines = "it has no live revision"
    return Candidate(
        entry.agent_id,
        tuple(dict.fromkeys(label for label in labels if label)),
        running=count["running"],
        queued=count["queued"],
        capacity=capacity,
        succeeded=count["succeeded"],
        failed=count["failed"],
        declines=declines,
    )


async def _definition(entry: AgentEntry, load: Load, known: Definitions) -> Definition | None:
    """What its live revision says; None where that cannot be read here."""
    found = entry.find(entry.live)
    if found is None:
        return None
    definition = known.get(found.revision)
    if definition is None:
        try:
            definition = read_definition(unpack(await load(found.bundle)))
        except (AgentProblems, ApiError, ValueError, OSError):
            return None
        while len(known) >= KEPT_MAX:
            del known[next(iter(known))]
        known[found.revision] = definition
        await asyncio.sleep(0)  # each takes its time, and there may be many
    return definition


def _counted(state: ClusterState) -> Counts:
    """Runs by agent: live ones, and the recently finished ones that the state remembers."""
    counts: Counts = {}

    @cache  # a name that is no id is looked for among all
    def found(agent: str) -> AgentEntry | None:
        return find_agent(state.agents, agent)

    def add(agent: str, what: str, count: int) -> None:
        entry = found(agent)
        if entry is not None:
            counts.setdefault(entry.agent_id, Counter())[what] += count

    for agent in state.indexes.agent_runs.names():
        stand = state.indexes.agent_runs.stand(agent)
        add(agent, "running", stand.with_slot)
        add(agent, "queued", stand.queued + stand.asleep)
    for task in state.finished.values():
        if task.type == AGENT_TYPE and task.agent:
            add(task.agent, _end(task), 1)
    return counts


def _end(task: Task) -> str:
    """Who cancels a run says nothing about its agent."""
    if task.state is TaskState.SUCCEEDED:
        return "succeeded"
    return "cancelled" if task.state is TaskState.CANCELLED else "failed"
