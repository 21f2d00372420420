"""What is counted of the runs of agents while they live and when they end; agentstats has the nouns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coterie.core.agentbook import NO_PLEDGE, AgentEntry, Pledge, find_agent
from coterie.core.agentstats import AgentLoad, AgentRun, AgentTally, counted, noted, tally_name, with_error
from coterie.core.bounds64 import within
from coterie.core.nouns import NO_PARENT, Task, TaskId, TaskState
from coterie.core.state import ClusterState

DEPTH_MAX = 64  # of a family that is looked through
# Errors that the caller made: no answer was owed.
CALLERS_FAULT = frozenset({"BAD_INPUT", "AGENT_PAUSED"})


def run_of(state: ClusterState, task: Task | None) -> AgentRun | None:
    """The run that a task is a part of: itself, else its nearest ancestor on behalf of the same agent."""
    agent = task.agent if task is not None else ""
    for _ in range(DEPTH_MAX):
        if task is None or task.agent != agent:
            return None
        run = state.agent_runs.get(task.task_id)
        if run is not None:
            return run
        task = state.tasks.get(task.parent_id) if task.parent_id != NO_PARENT else None
    return None


def note_spent(state: ClusterState, task_id: TaskId, **more: int) -> None:
    """A call of a model ended, of that task: it counts to the run that it is a part of."""
    run = run_of(state, state.tasks.get(task_id))
    if run is not None:
        changes: dict[str, Any] = {name: within(getattr(run, name) + by) for name, by in more.items()}
        state.agent_runs[run.task_id] = replace(run, **changes)


def note_let_go(state: ClusterState, task: Task, at_ms: int) -> None:
    """An attempt of a run has ended, and its slot is free."""
    run = state.agent_runs[task.task_id]
    held_ms = within(run.held_ms + max(0, at_ms - task.assigned_at_ms))
    state.agent_runs[task.task_id] = replace(run, held_ms=held_ms)


def note_end(state: ClusterState, after: Task, at_ms: int) -> None:
    """A run has ended: to the tally of its revision, and to what its agent did lately."""
    run = state.agent_runs.pop(after.task_id, None)
    entry = state.agents.get(run.agent_id) if run is not None else find_agent(state.agents, after.agent)
    if entry is None:
        return
    pledge = pledge_of(entry, run.revision if run is not None else entry.live)
    if pledge.unwatched:
        return
    run = run or AgentRun(after.task_id, entry.agent_id, "", queue_ms=max(0, at_ms - _wanted_at_ms(after)))
    name = tally_name(run.agent_id, run.revision)
    tally = state.agent_tallies.get(name) or AgentTally(run.agent_id, run.revision, first_at_ms=at_ms)
    state.agent_tallies[name] = _tallied(tally, run, after, at_ms)
    load = state.agent_loads.get(run.agent_id) or AgentLoad(run.agent_id)
    state.agent_loads[run.agent_id] = _loaded(load, run, after, pledge, at_ms)


def pledge_of(entry: AgentEntry, revision: str) -> Pledge:
    """What that revision promises; nothing where it is not known any more."""
    found = entry.find(revision)
    return found.pledge if found is not None else NO_PLEDGE


def pledge_for(state: ClusterState, agent: str, parent_id: TaskId) -> Pledge | None:
    """What binds a new task on behalf of that agent: the revision of the run that it is to be a part of, else
    the live one. None: the agent is not known here."""
    entry = find_agent(state.agents, agent)
    if entry is None:
        return None
    parent = state.tasks.get(parent_id) if parent_id else None
    run = run_of(state, parent) if parent is not None and parent.agent == agent else None
    return pledge_of(entry, run.revision if run is not None else entry.live)


def forget(state: ClusterState, agent_id: str, kept: frozenset[str] = frozenset()) -> None:
    """Drop the tallies of revisions that are gone; with none `kept`, all that is known of the agent."""
    for name, tally in list(state.agent_tallies.items()):
        gone = tally.revision not in kept and (tally.revision or not kept)
        if tally.agent_id == agent_id and gone:
            del state.agent_tallies[name]
    if not kept:
        state.agent_loads.pop(agent_id, None)


def took_ms(after: Task, at_ms: int) -> int:
    """From when the run was wanted to its end."""
    return max(0, at_ms - _wanted_at_ms(after))


def _wanted_at_ms(task: Task) -> int:
    return max(task.created_at_ms, task.not_before_ms)


def is_callers_fault(task: Task) -> bool:
    return task.error is not None and task.error.code in CALLERS_FAULT


def _tallied(tally: AgentTally, run: AgentRun, after: Task, at_ms: int) -> AgentTally:
    end = "refused" if is_callers_fault(after) else after.state.name.lower()
    changes: dict[str, object] = {end: getattr(tally, end) + 1, "last_at_ms": at_ms}
    changes["steps"] = tally.steps + after.step_count
    for name in ("llm_calls", "llm_failed", "tokens_in", "tokens_out", "micro_usd"):
        changes[name] = within(getattr(tally, name) + getattr(run, name))
    if after.state is TaskState.SUCCEEDED:
        changes["latencies"] = counted(tally.latencies, took_ms(after, at_ms))
        changes["latency_ms"] = tally.latency_ms + took_ms(after, at_ms)
    elif after.state is not TaskState.CANCELLED:
        code = after.error.code if after.error is not None else after.state.name
        changes["errors"] = with_error(tally.errors, code)
    return replace(tally, **changes)  # type: ignore[arg-type]


def _loaded(load: AgentLoad, run: AgentRun, after: Task, pledge: Pledge, at_ms: int) -> AgentLoad:
    """Only runs that an answer was owed count as good or bad."""
    owed = after.state is not TaskState.CANCELLED and not is_callers_fault(after)
    good = after.state is TaskState.SUCCEEDED
    slow = good and 0 < pledge.response_ms < took_ms(after, at_ms)
    load = noted(
        load,
        at_ms,
        runs=int(owed),
        bad=int(owed and not good),
        slow=int(slow),
        held_ms=run.held_ms * owed,
        queue_ms=run.queue_ms * owed,
    )
    return noted(load, min(_wanted_at_ms(after), at_ms), arrived=1)  # it may end before it was to begin
