"""What may be proposed about skills."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.skillbook import SkillPolicy, SkillRevision


@dataclass(frozen=True, slots=True)
class PublishSkill:
    """A new revision, quarantined. One that is known changes nothing."""

    skill_id: str
    revision: SkillRevision


@dataclass(frozen=True, slots=True)
class DecideSkill:
    """Approve a revision, or revoke it for good."""

    skill_id: str
    revision: str
    approve: bool
    by: str = ""


@dataclass(frozen=True, slots=True)
class RouteSkill:
    """How many of the new tasks get a revision: all (100), some (a canary), none (0: the canary ends)."""

    skill_id: str
    revision: str
    percent: int


@dataclass(frozen=True, slots=True)
class RollBackSkill:
    """What was live before is live again, and no canary runs."""

    skill_id: str


@dataclass(frozen=True, slots=True)
class RemoveSkill:
    """Forget a revision, or (empty) the skill with all that is said of it. Not what tasks are bound to."""

    skill_id: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class SetSkillPolicy:
    """Say something of a skill, whether it was published or is on the nodes' disks."""

    skill_id: str
    policy: SkillPolicy


SkillCommand = PublishSkill | DecideSkill | RouteSkill | RollBackSkill | RemoveSkill | SetSkillPolicy
