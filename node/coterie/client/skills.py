"""Skills that are published to the cluster: `cluster.skills`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from coterie.client.connection import Connection
from coterie.client.spec import INLINE_BYTES_MAX
from coterie.v1 import registry_pb2, tasks_pb2

_STATES = {
    registry_pb2.SKILL_QUARANTINED: "QUARANTINED",
    registry_pb2.SKILL_APPROVED: "APPROVED",
    registry_pb2.SKILL_REVOKED: "REVOKED",
}


@dataclass(frozen=True, slots=True)
class SkillRevision:
    """One bundle of files.

    - `revision`: its SHA-256. A task that is bound to it says `sha256:` and this as its skill version.
    - `version`: as the author calls it.
    - `state`: QUARANTINED, APPROVED or REVOKED, by `decided_by`.
    - `manifest`: what its SKILL.md says under metadata.coterie, in the cluster's words.
    """

    revision: str
    version: str
    state: str
    bundle_bytes: int
    manifest: Mapping[str, Any]
    published: datetime
    published_by: str
    decided_by: str


@dataclass(frozen=True, slots=True)
class SkillPolicy:
    """What the operator says of a skill. 0 and empty: nothing. Times in ms, sizes in bytes.

    - `owner`, `private`: a private skill takes only tasks whose agent is its owner, or one of `aliases`.
    - `rate_count` per `rate_period_ms`: starts in the whole cluster; shown by `cluster.limits.list`.
    - `handlers`: names of files in handlers/ that a bundle must have.
    """

    title: str = ""
    version: str = ""
    owner: str = ""
    private: bool = False
    cpus: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    timeout_ms: int = 0
    max_attempts: int = 0
    initial_backoff_ms: int = 0
    max_backoff_ms: int = 0
    rate_count: int = 0
    rate_period_ms: int = 0
    aliases: tuple[str, ...] = ()
    handlers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedSkill:
    """A skill in the cluster's book: `live` is the revision that new tasks get, `canary` the one that
    `canary_percent` of them get, `previous` what a rollback leads to."""

    id: str
    revisions: tuple[SkillRevision, ...]
    live: str
    previous: str
    canary: str
    canary_percent: int
    policy: SkillPolicy

    @classmethod
    def of(cls, raw: registry_pb2.Skill) -> PublishedSkill:
        """The dataclass for a message."""
        values = {name: getattr(raw.policy, name) for name in SkillPolicy.__dataclass_fields__}
        values |= {"aliases": tuple(raw.policy.aliases), "handlers": tuple(raw.policy.handlers)}
        return cls(
            id=raw.skill_id,
            revisions=tuple(_revision(one) for one in raw.revisions),
            live=raw.live,
            previous=raw.previous,
            canary=raw.canary,
            canary_percent=raw.canary_percent,
            policy=SkillPolicy(**values),
        )


SkillList = list[PublishedSkill]  # inside Skills `list` is a method


class Skills:
    """The cluster's book of skills: `cluster.skills`. A revision may be named by the beginning of its hash,
    or by its version where that is unambiguous."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def publish(self, skill_id: str, bundle: bytes) -> PublishedSkill:
        """Brings a bundle (coterie.skills.bundle.pack makes it) to the cluster, in quarantine. The same files
        again change nothing. Raises InvalidRequest with all that is wrong with them."""
        connection = self._opened()
        request = registry_pb2.PublishSkillRequest(skill_id=skill_id)
        if len(bundle) > INLINE_BYTES_MAX:
            request.bundle.blob.CopyFrom(await connection.blobs.put(bundle))
        else:
            request.bundle.CopyFrom(tasks_pb2.Data(inline=bundle))
        raw = await connection.caller.unary(lambda e: e.registry.PublishSkill, request)
        return PublishedSkill.of(raw)

    async def list(self) -> SkillList:
        """All that were published, or of which something is said, by name."""
        request = registry_pb2.ListSkillsRequest()
        answer = await self._opened().caller.unary(lambda e: e.registry.ListSkills, request)
        return [PublishedSkill.of(raw) for raw in answer.skills]

    async def get(self, skill_id: str) -> PublishedSkill:
        """One. Raises NotFound."""
        request = registry_pb2.GetSkillRequest(skill_id=skill_id)
        return PublishedSkill.of(await self._opened().caller.unary(lambda e: e.registry.GetSkill, request))

    async def approve(self, skill_id: str, revision: str) -> PublishedSkill:
        """Tasks may be bound to the revision; none gets it yet: see `route`."""
        request = registry_pb2.SkillRevisionRequest(skill_id=skill_id, revision=revision)
        return PublishedSkill.of(
            await self._opened().caller.unary(lambda e: e.registry.ApproveSkill, request)
        )

    async def revoke(self, skill_id: str, revision: str) -> PublishedSkill:
        """The revision never runs again, also not for tasks that are bound to it."""
        request = registry_pb2.SkillRevisionRequest(skill_id=skill_id, revision=revision)
        return PublishedSkill.of(await self._opened().caller.unary(lambda e: e.registry.RevokeSkill, request))

    async def route(self, skill_id: str, revision: str, percent: int = 100) -> PublishedSkill:
        """How many of the new tasks get an approved revision: 100: it is live; less: a canary; 0: none."""
        request = registry_pb2.RouteSkillRequest(skill_id=skill_id, revision=revision, percent=percent)
        return PublishedSkill.of(await self._opened().caller.unary(lambda e: e.registry.RouteSkill, request))

    async def roll_back(self, skill_id: str) -> PublishedSkill:
        """Ends a canary; without one, what was live before is live again. Twice is not once: when its answer
        is lost it is not repeated but raises Unavailable, which says so."""
        request = registry_pb2.RollBackSkillRequest(skill_id=skill_id)
        look = "look with skills.get before you repeat it"
        raw = await self._opened().caller.unary(lambda e: e.registry.RollBackSkill, request, look=look)
        return PublishedSkill.of(raw)

    async def remove(self, skill_id: str, revision: str = "") -> None:
        """Forgets a revision, or the whole skill. Refused while unfinished tasks are bound to it."""
        request = registry_pb2.SkillRevisionRequest(skill_id=skill_id, revision=revision)
        await self._opened().caller.delete(lambda e: e.registry.RemoveSkill, request)

    async def set_policy(self, skill_id: str, policy: SkillPolicy) -> PublishedSkill:
        """Says something of a skill, published or on the nodes' disks."""
        request = registry_pb2.SetSkillPolicyRequest(skill_id=skill_id)
        for name in SkillPolicy.__dataclass_fields__:
            value = getattr(policy, name)
            if isinstance(value, tuple):
                getattr(request.policy, name).extend(value)
            elif value:
                setattr(request.policy, name, value)
        return PublishedSkill.of(
            await self._opened().caller.unary(lambda e: e.registry.SetSkillPolicy, request)
        )


def _revision(raw: registry_pb2.SkillRevisionInfo) -> SkillRevision:
    return SkillRevision(
        revision=raw.revision,
        version=raw.version,
        state=_STATES.get(raw.state, str(raw.state)),
        bundle_bytes=raw.bundle_bytes,
        manifest=json.loads(raw.manifest or "{}"),
        published=datetime.fromtimestamp(raw.published_at_ms / 1000, UTC),
        published_by=raw.published_by,
        decided_by=raw.decided_by,
    )
