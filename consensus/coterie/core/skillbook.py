"""Skills that were published to the cluster: their revisions, which of them new tasks get, and who may ask.

A revision is the hash of a bundle of files. It is quarantined until somebody approves it, and revoked for
good. A task is pinned to one revision when it is submitted, and keeps it to its end: whatever becomes live
meanwhile, a second attempt on another node runs the same files.

Invariants: `live` and `canary` name approved revisions of the same entry, or nothing; a canary has a share of
1 to 99 percent; revisions stand in the order of their publication, each once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from operator import attrgetter
from typing import Any

from coterie.core.nouns import NO_DATA, Constraints, Data, RetryPolicy

PIN = "sha256:"  # before the hash, in `Constraints.skill_version`
SKILLS_MAX = 1_000
REVISIONS_MAX = 32  # of one skill
MANIFEST_CHARS_MAX = 64 * 1024
PERCENT = 100


class RevisionState(IntEnum):
    QUARANTINED = 1  # published; nobody has looked at it
    APPROVED = 2
    REVOKED = 3  # never runs again


@dataclass(frozen=True, slots=True)
class SkillRevision:
    revision: str  # SHA-256 of the bundle, lower-case hex
    version: str = ""  # as its author calls it
    bundle: Data = NO_DATA
    manifest: str = ""  # what nodes need to know of it before they have the bundle: JSON
    state: RevisionState = RevisionState.QUARANTINED
    published_at_ms: int = 0
    published_by: str = ""
    decided_at_ms: int = 0
    decided_by: str = ""


@dataclass(frozen=True, slots=True)
class SkillPolicy:
    """What the operator says of a skill, published or not. 0 and empty: nothing."""

    title: str = ""
    version: str = ""  # only tasks of this version are taken
    owner: str = ""
    private: bool = False  # only tasks of the agent that owns it
    cpus: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    timeout_ms: int = 0
    retry: RetryPolicy | None = None
    aliases: tuple[str, ...] = ()  # other names of the owner
    handlers: tuple[str, ...] = ()  # that its bundle must have


NO_POLICY = SkillPolicy()


@dataclass(frozen=True, slots=True)
class SkillEntry:
    skill_id: str
    revisions: tuple[SkillRevision, ...] = ()
    live: str = ""  # what new tasks get
    previous: str = ""  # what they got before: where a rollback leads
    canary: str = ""  # what some of them get
    canary_percent: int = 0
    policy: SkillPolicy = field(default_factory=SkillPolicy)

    def find(self, revision: str) -> SkillRevision | None:
        """By its hash, with or without the prefix."""
        wanted = revision.removeprefix(PIN)
        return next((one for one in self.revisions if one.revision == wanted), None)


# Of the state: the name of the dict, what is in it, and under which key.
TABLES: tuple[tuple[str, type, Callable[[Any], str]], ...] = (
    ("skillbook", SkillEntry, attrgetter("skill_id")),
)


def pin_of(constraints: Constraints) -> str:
    """The revision that a task is bound to; empty: its skill is on the nodes' disks."""
    version = constraints.skill_version
    return version.removeprefix(PIN) if version.startswith(PIN) else ""


def share_of(task_id: str) -> int:
    """0 to 99: whether a task belongs to a canary's share depends on its id alone."""
    digest = hashlib.sha256(task_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % PERCENT


def choose(entry: SkillEntry, task_id: str, wanted: str) -> SkillRevision | None:
    """The revision that a task gets: the one it asks for by hash or version, else the canary's share of tasks
    the canary, the others what is live. None: there is no such approved revision."""
    if wanted:
        fits = [one for one in entry.revisions if wanted in (PIN + one.revision, one.version)]
        return next((one for one in reversed(fits) if one.state is RevisionState.APPROVED), None)
    if entry.canary and share_of(task_id) < entry.canary_percent:
        return entry.find(entry.canary)
    return entry.find(entry.live) if entry.live else None


def pinned(entry: SkillEntry, task_id: str, constraints: Constraints) -> Constraints:
    """What the task asks of its node, with the revision it is bound to, and with what its skill needs."""
    policy, chosen = entry.policy, choose(entry, task_id, constraints.skill_version)
    version = PIN + chosen.revision if chosen is not None else constraints.skill_version or policy.version
    return replace(
        constraints,
        skill_version=version,
        memory_bytes=constraints.memory_bytes or policy.memory_bytes,
        gpus=constraints.gpus or policy.gpus,
    )


def refusal(entry: SkillEntry, task_id: str, agent: str, wanted: str) -> tuple[str, str] | None:
    """Code and reason why a task may not be submitted; None: it may."""
    policy = entry.policy
    if policy.private and (not agent or agent not in (policy.owner, *policy.aliases)):
        return "SKILL_PRIVATE", f"skill {entry.skill_id} is private to agent {policy.owner}"
    # Without a live revision it is the skill of that name on the nodes' disks that is meant, if there is one.
    if wanted.startswith(PIN) and choose(entry, task_id, wanted) is None:
        return "SKILL_NOT_LIVE", f"skill {entry.skill_id} has no approved revision {wanted}"
    return None
