"""The seams between the pure core and the shells: what the Raft engine drives, and what it offers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable


class NotCommitted(Exception):
    """The cluster did not say yes in time; the entry may still commit later. Propose the same again."""


class NoQuorum(NotCommitted):
    """No leader with a majority could be reached before the deadline."""


class ChangeRefused(Exception):
    """A change of the members was certainly not made, now or later; the message says why."""


class Role(StrEnum):
    """What a member does in the group."""

    VOTER = "voter"
    LEARNER = "learner"  # gets the whole log, and neither votes nor counts


@dataclass(frozen=True, slots=True)
class Member:
    """One node of the group. `disk_id` names the data directory it is bound to; empty: not bound yet, and
    until it is, a voter's answers do not count."""

    node_id: str
    address: str
    role: Role
    disk_id: str = ""


@dataclass(frozen=True, slots=True)
class AddMember:
    """The node joins as a learner. With VOTER wanted the leader promotes it when it has caught up."""

    node_id: str
    address: str
    role_wanted: Role = Role.VOTER


@dataclass(frozen=True, slots=True)
class PromoteMember:
    """A learner that has caught up becomes a voter."""

    node_id: str


@dataclass(frozen=True, slots=True)
class DemoteMember:
    """A voter becomes a learner, and stays one."""

    node_id: str


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """The node leaves for good: its disk is never let in again under this id. `disk_id`: the disk it has as
    far as the asker knows, filled in by the engine: a repeated wish removes no node that was added since."""

    node_id: str
    disk_id: str = ""


@dataclass(frozen=True, slots=True)
class MoveMember:
    """The node is reached under another address."""

    node_id: str
    address: str


MembershipChange = AddMember | PromoteMember | DemoteMember | RemoveMember | MoveMember


@dataclass(frozen=True, slots=True)
class Committed:
    """Where an entry stands in the log, and what the machine answered when this node applied it."""

    index: int
    term: int
    at_ms: int
    result: object


class Machine(Protocol):
    """What the engine drives on every node, in the same order. `apply` is total: it never raises."""

    def apply(self, index: int, at_ms: int, entry: bytes) -> object:
        """Apply one committed entry. `at_ms` is the leader's wall clock when it appended the entry, made
        monotonic along the log (ms since the epoch). The result goes to the proposer on this node only."""

    def freeze(self) -> Iterator[bytes]:
        """An image of the state as of now, as an iterator of chunks that stays valid while `apply` goes on.
        Making it is cheap; encoding happens while it is consumed, slice by slice."""

    def restore(self, chunks: Iterable[bytes], index: int) -> None:
        """Replace the whole state by an image whose last applied entry was `index`."""


class Restoring(Protocol):
    """A state that is put together from an image, slice by slice, beside the one in use."""

    def feed(self, chunk: bytes) -> None:
        """The next chunk of the image."""

    def settle(self) -> bool:
        """After the last chunk: a portion of what is left to do; False when nothing is."""

    def adopt(self, index: int) -> None:
        """Replace the state in use; quick. The last entry in the image was `index`."""

    def tidy(self) -> bool:
        """After `adopt`: throw away a portion of the state that was replaced; False when nothing is left."""


@runtime_checkable
class DiscerningMachine(Machine, Protocol):
    """A machine that can tell entries which only a newer version of it applies, or none at all."""

    def understands(self, entry: bytes) -> bool:
        """False: applying it would raise, here and on every node of this version, or it is broken."""


@runtime_checkable
class ReticentMachine(Machine, Protocol):
    """A machine that knows which entries concern nobody but who proposed them."""

    def take_news(self) -> bool:
        """Whether there was anything else since the last call."""


@runtime_checkable
class SlicedMachine(Machine, Protocol):
    """A machine whose state is so large that restoring it at once would stop the event loop for long."""

    def begin_restore(self) -> Restoring: ...


class Engine(Protocol):
    """A replicated log, seen from above."""

    @property
    def leader(self) -> str:
        """Node id of the leader as known here; empty when none is known."""

    @property
    def is_leader(self) -> bool: ...

    @property
    def term(self) -> int: ...

    @property
    def commit_index(self) -> int: ...

    @property
    def applied_index(self) -> int: ...

    @property
    def has_quorum(self) -> bool:
        """This node leads or follows a leader it has heard from within an election timeout."""

    async def propose(self, entry: bytes, timeout_s: float, *, vital: bool = False) -> Committed:
        """Replicate `entry`; return when it is durable on a majority and applied on this node. `vital`: it
        ends work or frees room, and is taken even while the disks are too full for new work.

        Works on any node. Raises NotCommitted when the outcome is unknown: the entry may have been
        committed, or may yet be, so entries must be safe to propose again."""

    async def read_barrier(self, timeout_s: float) -> int:
        """Wait until this node's state includes everything committed before the call (read index,
        Raft thesis section 6.4). Returns the applied index. Raises NoQuorum."""

    def quorum_contact_at(self) -> float:
        """The latest moment T (local monotonic clock, seconds) such that a majority has answered messages
        that this leader sent at T or later; minus infinity when not leading. Basis of leases: it counts
        from sending, so answers drained after a pause prove nothing."""

    async def transfer_leadership(self, target: str, timeout_s: float) -> str:
        """Hand leadership to `target` (empty: the most up-to-date follower). Returns the new leader."""

    @property
    def members(self) -> tuple[Member, ...]:
        """The latest configuration in this node's log, sorted by node id; empty while it knows of none."""

    async def change_members(self, change: MembershipChange, timeout_s: float) -> tuple[Member, ...]:
        """Change who belongs to the group, one change at a time (Raft thesis, sections 4.1 to 4.4).

        Works on any node; returns the members when the change is committed, at once when what it asks for
        holds already. Raises ChangeRefused: certainly not done; NotCommitted or NoQuorum: unknown, ask
        for the same again."""
