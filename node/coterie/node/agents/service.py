"""The Agents service: files become a revision, with the limits that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import grpc

from coterie.core.agentbook import (
    PERCENT,
    AgentEntry,
    AgentRevision,
    ApplyAgent,
    RemoveAgent,
    RollBackAgent,
    find_agent,
)
from coterie.core.bidding import Selection, bids, winner
from coterie.core.commands import Command, Rejected
from coterie.core.state import ClusterState
from coterie.node.agents.definition import Definition, read_definition, skill_name
from coterie.node.agents.files import AgentProblems, pack, revision_of, unpack
from coterie.node.agents.limits import limits_of
from coterie.node.agents.pledge import ineffective, pledge_of
from coterie.node.agents.report import reports, without_spending
from coterie.node.agents.told import report_to_pb
from coterie.node.blob_exchange import BlobExchange
from coterie.node.clock import Clock
from coterie.node.config import NodeSettings
from coterie.node.errors import ApiError, Violation, from_rejection, invalid, not_found
from coterie.node.goals.candidates import Definitions
from coterie.node.goals.staff import staff_of
from coterie.node.proposer import Proposer
from coterie.node.reads import Reader
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.security.principal import caller
from coterie.node.skillhost import SkillInfo
from coterie.node.workflows.aside import aside
from coterie.v1 import agents_pb2 as pb
from coterie.v1 import agents_pb2_grpc, tasks_pb2

WANTED_MAX, WANTED_CHARS_MAX = 64, 16_000


@dataclass(frozen=True, slots=True)
class AgentsParts:
    """What the service works on. `providers`: of language models; `skills`: that this node has."""

    state: Callable[[], ClusterState]
    reader: Reader
    proposer: Proposer
    exchange: BlobExchange
    providers: frozenset[str]
    skills: Callable[[], Mapping[str, SkillInfo]]
    clock: Clock
    settings: Callable[[], NodeSettings]
    known: Definitions


class AgentsService(agents_pb2_grpc.AgentsServicer):
    """Applying the same files again changes nothing."""

    def __init__(self, parts: AgentsParts, gate: Gate) -> None:
        self._parts, self.gate = parts, gate

    @unary
    async def ApplyAgent(self, request: pb.ApplyAgentRequest, context: Context) -> pb.Agent:
        definition = _checked(request)
        percent = request.percent or PERCENT
        if not 1 <= percent <= PERCENT:
            raise invalid([Violation("percent", f"{percent} is not in 1..{PERCENT}")])
        bundle = pack(request.files)
        notes = [*ineffective(definition), *self._advice(definition)]
        if request.validate_only:
            return _validated(definition, revision_of(bundle), notes)
        await self._parts.reader.connected()
        kept = await self._parts.exchange.keep(bundle)
        pledge = pledge_of(definition)
        revision = AgentRevision(revision_of(bundle), definition.version, kept, pledge=pledge)
        config = definition.config
        apply = ApplyAgent(config.id, revision, definition.name, config.aliases, definition.domains, percent)
        await self._propose([apply, *limits_of(definition, self._parts.state())], context)
        return await self._told(config.id, notes=notes)

    @unary
    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        await self._parts.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        known = self._parts.state().agents
        return pb.ListAgentsResponse(agents=[agent_to_pb(known[name]) for name in sorted(known)])

    @unary
    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.Agent:
        await self._parts.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        return await self._told(request.agent_id, request.revision or "live")

    @unary
    async def GetAgentStatus(
        self, request: pb.GetAgentStatusRequest, context: Context
    ) -> pb.GetAgentStatusResponse:
        await self._parts.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        if request.agent_id:
            self._entry(request.agent_id)
        state = self._parts.state()
        now_ms = max(self._parts.clock.now_ms(), state.meta.clock_ms)
        found = reports(state, now_ms, request.agent_id)
        # What all tenants together have spent is the operator's to know; a tenant's own is in GetUsage.
        told = found if caller().everywhere else map(without_spending, found)
        return pb.GetAgentStatusResponse(agents=map(report_to_pb, told))

    @unary
    async def RollBackAgent(self, request: pb.RollBackAgentRequest, context: Context) -> pb.Agent:
        await self._parts.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        await self._propose([RollBackAgent(self._entry(request.agent_id).agent_id)], context)
        return await self._told(request.agent_id)

    @unary
    async def RemoveAgent(self, request: pb.RemoveAgentRequest, context: Context) -> pb.RemoveAgentResponse:
        await self._parts.reader.connected()
        await self._propose([RemoveAgent(request.agent_id)], context)
        return pb.RemoveAgentResponse()

    @unary
    async def MatchAgents(self, request: pb.MatchAgentsRequest, context: Context) -> pb.MatchAgentsResponse:
        parts = self._parts
        wanted = checked_wanted(request)
        await parts.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        staff = await staff_of(
            parts.settings(), parts.state(), parts.skills(), parts.known, parts.exchange.load
        )
        how = Selection(request.strategy) if request.strategy else staff.selection
        effort = staff.effort(1, len(wanted)) + sum(map(len, wanted))
        offers = await aside(effort, lambda: bids(wanted, staff.candidates, how))
        shown = [pb.AgentBid(**asdict(bid)) for bid in offers]
        return pb.MatchAgentsResponse(bids=shown, strategy=how.value, winner=winner(offers))

    async def _propose(self, commands: list[Command], context: Context) -> None:
        outcomes = await self._parts.proposer.propose(commands, propose_seconds(context))
        for outcome in outcomes:
            if isinstance(outcome, Rejected):
                raise from_rejection(outcome)

    def _entry(self, agent_id: str) -> AgentEntry:
        entry = find_agent(self._parts.state().agents, agent_id)
        if entry is None:
            raise unknown_agent(agent_id)
        return entry

    async def _told(self, agent_id: str, revision: str = "", notes: list[str] | None = None) -> pb.Agent:
        entry = self._entry(agent_id)
        message = agent_to_pb(entry)
        message.notes.extend(notes or [])
        if revision:
            found = entry.find(entry.live if revision == "live" else revision)
            if found is None:
                raise not_found("REVISION", revision)
            message.files.update(unpack(await self._parts.exchange.load(found.bundle)))
        return message

    def _advice(self, definition: Definition) -> list[str]:
        """What is not wrong, and yet will not work as its author may think."""
        found = []
        provider = definition.config.model.provider
        if provider not in ("", "default", *self._parts.providers):
            found.append(
                f"agent.model.provider: {provider} is none of llm.providers; llm.default thinks instead"
            )
        book, local = self._parts.state().skillbook, self._parts.skills()
        found += [
            f"agent.skills: {binding.skill_id} is no skill of this node, and none was published"
            for binding in definition.config.skills
            if skill_name(binding.skill_id, {*local, *book}) not in {*local, *book}
        ]
        return found


def checked_wanted(request: pb.MatchAgentsRequest) -> list[str]:
    """What is wanted. Raises ApiError."""
    wrong = []
    if not request.wanted or len(request.wanted) > WANTED_MAX:
        wrong.append(Violation("wanted", f"1 to {WANTED_MAX} capabilities, or a request, are expected"))
    if any(not 0 < len(one) <= WANTED_CHARS_MAX for one in request.wanted):
        wrong.append(Violation("wanted", f"a text of 1 to {WANTED_CHARS_MAX} characters is expected"))
    if request.strategy and request.strategy not in tuple(Selection):
        known = ", ".join(Selection)
        wrong.append(Violation("strategy", f"{request.strategy[:40]!r} is none of {known}"))
    if wrong:
        raise invalid(wrong)
    return list(request.wanted)


def _checked(request: pb.ApplyAgentRequest) -> Definition:
    try:
        return read_definition(request.files)
    except AgentProblems as error:
        raise invalid([Violation(*_split(problem)) for problem in error.problems]) from None


def _split(problem: str) -> tuple[str, str]:
    where, _, what = problem.partition(": ")
    field, _, more = what.partition(": ")
    return (f"{where}: {field}", more) if more else (where, what)


def _validated(definition: Definition, revision: str, notes: list[str]) -> pb.Agent:
    message = pb.Agent(agent_id=definition.agent_id, name=definition.name, domains=definition.domains)
    message.revisions.add(revision=revision, version=definition.version)
    message.notes.extend(notes)
    return message


def agent_to_pb(entry: AgentEntry) -> pb.Agent:
    message = pb.Agent(
        agent_id=entry.agent_id,
        name=entry.name,
        aliases=entry.aliases,
        domains=entry.domains,
        live=entry.live,
        previous=entry.previous,
        canary=entry.canary,
        canary_percent=entry.canary_percent,
    )
    for one in entry.revisions:
        message.revisions.add(revision=one.revision, version=one.version, applied_at_ms=one.applied_at_ms)
    return message


def unknown_agent(name: str) -> ApiError:
    """For those who name an agent that was never applied."""
    text = (
        f"there is no agent {name!r}; `coterie agents list` shows them, `coterie agents apply DIR` makes one"
    )
    return ApiError(grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND", text)
