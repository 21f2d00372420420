"""Agents that were applied to the cluster: their revisions, and which of them new runs get.

A revision is the hash of an agent's files. A run keeps the revision it began with to its end, whatever is
applied meanwhile: see agentstats.AgentRun.

Invariants: `live` is a revision of the entry; `canary` is another one, with a share of 1 to 99 percent, or
nothing; revisions stand in the order in which they were first applied, each once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from coterie.core import agentstats
from coterie.core.nouns import NO_DATA, Data, TaskId

AGENT_TYPE = "agent"  # the task type of the agent loop
AGENTS_MAX = 1_000
REVISIONS_MAX = 32  # of one agent; the oldest that nobody gets any more goes first
ALIASES_MAX = 16
PERCENT = 100
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_REVISION = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Pledge:
    """What the files of a revision promise of its runs, and how they are watched. 0: nothing is said."""

    availability_ppm: int = 0  # of the runs that get an answer
    response_ms: int = 0  # within which 99 of 100 answers are there
    runs_per_hour: int = 0  # that it is there for
    window_ms: int = 0  # over which that holds
    replicas: int = 0  # runs at the same time
    scaling: bool = False  # advice on how many it needs is wanted
    replicas_min: int = 0
    replicas_max: int = 0
    slots_percent: int = 0  # of its slots that shall be busy
    memory_percent: int = 0  # of the memory of a node that its runs may set aside
    memory_bytes: int = 0  # that one run sets aside
    unwatched: bool = False  # its runs are not counted
    unexported: bool = False  # counted, and not shown to Prometheus
    gpus: int = 0  # that a task on its behalf may set aside; 0: none


NO_PLEDGE = Pledge()


@dataclass(frozen=True, slots=True)
class AgentRevision:
    revision: str  # SHA-256 of the files, lower-case hex
    version: str = ""  # as its author calls it
    bundle: Data = NO_DATA  # the files
    applied_at_ms: int = 0
    pledge: Pledge = NO_PLEDGE


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


@dataclass(frozen=True, slots=True)
class PinAgentRun:
    """A run has chosen its revision. The first choice stands, whatever a later attempt would choose."""

    task_id: TaskId
    attempt: int
    revision: str


AgentCommand = ApplyAgent | RollBackAgent | RemoveAgent | PinAgentRun

# Of the state: the name of the dict, what is in it, and under which key.
TABLES: tuple[tuple[str, type, Callable[[Any], str]], ...] = (
    ("agents", AgentEntry, attrgetter("agent_id")),
    *agentstats.TABLES,
)


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
