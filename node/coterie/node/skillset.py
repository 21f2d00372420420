"""The skills that tasks may name: those on the nodes' disks, and those that were published and are live."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from coterie.core.agentbook import AGENT_TYPE, find_agent
from coterie.core.commands import SubmitTask
from coterie.core.nouns import RetryPolicy
from coterie.core.skillbook import SkillEntry, SkillRevision, choose
from coterie.core.state import ClusterState
from coterie.node.errors import Violation, invalid
from coterie.node.schemas import Faults, faults_here
from coterie.node.skillhost.nouns import SkillInfo
from coterie.skills.described import Described, from_json
from coterie.v1 import tasks_pb2

GOAL_TYPE = "goal"


def known_skills(state: ClusterState) -> set[str]:
    """By name."""
    names = {skill.name for node in state.nodes.values() for skill in node.skills}
    return names | {name for name, entry in state.skillbook.items() if entry.live}


def refuse_unknown_agent(state: ClusterState, command: SubmitTask) -> None:
    """A run of an agent names one that there is. Where there are none at all, a skill of the operator's own
    may stand in for the shipped one. Raises ApiError."""
    if command.type != AGENT_TYPE or not state.agents or find_agent(state.agents, command.agent):
        return
    known = ", ".join(sorted(state.agents)[:20])
    said = f"no agent {command.agent!r}" if command.agent else "is missing: name one, agent=ID"
    raise invalid([Violation("task.agent", f"{said}; known: {known}")], "UNKNOWN_AGENT")


def with_defaults(
    command: SubmitTask,
    task: tasks_pb2.Task,
    state: ClusterState,
    local: Mapping[str, SkillInfo],
    default_ms: int = 0,
) -> SubmitTask:
    """The command as `filled` gives it. Raises ApiError when the payload is not what the skill takes; one
    that takes long to check is left to the node where it runs."""
    chosen = _chosen(command, state)
    if not command.payload.sha256:
        said = from_json(chosen.manifest).input if chosen is not None else None
        if said is not None:
            _refuse(faults_here(json.dumps(said), command.payload.inline, published=True))
        if chosen is None and (here := local.get(command.type)) is not None:
            _refuse(faults_here(here.input, command.payload.inline))
    return filled(command, task, state, local, default_ms)


def filled(
    command: SubmitTask,
    task: tasks_pb2.Task,
    state: ClusterState,
    local: Mapping[str, SkillInfo],
    default_ms: int,
) -> SubmitTask:
    """The command with what its skill says where the request says nothing. `local`: the skills on this node's
    disk; `default_ms`: of an attempt of which nothing is said. What this node does not know stays 0: the node
    where the task runs does."""
    entry, chosen = state.skillbook.get(command.type), _chosen(command, state)
    said = from_json(chosen.manifest) if chosen is not None else Described()
    if not task.attempt_timeout_ms and command.type != GOAL_TYPE:
        # What a goal's task has, its run takes over: there each task's own skill is to count.
        policy_ms = entry.policy.timeout_ms if entry is not None else 0
        own_ms = _on_disk_ms(command, local, default_ms) if chosen is None else said.timeout_ms or default_ms
        command = replace(command, attempt_timeout_ms=policy_ms or own_ms)
    if entry is not None and not task.max_attempts and not task.retry.max_attempts:
        command = replace(command, retry=_retry(command.retry, entry, said))
    return command


def _on_disk_ms(command: SubmitTask, local: Mapping[str, SkillInfo], default_ms: int) -> int:
    here = local.get(command.type)
    if here is None:
        return 0
    return default_ms if here.timeout_ms is None else here.timeout_ms


def _chosen(command: SubmitTask, state: ClusterState) -> SkillRevision | None:
    entry = state.skillbook.get(command.type)
    return choose(entry, command.task_id, command.constraints.skill_version) if entry is not None else None


def _refuse(wrong: Faults | None) -> None:
    if wrong:
        raise invalid([Violation(f"task.payload{at}", text) for at, text in wrong], "BAD_INPUT")


def _retry(default: RetryPolicy, entry: SkillEntry, said: Described) -> RetryPolicy:
    own = entry.policy.retry
    if own is not None:
        return replace(
            default,
            attempts_max=own.attempts_max or default.attempts_max,
            backoff_initial_ms=own.backoff_initial_ms or default.backoff_initial_ms,
            backoff_max_ms=own.backoff_max_ms or default.backoff_max_ms,
        )
    return replace(
        default,
        attempts_max=said.attempts_max or default.attempts_max,
        backoff_initial_ms=said.backoff_initial_ms or default.backoff_initial_ms,
        backoff_max_ms=said.backoff_max_ms or default.backoff_max_ms,
    )
