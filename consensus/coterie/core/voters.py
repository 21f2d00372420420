"""Who should vote: next_change(members, health, policy) -> the next single change of roles. Pure.

Keeping nothing in mind, it comes to the same end whoever leads and however often the leader changes: every
answer follows from the members and from how they are. One voter is changed at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coterie.core.ports import DemoteMember, Member, MembershipChange, PromoteMember, Role


@dataclass(frozen=True, slots=True)
class VoterPolicy:
    """At most `voters_max` vote; a voter down for `replace_after_s` seconds makes room (0: never)."""

    voters_max: int = 7
    replace_after_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Health:
    """How a member is, as the leader sees it. `down_s`: for how long it has been down; 0 while it is up."""

    up: bool
    down_s: float = 0.0
    leaving: bool = False


def next_change(
    me: str, members: tuple[Member, ...], health: Mapping[str, Health], policy: VoterPolicy
) -> MembershipChange | None:
    """What the leader `me` should change next about who votes; None: nothing.

    A lost voter is replaced before it is demoted, so that the majority never gets thinner than it is. An even
    number of voters survives no more losses than one voter less; so a lost one of an even number is demoted,
    and a runner makes an even number odd."""
    voters = [member.node_id for member in members if member.role is Role.VOTER]
    runners = [member.node_id for member in members if _may_vote(member, health)]
    lost = [voter for voter in voters if voter != me and _is_lost(health.get(voter), policy)]
    even = len(voters) % 2 == 0
    if len(voters) > policy.voters_max:
        return DemoteMember(_surplus(me, voters, lost, health))
    if lost and even and len(voters) > 1:
        return DemoteMember(lost[0])
    if runners and (lost or (even and len(voters) < policy.voters_max)):
        return PromoteMember(runners[0])
    return None


def _may_vote(member: Member, health: Mapping[str, Health]) -> bool:
    known = health.get(member.node_id)
    bound = member.role is Role.LEARNER and bool(member.disk_id)
    return bound and known is not None and known.up and not known.leaving


def _is_lost(known: Health | None, policy: VoterPolicy) -> bool:
    return known is not None and 0 < policy.replace_after_s <= known.down_s


def _surplus(me: str, voters: list[str], lost: list[str], health: Mapping[str, Health]) -> str:
    """One that is lost, else down, else the last by id; never the leader, who would have to step down."""
    others = [voter for voter in voters if voter != me]
    down = [voter for voter in others if voter in health and not health[voter].up]
    return (lost or down or others[::-1])[0]
