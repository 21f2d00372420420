"""The Registry service: publishing skills, deciding on them, and saying which revision new tasks get."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable

import grpc

from coterie.core import skill_commands as c
from coterie.core.commands import Command, DeleteLimit, Rejected, SetLimit
from coterie.core.nouns import RetryPolicy
from coterie.core.quotas import Limit
from coterie.core.skillbook import PIN, SkillEntry, SkillPolicy, SkillRevision
from coterie.core.state import ClusterState
from coterie.node import convert
from coterie.node.admission import SKILL_TYPE
from coterie.node.blob_exchange import BlobExchange
from coterie.node.errors import ApiError, Violation, from_rejection, invalid, not_found
from coterie.node.proposer import Proposer
from coterie.node.reads import Reader
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.schemas import schema_faults
from coterie.node.security.principal import caller
from coterie.node.security.tickets import Tickets
from coterie.skills import bundle
from coterie.skills.described import Described, from_json
from coterie.skills.validation import Report, validate
from coterie.v1 import registry_pb2, registry_pb2_grpc, tasks_pb2

Faults = list[Violation]
POLICY_LIMIT, LIVE_LIMIT = "skill.", "skill-own."  # how the ids of their limits begin


class RegistryService(registry_pb2_grpc.RegistryServicer):
    """Every call may be repeated."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        reader: Reader,
        proposer: Proposer,
        exchange: BlobExchange,
        gate: Gate,
    ) -> None:
        self._state, self._reader, self._proposer, self._exchange = state, reader, proposer, exchange
        self.gate = gate

    @unary
    async def PublishSkill(
        self, request: registry_pb2.PublishSkillRequest, context: Context
    ) -> registry_pb2.Skill:
        _check_id(request.skill_id)
        if request.bundle.blob.sha256:
            Tickets(self._state).check_caller(request.bundle.blob.sha256, request.bundle.blob.ticket)
        content = await self._exchange.load(convert.data_from_pb(request.bundle))
        # A stranger's schema of a few KiB can take seconds to look at.
        report = await asyncio.to_thread(self._checked, request.skill_id, content)
        revision = SkillRevision(
            revision=bundle.revision_of(content),
            version=report.described.version,
            bundle=await self._exchange.keep(content, inline_max=0),
            manifest=report.described.as_json(),
            published_by=caller().name,
        )
        await self._commit(c.PublishSkill(request.skill_id, revision), context)
        return self._told(request.skill_id)

    @unary
    async def ListSkills(
        self, request: registry_pb2.ListSkillsRequest, context: Context
    ) -> registry_pb2.ListSkillsResponse:
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        book = self._state().skillbook
        return registry_pb2.ListSkillsResponse(skills=[skill_to_pb(book[name]) for name in sorted(book)])

    @unary
    async def GetSkill(self, request: registry_pb2.GetSkillRequest, context: Context) -> registry_pb2.Skill:
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        return self._told(request.skill_id)

    @unary
    async def ApproveSkill(
        self, request: registry_pb2.SkillRevisionRequest, context: Context
    ) -> registry_pb2.Skill:
        found = await self._found(request, context)
        await self._commit(c.DecideSkill(request.skill_id, found, True, caller().name), context)
        return self._told(request.skill_id)

    @unary
    async def RevokeSkill(
        self, request: registry_pb2.SkillRevisionRequest, context: Context
    ) -> registry_pb2.Skill:
        found = await self._found(request, context)
        await self._commit(c.DecideSkill(request.skill_id, found, False, caller().name), context)
        return self._told(request.skill_id)

    @unary
    async def RouteSkill(
        self, request: registry_pb2.RouteSkillRequest, context: Context
    ) -> registry_pb2.Skill:
        named = registry_pb2.SkillRevisionRequest(skill_id=request.skill_id, revision=request.revision)
        found = await self._found(named, context)
        if not 0 <= request.percent <= 100:
            raise invalid([Violation("percent", f"{request.percent} is not in 0..100")])
        await self._commit(c.RouteSkill(request.skill_id, found, request.percent), context)
        await self._limit_to_live(request.skill_id, context)
        return self._told(request.skill_id)

    @unary
    async def RollBackSkill(
        self, request: registry_pb2.RollBackSkillRequest, context: Context
    ) -> registry_pb2.Skill:
        await self._commit(c.RollBackSkill(request.skill_id), context)
        await self._limit_to_live(request.skill_id, context)
        return self._told(request.skill_id)

    @unary
    async def RemoveSkill(
        self, request: registry_pb2.SkillRevisionRequest, context: Context
    ) -> registry_pb2.RemoveSkillResponse:
        found = await self._found(request, context) if request.revision else ""
        await self._commit(c.RemoveSkill(request.skill_id, found), context)
        await self._limit_to_live(request.skill_id, context)
        if request.skill_id not in self._state().skillbook:
            await self._limit(limit_of(POLICY_LIMIT, request.skill_id, 0, 0), context)
        return registry_pb2.RemoveSkillResponse()

    @unary
    async def SetSkillPolicy(
        self, request: registry_pb2.SetSkillPolicyRequest, context: Context
    ) -> registry_pb2.Skill:
        _check_id(request.skill_id)
        given = request.policy
        await self._commit(c.SetSkillPolicy(request.skill_id, policy_from_pb(given)), context)
        rate = (given.rate_count, given.rate_period_ms)
        await self._limit(limit_of(POLICY_LIMIT, request.skill_id, *rate), context)
        return self._told(request.skill_id)

    async def _limit_to_live(self, skill_id: str, context: Context) -> None:
        """What the SKILL.md of the live revision says of its rate holds, beside what the operator says."""
        entry = self._state().skillbook.get(skill_id)
        live = entry.find(entry.live) if entry is not None and entry.live else None
        said = from_json(live.manifest) if live is not None else Described()
        await self._limit(limit_of(LIVE_LIMIT, skill_id, said.rate_count, said.rate_period_ms), context)

    async def _limit(self, limit: Limit, context: Context) -> None:
        if limit.rate_count:
            await self._commit(SetLimit(limit), context)
        elif limit.limit_id in self._state().limits:
            await self._commit(DeleteLimit(limit.limit_id), context)

    def _checked(self, skill_id: str, content: bytes) -> Report:
        """Raises ApiError with all that is wrong with the files."""
        try:
            files = bundle.read(content)
        except bundle.BundleError as error:
            raise invalid([Violation("bundle", str(error))]) from error
        name = skill_id.rpartition("/")[2]
        report = validate(name, {path: file.content for path, file in files.items()})
        wrong = [Violation(f"bundle/SKILL.md {field}", text) for field, text in report.faults]
        wrong += _on_this_node(report.described)
        entry = self._state().skillbook.get(skill_id)
        handlers = entry.policy.handlers if entry is not None else ()
        wrong += [
            Violation("bundle", f"has no handlers/{handler}.py, which the registry names as a handler")
            for handler in handlers
            if f"handlers/{handler}.py" not in files
        ]
        if entry is not None and entry.policy.version not in ("", report.described.version):
            version = report.described.version
            text = f"metadata.version is {version!r}, the registry says {entry.policy.version!r}"
            wrong.append(Violation("bundle/SKILL.md", text))
        if not report.described.handler and not wrong:
            text = "has no handler: such a skill is instructions only, and nothing that tasks run"
            wrong.append(Violation("bundle/SKILL.md metadata.coterie", text))
        if wrong:
            raise invalid(wrong, "BAD_SKILL")
        return report

    async def _found(self, request: registry_pb2.SkillRevisionRequest, context: Context) -> str:
        """The whole hash of the revision that is meant. Raises ApiError."""
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        entry, wanted = self._state().skillbook.get(request.skill_id), request.revision.removeprefix(PIN)
        if entry is None:
            raise not_found("SKILL", request.skill_id)
        fits = [one.revision for one in entry.revisions if wanted and one.revision.startswith(wanted)]
        fits = fits or [one.revision for one in entry.revisions if wanted and one.version == wanted]
        if len(fits) != 1:
            known = ", ".join(one.revision[:12] for one in entry.revisions) or "none"
            text = f"{request.revision!r} names {len(fits)} revisions of {request.skill_id}; known: {known}"
            raise invalid([Violation("revision", text)])
        return fits[0]

    def _told(self, skill_id: str) -> registry_pb2.Skill:
        entry = self._state().skillbook.get(skill_id)
        if entry is None:
            raise not_found("SKILL", skill_id)
        return skill_to_pb(entry)

    async def _commit(self, command: Command, context: Context) -> None:
        await self._reader.connected()
        outcome = await self._proposer.one(command, propose_seconds(context))
        if isinstance(outcome, Rejected):
            raise from_rejection(outcome)


def limit_of(whose: str, skill_id: str, count: int, period_ms: int) -> Limit:
    """The limit of the whole cluster that stands for a skill's rate, as its operator or its author says."""
    limit_id = whose + skill_id.replace("/", "~")
    return Limit(limit_id, type=skill_id, rate_count=count, rate_period_ms=period_ms)


def skill_to_pb(entry: SkillEntry) -> registry_pb2.Skill:
    """As clients see it."""
    policy, retry = entry.policy, entry.policy.retry or RetryPolicy(0, 0, 0)
    shown = ("title", "version", "owner", "private", "cpus", "memory_bytes", "gpus", "timeout_ms")
    return registry_pb2.Skill(
        skill_id=entry.skill_id,
        revisions=[
            registry_pb2.SkillRevisionInfo(
                revision=one.revision,
                version=one.version,
                state=int(one.state),  # type: ignore[arg-type]
                bundle_bytes=one.bundle.size_bytes,
                manifest=one.manifest,
                published_at_ms=one.published_at_ms,
                published_by=one.published_by,
                decided_at_ms=one.decided_at_ms,
                decided_by=one.decided_by,
            )
            for one in entry.revisions
        ],
        live=entry.live,
        previous=entry.previous,
        canary=entry.canary,
        canary_percent=entry.canary_percent,
        policy=registry_pb2.SkillPolicyInfo(
            **{name: getattr(policy, name) for name in shown},
            max_attempts=retry.attempts_max,
            initial_backoff_ms=retry.backoff_initial_ms,
            max_backoff_ms=retry.backoff_max_ms,
            aliases=policy.aliases,
            handlers=policy.handlers,
        ),
    )


def policy_from_pb(given: registry_pb2.SkillPolicyInfo) -> SkillPolicy:
    """What the operator says. A rate becomes a limit of its own."""
    retries = (given.max_attempts, given.initial_backoff_ms, given.max_backoff_ms)
    return SkillPolicy(
        title=given.title,
        version=given.version,
        owner=given.owner,
        private=given.private,
        cpus=given.cpus,
        memory_bytes=given.memory_bytes,
        gpus=given.gpus,
        timeout_ms=given.timeout_ms,
        retry=RetryPolicy(*retries) if any(retries) else None,
        aliases=tuple(given.aliases),
        handlers=tuple(given.handlers),
    )


def _on_this_node(said: Described) -> Faults:
    """What only a node can say: schemas that its validator takes, modules that are installed."""
    wrong: Faults = []
    for field, fault in schema_faults(said):
        wrong.append(Violation(f"bundle/SKILL.md {field}", fault))
    for module in said.requires:
        if not module.isidentifier() or importlib.util.find_spec(module) is None:
            text = f"{module!r} is not installed on this node; install it on all, or leave it out"
            wrong.append(Violation("bundle/SKILL.md metadata.coterie.requires", text))
    return wrong


def _check_id(skill_id: str) -> None:
    if not SKILL_TYPE.fullmatch(skill_id) or ".." in skill_id or skill_id.endswith("/"):
        text = f"{skill_id!r}: use letters, digits and . _ / -, at most 128"
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "BAD_FIELD", f"skill_id: {text}")
