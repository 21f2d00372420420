"""What can be seen of an engine from outside, at any moment."""

from __future__ import annotations

import math

from coterie.raft.member import Member
from coterie.raft.room import Room


class EngineStatus:
    """The readings of RaftEngine: cheap, and always of now. See coterie.core.ports.Engine."""

    _member: Member | None = None
    _running = False

    @property
    def leader(self) -> str:
        return self._member.leader if self._running and self._member is not None else ""

    @property
    def is_leader(self) -> bool:
        return self._running and self._member is not None and self._member.is_leader

    @property
    def term(self) -> int:
        return self._member.term if self._member is not None else 0

    @property
    def commit_index(self) -> int:
        return self._member.commit_index if self._member is not None else 0

    @property
    def applied_index(self) -> int:
        return self._member.applied_index if self._member is not None else 0

    @property
    def has_quorum(self) -> bool:
        return self._running and self._member is not None and self._member.has_quorum

    def quorum_contact_at(self) -> float:
        running = self._running and self._member is not None
        return self._member.quorum_contact_at() if running and self._member is not None else float("-inf")

    @property
    def takes_new_work(self) -> bool:
        """False while there is too little room on the disk here, or as the leader knows of a majority."""
        return self._member is None or self._member.takes_new_work

    @property
    def room(self) -> Room:
        return self._member.room if self._member is not None else Room.OK

    @property
    def free_bytes(self) -> float:
        """On the disk of the log; infinite when it is not known yet."""
        return self._member.free_bytes if self._member is not None else math.inf

    @property
    def sync_p99_s(self) -> float:
        """Of the journal's syncs of the last seconds; 0: there were none."""
        return self._member.sync_p99_s if self._member is not None else 0.0
