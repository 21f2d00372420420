"""What becomes of the agents in the state: applied, tried on a share of the runs, rolled back, removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coterie.core.agent_counts import forget
from coterie.core.agentbook import (
    AGENT_TYPE,
    AGENTS_MAX,
    ALIASES_MAX,
    PERCENT,
    REVISIONS_MAX,
    AgentEntry,
    AgentRevision,
    ApplyAgent,
    PinAgentRun,
    RemoveAgent,
    RollBackAgent,
    find_agent,
    is_agent_id,
    is_revision,
)
from coterie.core.agentstats import AgentRun
from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.lifecycle import heard
from coterie.core.shown import shown
from coterie.core.state import ClusterState, Moment


def apply_agent(state: ClusterState, command: ApplyAgent, moment: Moment) -> Outcome:
    wrong = _fault(state, command)
    if wrong is not None:
        return wrong
    known = state.agents.get(command.agent_id) or AgentEntry(command.agent_id)
    fresh = replace(
        _with_revision(known, replace(command.revision, applied_at_ms=moment.at_ms)),
        name=command.name,
        aliases=command.aliases,
        domains=command.domains,
    )
    fresh = _routed(fresh, command.revision.revision, command.percent)
    duplicate = fresh == known
    trimmed = state.agents[command.agent_id] = _trimmed(fresh)
    if len(trimmed.revisions) < len(fresh.revisions):
        forget(state, command.agent_id, frozenset(one.revision for one in trimmed.revisions))
    return Accepted(duplicate=duplicate)


def _fault(state: ClusterState, command: ApplyAgent) -> Rejected | None:
    if not is_agent_id(command.agent_id):
        return Rejected("BAD_AGENT", f"{shown(command.agent_id)} is no id of an agent")
    if not is_revision(command.revision.revision) or not 1 <= command.percent <= PERCENT:
        return Rejected("BAD_AGENT", "a revision is a SHA-256, its share is 1 to 100 percent")
    if len(command.aliases) > ALIASES_MAX or not all(map(is_agent_id, command.aliases)):
        return Rejected("BAD_AGENT", f"an agent has at most {ALIASES_MAX} other ids")
    for name in (command.agent_id, *command.aliases):
        other = find_agent(state.agents, name)
        if other is not None and other.agent_id != command.agent_id:
            return Rejected("AGENT_EXISTS", f"{name} is another id of agent {other.agent_id}")
    if command.agent_id not in state.agents and len(state.agents) >= AGENTS_MAX:
        return Rejected("TOO_MANY_AGENTS", f"there are {AGENTS_MAX} agents; remove some")
    known = state.agents.get(command.agent_id)
    if command.percent < PERCENT and (known is None or not known.live):
        return Rejected("NOTHING_LIVE", f"agent {command.agent_id} is new: there is nothing to compare with")
    return None


def _with_revision(entry: AgentEntry, revision: AgentRevision) -> AgentEntry:
    if any(one.revision == revision.revision for one in entry.revisions):
        return entry
    return replace(entry, revisions=(*entry.revisions, revision))


def _routed(entry: AgentEntry, revision: str, percent: int) -> AgentEntry:
    if percent < PERCENT:
        if revision == entry.live:
            return entry
        return replace(entry, canary=revision, canary_percent=percent)
    previous = entry.previous if revision == entry.live else entry.live
    return replace(entry, live=revision, previous=previous, canary="", canary_percent=0)


def _trimmed(entry: AgentEntry) -> AgentEntry:
    kept, used = list(entry.revisions), {entry.live, entry.previous, entry.canary}
    while len(kept) > REVISIONS_MAX:
        kept.remove(next(one for one in kept if one.revision not in used))
    return replace(entry, revisions=tuple(kept))


def roll_back(state: ClusterState, command: RollBackAgent, moment: Moment) -> Outcome:
    known = state.agents.get(command.agent_id)
    if known is None:
        return Rejected("AGENT_NOT_FOUND", f"there is no agent {command.agent_id}")
    if known.canary:
        state.agents[known.agent_id] = replace(known, canary="", canary_percent=0)
        return Accepted()
    if not known.previous:
        return Rejected("NOTHING_BEFORE", f"agent {known.agent_id} has had no other revision")
    state.agents[known.agent_id] = replace(known, live=known.previous, previous=known.live)
    return Accepted()


def remove(state: ClusterState, command: RemoveAgent, moment: Moment) -> Outcome:
    if state.agents.pop(command.agent_id, None) is None:
        return Rejected("AGENT_NOT_FOUND", f"there is no agent {command.agent_id}")
    forget(state, command.agent_id)
    return Accepted()


def pin(state: ClusterState, command: PinAgentRun, moment: Moment) -> Outcome:
    """The first choice of a run stands."""
    task = heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    entry = find_agent(state.agents, task.agent)
    if task.type != AGENT_TYPE or entry is None:
        return Rejected("NO_AGENT", f"task {task.task_id} is no run of an agent that is known")
    if task.task_id in state.agent_runs:
        return Accepted(task.task_id, duplicate=True)
    if not any(one.revision == command.revision for one in entry.revisions):
        return Rejected("REVISION_GONE", f"agent {entry.agent_id} has no revision {command.revision[:12]}")
    queue_ms = max(0, task.assigned_at_ms - max(task.created_at_ms, task.not_before_ms))
    state.agent_runs[task.task_id] = AgentRun(task.task_id, entry.agent_id, command.revision, queue_ms)
    return Accepted(task.task_id)


RULES: dict[type, Callable[[ClusterState, Any, Moment], Outcome]] = {
    ApplyAgent: apply_agent,
    RollBackAgent: roll_back,
    RemoveAgent: remove,
    PinAgentRun: pin,
}
