"""What the agent loop asks its node: which revision it is, and what that revision says."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coterie.core.agent_counts import run_of
from coterie.core.agentbook import AgentEntry, PinAgentRun, choose, find_agent
from coterie.core.commands import Rejected
from coterie.core.skillbook import PIN, SkillEntry
from coterie.node.agents.definition import Definition, read_definition, skill_name
from coterie.node.agents.files import AgentProblems, unpack
from coterie.node.agents.model import Retry, SkillBinding
from coterie.node.agents.service import unknown_agent
from coterie.node.skill_calls import Handlers, Run, refused
from coterie.node.skillhost import SkillInfo
from coterie.skills.agent.plan import GONE, tool_name

ANY_INPUT: dict[str, Any] = {"type": "object", "additionalProperties": True}
DEFINITIONS_KEPT = 64
FIXED_PAUSE_MS = 1_000


@dataclass(frozen=True, slots=True)
class AgentCalls:
    """`skills`: those of this node. `model`: where an agent's calls go, by provider and model."""

    skills: Callable[[], Mapping[str, SkillInfo]]
    model: Callable[[str, str], str]
    known: dict[str, Definition]

    def handlers(self) -> Handlers:
        return {
            "agent.choose": self.choose,
            "agent.load": self.load,
            "agent.permissions": self.permissions,
        }

    async def choose(self, run: Run, args: Any) -> dict[str, str]:
        """The revision that this run keeps, from its first attempt that asks."""
        entry = _entry(run)
        pinned = run.state.agent_runs.get(run.task_id)
        if pinned is None:
            revision = choose(entry, run.task_id)
            if revision is None:
                raise refused("AGENT_NOT_LIVE", f"agent {entry.agent_id} has no live revision")
            outcome = await run.commit_own(PinAgentRun(run.task_id, run.attempt, revision.revision))
            if isinstance(outcome, Rejected):
                raise refused(outcome.code, outcome.reason)
            pinned = run.state.agent_runs[run.task_id]
        return {"agent": entry.agent_id, "revision": pinned.revision}

    async def load(self, run: Run, args: Any) -> dict[str, Any]:
        """What the loop needs of that revision."""
        entry = _entry(run)
        definition = await self._definition(run, entry, str(args.get("revision", "")))
        config = definition.config
        if definition.registry is not None and definition.registry.status == "paused":
            raise refused("AGENT_PAUSED", f"agent {config.id} is paused in its registry")
        model, loop = config.model, config.loop
        return {
            "id": config.id,
            "name": definition.name,
            "system": definition.system_prompt(),
            "model": self.model(model.provider, model.name),
            "temperature": model.temperature,
            "max_tokens": model.max_tokens,
            "effort": model.thinking,
            "tools": list(self._tools(run, definition, args.get("tools"))),
            "approve": list(definition.tools.approve),
            "allow": list(definition.tools.allow),
            "deny": list(definition.tools.deny),
            "handoff": [self._colleague(run, name) for name in loop.handoff],
            "memory_ttl_s": config.memory.ttl // 1_000 if config.memory.type == "persistent" else 0,
            "mcp": {name: list(one.allow) for name, one in sorted(definition.tools.mcp_servers.items())},
            "log_level": config.monitoring.log_level,
            "loop": loop.model_dump(exclude={"stop", "handoff"}),
            "stop": list(loop.stop),
        }

    async def permissions(self, run: Run, args: Any) -> dict[str, Any] | None:
        """What the agent may touch on whose behalf this task runs; None: it runs for nobody in particular.

        Where it is a part of a run of the agent, by the revision that the run is pinned to. An agent that is
        not there, or not under this name any more, may touch nothing: raises AGENT_NOT_FOUND."""
        if not run.task.agent:
            return None
        entry = find_agent(run.state.agents, run.task.agent)
        if entry is None:
            raise refused("AGENT_NOT_FOUND", f"agent {run.task.agent}: no agent of the cluster has this name")
        pinned = run_of(run.state, run.task)
        definition = await self._definition(run, entry, pinned.revision if pinned else entry.live)
        return definition.config.permissions.model_dump()

    async def _definition(self, run: Run, entry: AgentEntry, revision: str) -> Definition:
        known = self.known.get(revision)
        if known is not None:
            return known
        found = entry.find(revision)
        if found is None:
            raise refused("REVISION_GONE", f"agent {entry.agent_id} has no revision {revision[:12]} any more")
        try:
            definition = read_definition(unpack(await run.load(found.bundle)))
        except (AgentProblems, ValueError) as error:
            raise refused("BAD_AGENT", f"agent {entry.agent_id}: {error}") from error
        while len(self.known) >= DEFINITIONS_KEPT:
            del self.known[next(iter(self.known))]
        self.known[revision] = definition
        return definition

    def _tools(self, run: Run, definition: Definition, pinned: list[str] | None) -> Iterator[dict[str, Any]]:
        """The bound skills that may be called, as the model is told of them. `pinned`: these and no others,
        also what is gone by now or not on this node: the run finds results of theirs by the skill."""
        for binding in definition.config.skills:
            if not allowed(binding.skill_id, definition):
                continue
            name = self._skill(run, binding, pinned)
            told = self._told(run, binding, name) if pinned is None or name in pinned else None
            if told is None and pinned is not None and name in pinned:
                told = {"description": GONE, "parameters": ANY_INPUT, "manual": GONE}
            if told is not None:
                options = _options(binding)
                yield {"name": tool_name(binding.skill_id), **told, "options": options, "skill": name}

    def _skill(self, run: Run, binding: SkillBinding, pinned: list[str] | None) -> str:
        known = {*run.state.skillbook, *self.skills()} if pinned is None else pinned
        return skill_name(binding.skill_id, known)

    def _told(self, run: Run, binding: SkillBinding, name: str) -> dict[str, Any] | None:
        published, local = run.state.skillbook.get(name), self.skills().get(name)
        if published is not None and published.live:
            description, schema, manual = _published(published, binding.version)
        elif local is not None:
            description, schema, manual = local.description, json.loads(local.input or "null"), local.manual
        else:
            return None
        return {"description": description, "parameters": _of_tool(schema), "manual": manual.strip()}

    def _colleague(self, run: Run, name: str) -> dict[str, str]:
        entry = find_agent(run.state.agents, name)
        about = ", ".join(entry.domains) if entry else ""
        return {"id": name, "about": f"{entry.name}: {about}" if entry and about else name}


def _options(binding: SkillBinding) -> dict[str, Any]:
    """Those of the child task, by the agent's files alone: every attempt asks for the same child."""
    options: dict[str, Any] = {}
    if binding.timeout:
        options["timeout"] = binding.timeout / 1_000
    if binding.retry_policy is not None:
        options |= _retrying(binding.retry_policy)
    if binding.version not in ("", "latest"):
        options["constraints"] = {"skill_version": binding.version}
    return options


def _retrying(policy: Retry) -> dict[str, Any]:
    """As options of the child task. A fixed pause is one that does not grow."""
    attempts = policy.max_retries + 1
    if policy.backoff == "fixed":
        pause = (policy.max_backoff or FIXED_PAUSE_MS) / 1_000
        return {"retry": {"max_attempts": attempts, "initial_backoff": pause, "max_backoff": pause}}
    if policy.max_backoff:
        return {"retry": {"max_attempts": attempts, "max_backoff": policy.max_backoff / 1_000}}
    return {"max_attempts": attempts}


def allowed(name: str, definition: Definition) -> bool:
    """By the globs of tools-config.json: deny wins."""
    tools = definition.tools
    if any(fnmatch.fnmatchcase(name, glob) for glob in tools.deny):
        return False
    return any(fnmatch.fnmatchcase(name, glob) for glob in tools.allow)


def _of_tool(schema: Any) -> Any:
    """What a model is told: the arguments of a tool are always an object."""
    kinds = schema.get("type") if isinstance(schema, dict) else None
    return (
        {**schema, "type": "object"} if isinstance(kinds, list) and "object" in kinds else schema or ANY_INPUT
    )


def _entry(run: Run) -> AgentEntry:
    name = run.task.agent
    if not name:
        raise refused("NO_AGENT", "the task names no agent: submit it with agent=ID")
    entry = find_agent(run.state.agents, name)
    if entry is None:
        raise unknown_agent(name)
    return entry


def _published(entry: SkillEntry, version: str) -> tuple[str, Any, str]:
    wanted = "" if version in ("", "latest") else version
    fits = [one for one in entry.revisions if wanted in (one.version, PIN + one.revision, one.revision)]
    chosen = (fits[-1] if fits else None) if wanted else entry.find(entry.live)
    manifest = json.loads(chosen.manifest or "{}") if chosen is not None else {}
    about = str(manifest.get("description", entry.skill_id))
    return about, manifest.get("input"), str(manifest.get("manual", ""))
