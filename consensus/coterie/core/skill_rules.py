"""Rules of the skill book: publication, approval, canaries, rollback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.skill_commands import (
    DecideSkill,
    PublishSkill,
    RemoveSkill,
    RollBackSkill,
    RouteSkill,
    SetSkillPolicy,
)
from coterie.core.skillbook import (
    MANIFEST_CHARS_MAX,
    PERCENT,
    REVISIONS_MAX,
    SKILLS_MAX,
    RevisionState,
    SkillEntry,
    SkillRevision,
)
from coterie.core.state import ClusterState, Moment


def publish(state: ClusterState, command: PublishSkill, moment: Moment) -> Outcome:
    given = command.revision
    entry = state.skillbook.get(command.skill_id) or SkillEntry(command.skill_id)
    if (known := entry.find(given.revision)) is not None:
        if known.state is RevisionState.REVOKED:
            return Rejected("SKILL_REVOKED", f"revision {given.revision} of {command.skill_id} was revoked")
        return Accepted(duplicate=True)
    if len(given.manifest) > MANIFEST_CHARS_MAX or not given.revision:
        return Rejected("BAD_SKILL", f"a revision is named, its manifest has at most {MANIFEST_CHARS_MAX}")
    if refused := _full(state, command.skill_id):
        return refused
    if len(entry.revisions) >= REVISIONS_MAX:
        text = f"{command.skill_id} has {REVISIONS_MAX} revisions; remove some"
        return Rejected("TOO_MANY_REVISIONS", text)
    added = replace(
        given, state=RevisionState.QUARANTINED, published_at_ms=moment.at_ms, decided_at_ms=0, decided_by=""
    )
    state.skillbook[command.skill_id] = replace(entry, revisions=(*entry.revisions, added))
    return Accepted()


def decide(state: ClusterState, command: DecideSkill, moment: Moment) -> Outcome:
    found = _found(state, command.skill_id, command.revision)
    if isinstance(found, Rejected):
        return found
    entry, revision = found
    if revision.state is RevisionState.REVOKED and command.approve:
        return Rejected("SKILL_REVOKED", f"revision {revision.revision} was revoked: publish another one")
    wanted = RevisionState.APPROVED if command.approve else RevisionState.REVOKED
    if revision.state is wanted:
        return Accepted(duplicate=True)
    decided = replace(revision, state=wanted, decided_at_ms=moment.at_ms, decided_by=command.by)
    entry = replace(entry, revisions=tuple(decided if one is revision else one for one in entry.revisions))
    state.skillbook[command.skill_id] = entry if command.approve else _without(entry, revision.revision)
    return Accepted()


def _without(entry: SkillEntry, revision: str) -> SkillEntry:
    """The entry, in which no new task gets that revision."""
    previous = "" if entry.previous == revision else entry.previous
    if entry.live == revision:
        entry = replace(entry, live=previous)
    if entry.canary in (revision, entry.live):
        entry = replace(entry, canary="", canary_percent=0)
    return replace(entry, previous=previous if previous != entry.live else "")


def route(state: ClusterState, command: RouteSkill, moment: Moment) -> Outcome:
    found = _found(state, command.skill_id, command.revision)
    if isinstance(found, Rejected):
        return found
    entry, revision = found
    if not 0 <= command.percent <= PERCENT:
        return Rejected("BAD_SKILL", f"percent: {command.percent} is not in 0..{PERCENT}")
    if revision.state is not RevisionState.APPROVED:
        text = f"revision {revision.revision} is {revision.state.name.lower()}; approve it first"
        return Rejected("SKILL_NOT_APPROVED", text)
    changed = _routed(entry, revision.revision, command.percent)
    if changed is None:
        return Rejected("SKILL_LIVE", f"{revision.revision} is live: let another revision have a share of it")
    state.skillbook[command.skill_id] = changed
    return Accepted(duplicate=changed == entry)


def _routed(entry: SkillEntry, revision: str, percent: int) -> SkillEntry | None:
    """None: a revision that is live cannot be less than that."""
    if percent == PERCENT:
        if entry.live == revision:
            return replace(entry, canary="", canary_percent=0)
        return replace(entry, live=revision, previous=entry.live, canary="", canary_percent=0)
    if entry.live == revision:
        return None
    if percent:
        return replace(entry, canary=revision, canary_percent=percent)
    return replace(entry, canary="", canary_percent=0) if entry.canary == revision else entry


def roll_back(state: ClusterState, command: RollBackSkill, moment: Moment) -> Outcome:
    entry = state.skillbook.get(command.skill_id)
    if entry is None:
        return _no_skill(command.skill_id)
    if entry.canary:
        state.skillbook[command.skill_id] = replace(entry, canary="", canary_percent=0)
        return Accepted()
    before = entry.find(entry.previous) if entry.previous else None
    if before is None or before.state is not RevisionState.APPROVED:
        return Rejected("NO_PREVIOUS", f"{command.skill_id} has no earlier approved revision to go back to")
    state.skillbook[command.skill_id] = replace(entry, live=entry.previous, previous=entry.live)
    return Accepted()


def remove(state: ClusterState, command: RemoveSkill, moment: Moment) -> Outcome:
    entry = state.skillbook.get(command.skill_id)
    if entry is None:
        return _no_skill(command.skill_id)
    if command.revision and entry.find(command.revision) is None:
        return Rejected("REVISION_NOT_FOUND", f"{command.skill_id} has no revision {command.revision}")
    wanted = {one.revision for one in entry.revisions if command.revision in ("", one.revision)}
    bound = state.indexes.pins.bound(wanted)
    if bound:
        return Rejected("SKILL_IN_USE", f"{bound} tasks are bound to it; wait for them, or cancel them")
    if not command.revision:
        del state.skillbook[command.skill_id]
        return Accepted()
    if command.revision in (entry.live, entry.canary):
        return Rejected("SKILL_LIVE", f"{command.revision} is what new tasks get; route another one first")
    kept = tuple(one for one in entry.revisions if one.revision != command.revision)
    state.skillbook[command.skill_id] = _without(replace(entry, revisions=kept), command.revision)
    return Accepted()


def set_policy(state: ClusterState, command: SetSkillPolicy, moment: Moment) -> Outcome:
    policy = command.policy
    if policy.private and not policy.owner:
        return Rejected("BAD_SKILL", "owner: missing; a private skill belongs to an agent")
    if min(policy.cpus, policy.memory_bytes, policy.gpus, policy.timeout_ms) < 0:
        return Rejected("BAD_SKILL", "cpus, memory_bytes, gpus and timeout_ms are not negative")
    if refused := _full(state, command.skill_id):
        return refused
    known = state.skillbook.get(command.skill_id)
    entry = known or SkillEntry(command.skill_id)
    state.skillbook[command.skill_id] = replace(entry, policy=policy)
    return Accepted(duplicate=known is not None and known.policy == policy)


def _full(state: ClusterState, skill_id: str) -> Rejected | None:
    if skill_id not in state.skillbook and len(state.skillbook) >= SKILLS_MAX:
        return Rejected("TOO_MANY_SKILLS", f"there are at most {SKILLS_MAX} skills")
    return None


def _found(state: ClusterState, skill_id: str, revision: str) -> tuple[SkillEntry, SkillRevision] | Rejected:
    entry = state.skillbook.get(skill_id)
    if entry is None:
        return _no_skill(skill_id)
    found = entry.find(revision)
    if found is None:
        return Rejected("REVISION_NOT_FOUND", f"{skill_id} has no revision {revision}")
    return entry, found


def _no_skill(skill_id: str) -> Rejected:
    return Rejected("SKILL_NOT_FOUND", f"no skill {skill_id} was published")


RULES: dict[type, Callable[[ClusterState, Any, Moment], Outcome]] = {
    PublishSkill: publish,
    DecideSkill: decide,
    RouteSkill: route,
    RollBackSkill: roll_back,
    RemoveSkill: remove,
    SetSkillPolicy: set_policy,
}
