"""Who belongs to the group, as a value: its bytes, its rules, and what a change makes of it.

Raft thesis, chapter 4: the configuration lives in the log, a server uses the latest one in its log whether it
is committed or not, and it is changed by one server at a time, so that any two majorities meet.

Every member is bound to one disk (a data directory), and only that disk's answers count. A voter is never
bound to another disk: a wiped one has forgotten what it promised, and has to be removed and added again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from google.protobuf.message import DecodeError

from coterie.core.ports import (
    AddMember,
    ChangeRefused,
    DemoteMember,
    Member,
    MembershipChange,
    MoveMember,
    PromoteMember,
    RemoveMember,
    Role,
)
from coterie.v1 import raft_pb2

REMOVED_MAX = 256  # removed disks that are remembered


@dataclass(frozen=True, slots=True)
class Configuration:
    """`members` are sorted by id; `promote` names the learners that are to become voters; `removed` holds the
    (node id, disk id) of who may never come back, oldest first.

    `is_bound`: some leader has bound members to disks, the group has begun to work. `is_complete`: every
    member is bound to a disk, and no learner is to become a voter."""

    members: tuple[Member, ...] = ()
    promote: frozenset[str] = frozenset()
    removed: tuple[tuple[str, str], ...] = ()
    # What follows from these. A member asks it in every step.
    voters: tuple[str, ...] = field(init=False, repr=False, compare=False)
    majority: int = field(init=False, repr=False, compare=False)
    is_bound: bool = field(init=False, repr=False, compare=False)
    is_complete: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        voters = tuple(member.node_id for member in self.members if member.role is Role.VOTER)
        bound = [bool(member.disk_id) for member in self.members]
        object.__setattr__(self, "voters", voters)
        object.__setattr__(self, "majority", len(voters) // 2 + 1)
        object.__setattr__(self, "is_bound", any(bound))
        object.__setattr__(self, "is_complete", not self.promote and all(bound))

    def member(self, node_id: str) -> Member | None:
        return next((member for member in self.members if member.node_id == node_id), None)

    def disk_of(self, node_id: str) -> str:
        """The disk a member is bound to; empty: to none, or it is no member."""
        member = self.member(node_id)
        return member.disk_id if member is not None else ""

    def has_removed(self, node_id: str, disk_id: str) -> bool:
        """That disk was removed. The same id with another disk may have been added since."""
        return (node_id, disk_id) in self.removed and self.disk_of(node_id) != disk_id

    def bind(self, disks: Mapping[str, str]) -> Configuration:
        """The members that have no disk yet, bound to these. Disks of removed members are not taken."""
        return replace(
            self,
            members=tuple(
                replace(member, disk_id=disks[member.node_id])
                if not member.disk_id
                and disks.get(member.node_id)
                and (member.node_id, disks[member.node_id]) not in self.removed
                else member
                for member in self.members
            ),
        )


def first(peers: tuple[str, ...], addresses: Mapping[str, str]) -> Configuration:
    """What a node goes by before its log holds a configuration."""
    return Configuration(tuple(Member(peer, addresses.get(peer, ""), Role.VOTER) for peer in sorted(peers)))


# --- bytes ---


def encode(configuration: Configuration) -> bytes:
    message = raft_pb2.Configuration()
    for member in configuration.members:
        message.members.add(
            node_id=member.node_id,
            address=member.address,
            voter=member.role is Role.VOTER,
            disk_id=member.disk_id,
            promote=member.node_id in configuration.promote,
        )
    for node_id, disk_id in configuration.removed:
        message.removed.add(node_id=node_id, disk_id=disk_id)
    return message.SerializeToString(deterministic=True)


@lru_cache(maxsize=64)
def decode(raw: bytes) -> Configuration:
    """Raises ValueError when the bytes are no configuration that a group could have."""
    try:
        message = raft_pb2.Configuration.FromString(raw)
    except DecodeError as error:
        raise ValueError(f"no configuration: {error}") from error
    configuration = Configuration(
        tuple(
            Member(m.node_id, m.address, Role.VOTER if m.voter else Role.LEARNER, m.disk_id)
            for m in message.members
        ),
        frozenset(m.node_id for m in message.members if m.promote),
        tuple((r.node_id, r.disk_id) for r in message.removed),
    )
    ids = [member.node_id for member in configuration.members]
    if "" in ids or ids != sorted(set(ids)):
        raise ValueError(f"a configuration with the members {ids}: they must be sorted, each once")
    if not configuration.voters:
        raise ValueError("a configuration without a voter")
    return configuration


def is_valid(raw: bytes) -> bool:
    try:
        decode(raw)
    except ValueError:
        return False
    return True


# --- changes ---


@dataclass(frozen=True, slots=True)
class Facts:
    """What the leader sees: who answered within an election timeout, itself included; which learners have
    the whole log; which disk each peer said it has."""

    live: frozenset[str] = frozenset()
    caught_up: frozenset[str] = frozenset()
    disks: Mapping[str, str] = field(default_factory=dict)


def changed(now: Configuration, change: MembershipChange, facts: Facts) -> Configuration:
    """The configuration after a change; the same one when it asks for nothing new. Raises ChangeRefused."""
    match change:
        case AddMember():
            return _added(now, change)
        case PromoteMember(node_id):
            return _promoted(now, node_id, facts)
        case DemoteMember(node_id):
            return _demoted(now, node_id, facts)
        case RemoveMember(node_id, disk_id):
            return _removed(now, node_id, disk_id, facts)
        case MoveMember(node_id, address):
            return _with(now, replace(_known(now, node_id), address=address))


def _added(now: Configuration, change: AddMember) -> Configuration:
    if not change.node_id:
        raise ChangeRefused("node_id is empty: give the new node its id")
    member = now.member(change.node_id)
    wants_vote = change.role_wanted is Role.VOTER
    if member is None:
        added = _with(now, Member(change.node_id, change.address, Role.LEARNER))
        return replace(added, promote=now.promote | {change.node_id}) if wants_vote else added
    holds = member.role is Role.VOTER or change.node_id in now.promote
    if member.address == change.address and holds == wants_vote:
        return now
    raise ChangeRefused(
        f"node_id {change.node_id!r} is taken: it is a {member.role} at {member.address!r}. Promote, demote "
        "or move it, or remove it first"
    )


def _promoted(now: Configuration, node_id: str, facts: Facts) -> Configuration:
    member = _known(now, node_id)
    if member.role is Role.VOTER:
        return now
    if not member.disk_id:
        raise ChangeRefused(f"{node_id!r} has not been in touch with the leader yet: start it first")
    if node_id not in facts.caught_up:
        raise ChangeRefused(f"{node_id!r} has not caught up with the log yet: try again when it has")
    voters = replace(_with(now, replace(member, role=Role.VOTER)), promote=now.promote - {node_id})
    return _with_live_quorum(voters, facts, f"{node_id!r} became a voter")


def _demoted(now: Configuration, node_id: str, facts: Facts) -> Configuration:
    member = _known(now, node_id)
    rest = replace(_with(now, replace(member, role=Role.LEARNER)), promote=now.promote - {node_id})
    if member.role is Role.LEARNER:
        return rest
    return _with_live_quorum(rest, facts, f"{node_id!r} became a learner")


def _removed(now: Configuration, node_id: str, meant: str, facts: Facts) -> Configuration:
    member = now.member(node_id)
    if member is None and any(node_id == removed for removed, _ in now.removed):
        return now
    member = _known(now, node_id)
    if meant and member.disk_id != meant:
        raise ChangeRefused(
            f"{node_id!r} with disk {meant} was removed, and was added again since: ask anew to remove it as "
            "it is now"
        )
    disk_id = member.disk_id or facts.disks.get(node_id, "")
    rest = Configuration(
        tuple(other for other in now.members if other is not member),
        now.promote - {node_id},
        (*now.removed, (node_id, disk_id))[-REMOVED_MAX:],
    )
    return rest if member.role is Role.LEARNER else _with_live_quorum(rest, facts, f"{node_id!r} left")


def _known(now: Configuration, node_id: str) -> Member:
    member = now.member(node_id)
    if member is None:
        names = ", ".join(member.node_id for member in now.members)
        raise ChangeRefused(f"{node_id!r} is no member; the members are {names}")
    return member


def _with(now: Configuration, member: Member) -> Configuration:
    others = [other for other in now.members if other.node_id != member.node_id]
    return replace(now, members=tuple(sorted([*others, member], key=lambda item: item.node_id)))


def _with_live_quorum(wanted: Configuration, facts: Facts, what: str) -> Configuration:
    voters = wanted.voters
    if not voters:
        raise ChangeRefused("this is the last voter: promote another one first")
    live = [voter for voter in voters if voter in facts.live]
    if len(live) < wanted.majority:
        raise ChangeRefused(
            f"if {what}, {len(live)} of the {len(voters)} voters would be alive, and the group needs "
            f"{wanted.majority}: bring back or remove those that are down first"
        )
    return wanted
