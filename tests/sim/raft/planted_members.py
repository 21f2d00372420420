"""Planted bugs of membership: who counts, who votes, and how many changes are under way."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from coterie.core.ports import ChangeRefused, MembershipChange, MoveMember
from coterie.raft import configuration as form
from coterie.raft import messages as m
from coterie.raft import snapshot
from coterie.raft.errors import LinkRefused, Why
from coterie.raft.member import Member
from tests.sim.raft.plant import Plant


def _learner_counts() -> type[Member]:
    class SyncObj(Member):
        """Takes the answers of learners for answers of voters."""

        def _count_anew(self) -> None:
            self._counted = [node for node in self._peers if self._counts(node)]

    return SyncObj


def _changes_at_once() -> type[Member]:
    class SyncObj(Member):
        """Begins a change while another one is under way."""

        def _begin_change(self, change: MembershipChange) -> int:
            try:
                return super()._begin_change(change)
            except ChangeRefused:
                self._append_configuration(form.changed(self._configuration, change, self._facts()))
                return self._configuration_index

    return SyncObj


def _refused_and_made() -> type[Member]:
    class SyncObj(Member):
        """Refuses a change while another one is under way, and makes it when that is done."""

        _kept: MembershipChange | None = None

        def _begin_change(self, change: MembershipChange) -> int:
            try:
                return super()._begin_change(change)
            except ChangeRefused as refusal:
                if "under way" in str(refusal):
                    self._kept = change
                raise

        def _tick_changes(self) -> None:
            if self._kept is not None and self._configuration_index <= self.__raftCommitIndex:
                change, self._kept = self._kept, None
                with suppress(ChangeRefused):
                    super()._begin_change(change)
            super()._tick_changes()

    return SyncObj


def _hasty_change() -> type[Member]:
    class SyncObj(Member):
        """A leader changes members before it has committed an entry of its own term."""

        def _is_settled(self) -> bool:
            return True

    return SyncObj


def _hasty_promotion() -> type[Member]:
    class SyncObj(Member):
        """Makes a voter of whoever has a link, whatever it has of the log."""

        def _facts(self) -> form.Facts:
            linked = frozenset(str(node.id) for node in self._peers if self._is_up(node))
            return replace(super()._facts(), caught_up=linked)

    return SyncObj


def _removed_is_let_in() -> type[Member]:
    class SyncObj(Member):
        """Talks to a disk that was removed as if it were a member's."""

        def check_link(self, peer: str, disk_id: str) -> None:
            try:
                super().check_link(peer, disk_id)
            except LinkRefused as refused:
                if refused.why is not Why.REMOVED:
                    raise

    return SyncObj


def _wiped_disk_votes() -> type[Member]:
    class SyncObj(Member):
        """A new disk under an old id votes like the old one."""

        def _may_grant(self, message: m.PreVote | m.VoteRequest) -> bool:
            return True

    return SyncObj


def _begins_again() -> type[Member]:
    class SyncObj(Member):
        """A blank node stands, and votes for blank nodes, whatever the others hold."""

        @property
        def _holders(self) -> list[str]:
            return []

    return SyncObj


_changed = form.changed


def _nothing_moves(
    now: form.Configuration, change: MembershipChange, facts: form.Facts
) -> form.Configuration:
    return now if isinstance(change, MoveMember) else _changed(now, change, facts)


_header = snapshot.header


def _header_without_members(meta: snapshot.Meta, cluster_id: str) -> bytes:
    return _header(replace(meta, configuration_index=0, configuration=b""), cluster_id)


MEMBERS, DISKS = "test_membership.py::", "test_membership_disks.py::"
PLANTS: dict[str, Plant] = {
    "begun-again": Plant(_begins_again()),
    "change-before-commit": Plant(
        _hasty_change(),
        found_by=MEMBERS + "test_a_leader_changes_nothing_before_an_entry_of_its_term_is_committed",
    ),
    "changes-at-once": Plant(
        _changes_at_once(),
        found_by=MEMBERS + "test_a_second_change_is_refused_while_the_first_is_not_committed",
    ),
    "learner-counts": Plant(
        _learner_counts(), found_by=MEMBERS + "test_a_learner_gets_everything_and_does_not_count"
    ),
    "move-forgotten": Plant(patches=(("coterie.raft.configuration", "changed", _nothing_moves),)),
    "refused-but-changed": Plant(_refused_and_made()),
    "removed-disk-let-in": Plant(
        _removed_is_let_in(),
        found_by=DISKS + "test_a_removed_node_is_refused_also_without_a_leader_and_after_a_restart",
    ),
    "snapshot-without-members": Plant(
        patches=(("coterie.raft.snapshot", "header", _header_without_members),)
    ),
    "voter-before-caught-up": Plant(
        _hasty_promotion(),
        found_by=MEMBERS + "test_a_node_becomes_a_voter_when_it_has_caught_up_and_not_before",
    ),
    "wiped-disk-votes": Plant(
        _wiped_disk_votes(),
        found_by=DISKS + "test_a_wiped_voter_does_not_vote_even_when_it_is_asked_straight_away",
    ),
}
