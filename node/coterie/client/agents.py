"""Agents of the cluster: applied from files, run by submitting a task of type "agent" in their name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

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


AgentList = list[Agent]  # inside Agents `list` is a method


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

    async def roll_back(self, agent_id: str) -> Agent:
        """Ends a canary; without one, what was live before is live again. Runs keep what they have."""
        request = agents_pb2.RollBackAgentRequest(agent_id=agent_id)
        return Agent.of(await self._opened().caller.unary(lambda e: e.agents.RollBackAgent, request))

    async def remove(self, agent_id: str) -> None:
        """Forgets it. Raises NotFound."""
        request = agents_pb2.RemoveAgentRequest(agent_id=agent_id)
        await self._opened().caller.unary(lambda e: e.agents.RemoveAgent, request)


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
