"""The nouns of the skill host: what the worker hands in and gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from coterie.skills.limits import Limits

OutcomeKind = Literal[
    "succeeded", "failed", "cancelled", "crashed", "timed_out", "lease_lost", "fenced", "suspended"
]
OUTCOME_KINDS_OF_CHILD = frozenset({"succeeded", "failed", "cancelled", "fenced", "lease_lost"})

MAX_CHILDREN_LIMIT = 1_024
"""More concurrent skills than this in one node are a mistake in the configuration."""

OnSkillLog = Callable[[str, int, str, str], None]
"""Called with task id, attempt, level (debug … critical) and text of what a skill logs or prints."""


class SkillHostError(Exception):
    """The skill processes could not be started; the message says why."""


MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """How untrusted skills are confined. Sizes are bytes."""

    scratch_dir: Path | None = None
    """The folder of their working folders is made here; None: in the system's folder for temporary files."""
    scratch_name: str = ""
    """What that is called, emptied at the start; empty: a new one is made for each process of the node."""
    memory_bytes: int = 1024 * MIB
    """Address space of one that does not say how much it needs."""
    disk_bytes_max: int = 256 * MIB
    """What one run may keep in its working folder."""
    own_user: bool = True
    """Give each run a user id of its own where the node is root."""
    inside_networks: tuple[str, ...] = ()
    """Private networks (CIDR) that skills may reach when their list names a host there."""
    watch_interval_s: float = 0.5
    """How often working folders are measured."""
    waiting_children: int = 4
    """Processes made ahead of need, as many with a network as without; of the kinds that were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillHostOptions:
    """How to run skills. Folders hold SKILL.md files (or are `.py` files with `@skill` functions)."""

    skill_dirs: tuple[Path, ...]
    node_id: str
    max_children: int = 8
    """Runs at the same time, each in its own process; more wait for a free one."""
    warm_children: int = 0
    """Children forked at the start, before the first run asks for one."""
    limits: Limits = field(default_factory=Limits)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    """What each trusted skill is told of this node, by its name."""
    confined_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What confined ones are told: no secrets."""
    env_allow: tuple[str, ...] = ()
    """Environment variables that skills see besides PATH, HOME, the locale, the time zone and the like."""
    ready_timeout_ms: int = 30_000
    """Loading all skills must not take longer."""
    sandbox: SandboxOptions = field(default_factory=SandboxOptions)

    def __post_init__(self) -> None:
        if not 1 <= self.max_children <= MAX_CHILDREN_LIMIT:
            raise ValueError(f"max_children: {self.max_children} is not in 1..{MAX_CHILDREN_LIMIT}")
        if not 0 <= self.warm_children <= self.max_children:
            raise ValueError(f"warm_children: {self.warm_children} is not in 0..max_children")


@dataclass(frozen=True, slots=True)
class SkillInfo:
    """A skill that this node can run. timeout_ms 0 is none; None: it says nothing, the cluster's counts."""

    name: str
    version: str
    description: str
    timeout_ms: int | None
    effects: str
    input: str = ""
    """JSON schema of its input; empty: anything."""
    manual: str = ""
    """The beginning of its instructions."""
    output: str = ""
    """JSON schema of its result; empty: anything."""


@dataclass(frozen=True, slots=True)
class SkillProblem:
    """Something wrong with a skill on disk; skipped means that it is not offered."""

    path: str
    message: str
    skipped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfinedSkill:
    """An untrusted skill, as its run needs it: where its files are, and what it may use. 0: the default."""

    folder: Path
    handler: str
    """File and function, as in SKILL.md."""
    name: str
    version: str = ""
    effects: str = ""
    timeout_ms: int = 0
    network: tuple[str, ...] = ()
    """Hosts it may connect to, through the node's proxy."""
    memory_bytes: int = 0
    cpus: int = 0
    input: str = ""
    """JSON schema of its input; empty: anything."""
    output: str = ""
    """JSON schema of its result; empty: anything."""
    trusted: bool = False
    """The operator trusts it: it runs without walls."""

    def as_source(self) -> dict[str, object]:
        """What the process that imports it is told."""
        return {
            "folder": str(self.folder),
            "handler": self.handler,
            "name": self.name,
            "version": self.version,
            "effects": self.effects,
            "timeout_ms": self.timeout_ms,
        }


@dataclass(frozen=True, slots=True)
class SkillJob:
    """One attempt of one task. timeout_ms 0: the skill's own timeout counts, else default_timeout_ms."""

    task_id: str
    attempt: int
    skill: str
    payload: bytes
    steps: Mapping[str, bytes]
    checkpoint: bytes | None
    timeout_ms: int
    revision: str = field(default="", kw_only=True)
    """Of a published skill; empty: it is on this node's disk."""
    confined: ConfinedSkill | None = field(default=None, kw_only=True)
    """The skill runs from these files, in the sandbox unless it is trusted."""
    checkpointed: int = field(default=0, kw_only=True)
    """How many of the steps came before the checkpoint; 0: not known."""
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict, kw_only=True)
    """By step: those that were asked for before it and had no result."""
    default_timeout_ms: int = field(default=0, kw_only=True)
    """For an attempt of which neither the task nor its skill says anything; 0: none."""


@dataclass(frozen=True, slots=True)
class SkillWait:
    """What a skill wants to wait for: the signal of that name that comes after `seen` others."""

    reason: Literal["SIGNAL", "APPROVAL", "TIMER"]
    name: str
    seen: int
    timeout_ms: int  # 0: none


class Suspended(Exception):
    """The attempt has ended: what it waits for has not come, and the task holds no process until it has."""


class SkillSource(Protocol):
    """Where published skills come from."""

    async def resolve(self, job: SkillJob) -> SkillJob | SkillOutcome:
        """The job with the files of its revision, or why it cannot run."""


class JobPort(Protocol):
    """What a running job may do to the cluster; given by the worker for each job."""

    async def record_step(self, key: str, result: bytes, beside: tuple[str, ...] = ()) -> None:
        """Return when committed. `beside`: what was asked for before and has no result. Raises
        coterie.skills.Fenced when the attempt was deposed."""

    async def save_checkpoint(self, state: bytes) -> None:
        """Return when committed. Raises coterie.skills.Fenced when the attempt was deposed."""

    async def wait(self, wait: SkillWait) -> bytes | None:
        """The signal's payload; None: the wait ran out. Raises Suspended, or coterie.skills.Fenced."""

    async def call(self, name: str, args: bytes) -> bytes:
        """Do what the skill asks for, JSON in and out. Raises CallFailed, CallRefused, Fenced, Suspended."""

    def report_progress(self, percent: float, message: str) -> None:
        """Percent is 0..100. Called some ten times a second at most."""


@dataclass(frozen=True, slots=True)
class SkillOutcome:
    """How a run ended. `code` is stable, `message` is for people, `retryable` is the skill's own view."""

    kind: OutcomeKind
    result: bytes = b""
    code: str = ""
    message: str = ""
    retryable: bool = True
    traceback: str = ""


@dataclass(slots=True)
class SkillHostStats:
    """Counters since the host was made."""

    runs: int = 0
    forks: int = 0
    fork_us_total: int = 0
    crashes: int = 0
    restarts: int = 0
