"""Agents that were applied to the cluster: their revisions, and which of them new runs get.

A revision is the hash of an agent's files. A run keeps the revision it began with to its end, whatever is
applied meanwhile: that stands in the run's own journal, not here.

Invariants: `live` is a revision of the entry; `canary` is another one, with a share of 1 to 99 percent, or
nothing; revisions stand in the order in which they were first applied, each once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from coterie.core.nouns import NO_DATA, Data

AGENTS_MAX = 1_000
REVISIONS_MAX = 32  # of one agent; the oldest that nobody gets any more goes first
ALIASES_MAX = 16
PERCENT = 100
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_REVISION = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class AgentRevision:
    revision: str  # SHA-256 of the files, lower-case hex
    version: str = ""  # as its author calls it
    bundle: Data = NO_DATA  # the files
    applied_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class AgentEntry:
    agent_id: str
    name: str = ""
    aliases: tuple[str, ...] = ()  # other ids under which tasks may name it
    domains: tuple[str, ...] = ()  # what it is good at
    revisions: tuple[AgentRevision, ...] = ()
    live: str = ""  # what new runs get
    previous: str = ""  # what they got before: where a rollback leads
    canary: str = ""  # what some of them get
    canary_percent: int = 0

    def find(self, revision: str) -> AgentRevision | None:
        """By its hash, or by the beginning of it where that is enough."""
        fits = [one for one in self.revisions if revision and one.revision.startswith(revision)]
        return fits[0] if len(fits) == 1 else None


@dataclass(frozen=True, slots=True)
class ApplyAgent:
    """A revision becomes what new runs get, or (percent below 100) what that share of them gets."""

    agent_id: str
    revision: AgentRevision
    name: str = ""
    aliases: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    percent: int = PERCENT


@dataclass(frozen=True, slots=True)
class RollBackAgent:
    """A running canary ends; without one, what was live before is live again."""

    agent_id: str


@dataclass(frozen=True, slots=True)
class RemoveAgent:
    """Forget it. Its runs keep what they have read already, and fail when they have to read more."""

    agent_id: str


AgentCommand = ApplyAgent | RollBackAgent | RemoveAgent

# Of the state: the name of the dict, what is in it, and under which key.
TABLES: tuple[tuple[str, type, Callable[[Any], str]], ...] = (("agents", AgentEntry, attrgetter("agent_id")),)


def is_agent_id(text: str) -> bool:
    """Letters, digits, dots, hyphens and underscores, at most 63."""
    return _ID.fullmatch(text) is not None


def is_revision(text: str) -> bool:
    """A SHA-256 in lower-case hex."""
    return _REVISION.fullmatch(text) is not None


def find_agent(agents: dict[str, AgentEntry], name: str) -> AgentEntry | None:
    """By id, else by an alias."""
    known = agents.get(name)
    return known or next((entry for entry in agents.values() if name in entry.aliases), None)


def choose(entry: AgentEntry, run_id: str) -> AgentRevision | None:
    """What a new run gets. Whether it belongs to a canary's share depends on its id alone."""
    wanted = entry.canary if entry.canary and _share(run_id) < entry.canary_percent else entry.live
    return entry.find(wanted)


def _share(run_id: str) -> int:
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8], "big") % PERCENT
