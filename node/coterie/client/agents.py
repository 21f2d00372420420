"""Agents of the cluster: applied from files, run by submitting a task of type "agent" in their name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coterie.client.connection import Connection
from coterie.client.rpc_errors import invalid
from coterie.v1 import agents_pb2

# The files of an agent that have a meaning; others in its directory are not sent.
AGENT_FILES = (
    *("config.yaml", "IDENTITY.md", "SOUL.md", "tools-config.json", "AGENTS.md", "USER.md", "MEMORY.md"),
    "registry.json",
)


@dataclass(frozen=True, slots=True)
class AgentRevision:
    """One set of files; `revision` is their SHA-256."""

    revision: str
    version: str
    applied: datetime | None


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent. New runs get `live`, or `canary` where they belong to its share of `canary_percent`.

    `notes` are what its author may want to know; `files` those of one revision, where they were asked for."""

    id: str
    name: str
    aliases: tuple[str, ...]
    domains: tuple[str, ...]
    live: str
    previous: str
    canary: str
    canary_percent: int
    revisions: tuple[AgentRevision, ...]
    notes: tuple[str, ...]
    files: Mapping[str, str]

    @classmethod
    def of(cls, raw: agents_pb2.Agent) -> Agent:
        """The dataclass for a message."""
        return cls(
            raw.agent_id,
            raw.name,
            tuple(raw.aliases),
            tuple(raw.domains),
            raw.live,
            raw.previous,
            raw.canary,
            raw.canary_percent,
            tuple(
                AgentRevision(one.revision, one.version, _time(one.applied_at_ms)) for one in raw.revisions
            ),
            tuple(raw.notes),
            dict(raw.files),
        )


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """What the ended runs of one revision came to; what was used counts of live ones too. An empty revision:
    runs that ended before they chose one. `refused`: runs that failed by a fault of the caller."""

    revision: str
    version: str
    succeeded: int
    failed: int
    timed_out: int
    dead_lettered: int
    cancelled: int
    refused: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    steps: int
    llm_calls: int
    llm_failed: int
    tokens_in: int
    tokens_out: int
    micro_usd: int
    errors: Mapping[str, int]

    @property
    def success(self) -> float | None:
        """The share of runs with an answer, of those that one was owed; None: there was none."""
        owed = self.succeeded + self.failed + self.timed_out + self.dead_lettered
        return self.succeeded / owed if owed else None


@dataclass(frozen=True, slots=True)
class AgentBurn:
    """How fast an error budget went in a window; 1: as fast as would just use it up. Above `limit`, and not
    by a run or two, it is `burning`."""

    window_ms: int
    rate: float
    limit: float
    burning: bool


@dataclass(frozen=True, slots=True)
class AgentObjective:
    """An objective (`availability`, `response_time`) and how the runs of its window kept it. `response_ms` is
    what counts as slow; `budget_left` is 1 for all of it, and below 0 where the objective is missed."""

    slo: str
    objective: float
    window_ms: int
    runs: int
    bad: int
    attained: float
    budget_left: float
    burns: tuple[AgentBurn, ...]
    response_ms: int


@dataclass(frozen=True, slots=True)
class AgentAdvice:
    """How many runs at the same time the agent would need, and how many nodes more for that. Times are of one
    run: `run_ms` in a slot, `queue_ms` before its first one."""

    replicas: int
    nodes_more: int
    arrivals_per_hour: float
    run_ms: float
    queue_ms: float
    reason: str


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """How an agent is doing. `replicas` is the limit on runs at the same time, 0 for none; `tokens` is by
    model, in and out, since the cluster began."""

    id: str
    waiting: int
    running: int
    sleeping: int
    replicas: int
    revisions: tuple[AgentFigures, ...]
    objectives: tuple[AgentObjective, ...]
    advice: AgentAdvice | None
    tokens: Mapping[str, tuple[int, int]]
    micro_usd: int
    unwatched: bool

    @classmethod
    def of(cls, raw: agents_pb2.AgentStatus) -> AgentStatus:
        """The dataclass for a message."""
        advice = raw.advice
        return cls(
            raw.agent_id,
            raw.waiting,
            raw.running,
            raw.sleeping,
            raw.replicas,
            tuple(
                AgentFigures(**_values(AgentFigures, one, errors=dict(one.errors))) for one in raw.revisions
            ),
            tuple(_objective(one) for one in raw.objectives),
            AgentAdvice(**_values(AgentAdvice, advice)) if raw.HasField("advice") else None,
            {one.model: (one.tokens_in, one.tokens_out) for one in raw.models},
            sum(one.micro_usd for one in raw.models),
            raw.unwatched,
        )


def _objective(raw: agents_pb2.AgentObjective) -> AgentObjective:
    burns = tuple(AgentBurn(**_values(AgentBurn, one)) for one in raw.burns)
    return AgentObjective(**_values(AgentObjective, raw, burns=burns))


def _values(kind: type, raw: object, **given: object) -> dict[str, Any]:
    """The fields of the record, out of the message where they are not given."""
    names = (field.name for field in fields(kind))
    return {name: given[name] if name in given else getattr(raw, name) for name in names}


@dataclass(frozen=True, slots=True)
class Bid:
    """What an agent offers for a piece of work, in thousandths; `load` 1000: it is idle. `matched`: what of
    it fits; `declined`: why it makes no bid."""

    agent_id: str
    score: int
    fit: int
    load: int
    success: int
    matched: tuple[str, ...]
    declined: str


@dataclass(frozen=True, slots=True)
class Match:
    """All bids, the winner's first; an empty `winner`: nobody can do it."""

    winner: str
    strategy: str
    bids: tuple[Bid, ...]


AgentList = list[Agent]  # inside Agents `list` is a method
StatusList = list[AgentStatus]


class Agents:
    """`cluster.agents`."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def apply(
        self, agent: str | Path | Mapping[str, str], *, percent: int = 100, validate_only: bool = False
    ) -> Agent:
        """Makes the files of a directory, or texts by file name, what new runs of the agent get; with
        `percent` below 100 that share of them. Raises InvalidRequest with everything that is wrong."""
        files = agent if isinstance(agent, Mapping) else read_agent_files(Path(agent))
        request = agents_pb2.ApplyAgentRequest(
            files=dict(files), percent=percent, validate_only=validate_only
        )
        return Agent.of(await self._opened().caller.unary(lambda e: e.agents.ApplyAgent, request))

    async def list(self) -> AgentList:
        """All of them, by id."""
        request = agents_pb2.ListAgentsRequest()
        answer = await self._opened().caller.unary(lambda e: e.agents.ListAgents, request)
        return [Agent.of(raw) for raw in answer.agents]

    async def get(self, agent_id: str, revision: str = "") -> Agent:
        """One, with the files of its live revision, or of another. Raises NotFound."""
        request = agents_pb2.GetAgentRequest(agent_id=agent_id, revision=revision)
        return Agent.of(await self._opened().caller.unary(lambda e: e.agents.GetAgent, request))

    async def status(self, agent_id: str = "") -> StatusList:
        """How the runs of an agent went, or of all: every node counts them from the log. Raises NotFound."""
        request = agents_pb2.GetAgentStatusRequest(agent_id=agent_id)
        answer = await self._opened().caller.unary(lambda e: e.agents.GetAgentStatus, request)
        return [AgentStatus.of(raw) for raw in answer.agents]

    async def roll_back(self, agent_id: str) -> Agent:
        """Ends a canary; without one, what was live before is live again. Runs keep what they have. Twice is
        not once: when its answer is lost it is not repeated but raises Unavailable, which says so."""
        request = agents_pb2.RollBackAgentRequest(agent_id=agent_id)
        look = "look with agents.get before you repeat it"
        raw = await self._opened().caller.unary(lambda e: e.agents.RollBackAgent, request, look=look)
        return Agent.of(raw)

    async def match(self, *wanted: str, strategy: str = "") -> Match:
        """Who would get a piece of work: capabilities, or a request in words. `strategy`: "score" (the best
        fit) or "contract-net" (fit, load and success); empty: as the cluster's settings say."""
        request = agents_pb2.MatchAgentsRequest(wanted=wanted, strategy=strategy)
        raw = await self._opened().caller.unary(lambda e: e.agents.MatchAgents, request)
        bids = tuple(
            Bid(one.agent_id, one.score, one.fit, one.load, one.success, tuple(one.matched), one.declined)
            for one in raw.bids
        )
        return Match(raw.winner, raw.strategy, bids)

    async def remove(self, agent_id: str) -> None:
        """Forgets it. Raises NotFound."""
        request = agents_pb2.RemoveAgentRequest(agent_id=agent_id)
        await self._opened().caller.delete(lambda e: e.agents.RemoveAgent, request)


def read_agent_files(directory: Path) -> dict[str, str]:
    """The files with a meaning. Raises InvalidRequest."""
    found: dict[str, str] = {}
    try:
        for name in AGENT_FILES:
            if (directory / name).exists():
                found[name] = (directory / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid([("agent", f"{directory}: {error}")]) from error
    if "config.yaml" not in found:
        raise invalid([("agent", f"{directory}: holds no config.yaml; an agent is a directory with one")])
    return found


def _time(at_ms: int) -> datetime | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC) if at_ms else None
