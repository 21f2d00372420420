"""What a plan may be made of: the skills and agents of the cluster, as a language model is told of them."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from coterie.core.skillbook import SkillEntry
from coterie.core.state import ClusterState
from coterie.node.skillhost import SkillInfo
from coterie.node.skillset import known_skills

# What runs plans and agents, and what only tests a cluster.
HIDDEN = frozenset({"goal", "agent", "workflow", "map-reduce", "sleep", "echo", "code"})
SKILLS_MAX, AGENTS_MAX = 200, 200
ABOUT_CHARS_MAX = 400
SCHEMA_CHARS_MAX = 2_000

Local = Mapping[str, SkillInfo]


def skill_names(state: ClusterState, local: Local, globs: Sequence[str]) -> list[str]:
    """The skills that a plan may name. One that is hidden is offered where it is named in full."""
    known = known_skills(state) | set(local)
    return sorted(
        name
        for name in known
        if name in globs or (name not in HIDDEN and any(fnmatch.fnmatchcase(name, one) for one in globs))
    )


def catalogue(state: ClusterState, local: Local, globs: Sequence[str]) -> dict[str, Any]:
    """Skills with their inputs, agents with what they can do, and a revision that changes with them."""
    skills = [
        {"name": name, **_about(state.skillbook.get(name), local.get(name))}
        for name in skill_names(state, local, globs)[:SKILLS_MAX]
    ]
    entries = [state.agents[name] for name in sorted(state.agents)][:AGENTS_MAX]
    agents = [{"id": one.agent_id, "name": one.name, "capabilities": list(one.domains)} for one in entries]
    lives = [
        *((one.agent_id, one.live, one.canary) for one in entries),
        *((one["name"], _live(state.skillbook.get(one["name"]))) for one in skills),
    ]
    said = json.dumps([skills, agents, lives], sort_keys=True)
    return {"skills": skills, "agents": agents, "revision": hashlib.sha256(said.encode()).hexdigest()[:16]}


def _live(entry: SkillEntry | None) -> str:
    return entry.live if entry is not None else ""


def _about(entry: SkillEntry | None, local: SkillInfo | None) -> dict[str, Any]:
    chosen = entry.find(entry.live) if entry is not None and entry.live else None
    if chosen is not None:
        manifest = json.loads(chosen.manifest or "{}")
        return _told(str(manifest.get("description", "")), manifest.get("input"))
    if local is not None:
        return _told(local.description, json.loads(local.input or "null"))
    return {"about": ""}


def _told(about: str, schema: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"about": about[:ABOUT_CHARS_MAX]}
    if schema and len(json.dumps(schema)) <= SCHEMA_CHARS_MAX:
        told["input"] = schema
    return told
