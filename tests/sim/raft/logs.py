"""What must hold between the logs at every moment, seen from outside (Raft, figure 3): log matching, leader
completeness, and that what is committed stays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from coterie.core.ports import Member, Role
from coterie.raft import configuration
from coterie.raft.entry import CONFIGURATION, REGULAR, body_of
from tests.sim.raft.checks import Violation


@dataclass(slots=True)
class Seen:
    """How far the log of one process was looked at."""

    last: int = 0
    last_term: int = 0
    commit: int = 0
    term: int = 0  # in which it was last seen to lead
    since_s: float = 0.0  # by its own clock: since when
    configuration: int = 0  # where the newest members it has seen as leader are in its log


@dataclass(slots=True)
class Logs:
    """All entries any log ever held, and all that are committed."""

    entries: dict[tuple[int, int], tuple[bytes, int]] = field(default_factory=dict)
    committed: dict[int, tuple[int, int]] = field(default_factory=dict)  # index -> (its term, committed in)
    last_committed: int = 0
    voters: frozenset[str] = frozenset()  # of the newest committed configuration
    members: frozenset[str] = frozenset()
    group: tuple[Member, ...] = ()  # the same with their addresses, roles and disks
    groups: set[tuple[Member, ...]] = field(default_factory=set)  # all that were ever committed
    configurations: int = 0

    def look(self, node_id: str, member: Any, seen: Seen) -> None:
        """After every step: whatever is new in the log or newly committed."""
        log = member._log
        last = log.last_index
        last_term = log.term_at(last)
        if seen.last != last or seen.last_term != last_term:
            self._look_at_entries(node_id, log, seen)
            seen.last, seen.last_term = last, last_term
        if member.commit_index > seen.commit:
            self._look_at_commits(node_id, member, seen)

    def _look_at_entries(self, node_id: str, log: Any, seen: Seen) -> None:
        base = log.base
        start = base.index + 1
        if log.holds(seen.last) and log.term_at(seen.last) == seen.last_term:
            start = max(seen.last + 1, start)
        else:
            self._compare(node_id, base.index, base.term)
        before = log.term_at(start - 1)
        for command, index, term in log[start - base.index :]:
            known = self.entries.setdefault((index, term), (command, before))
            if known != (command, before):
                raise Violation(
                    f"log matching: entry {index} of term {term} on {node_id} follows term {before}, "
                    f"elsewhere it follows {known[1]} or has other bytes"
                )
            before = term

    def _compare(self, node_id: str, index: int, term: int) -> None:
        known = self.committed.get(index)
        if known is not None and known[0] != term:
            raise Violation(
                f"entry {index} is committed with term {known[0]}, and {node_id} has it with term {term}"
            )

    def _look_at_commits(self, node_id: str, member: Any, seen: Seen) -> None:
        log, commit = member._log, member.commit_index
        if commit > log.last_index:
            raise Violation(f"{node_id} commits {commit}, and its log ends at {log.last_index}")
        for index in range(max(seen.commit + 1, log.base.index), commit + 1):
            term = log.term_at(index)
            known = self.committed.get(index)
            if known is None:
                self.committed[index] = (term, member.term)
                self._follow_members(log[index - log.base.index][0], index)
            elif known[0] != term:
                self._compare(node_id, index, term)
        seen.commit = commit
        self.last_committed = max(self.last_committed, commit)

    def _follow_members(self, command: bytes, index: int) -> None:
        """Any majority of one configuration meets any of the next (Raft thesis, section 4.1)."""
        if command[0] != CONFIGURATION:
            return
        self.group = configuration.decode(command[1:]).members
        self.groups.add(self.group)
        voters = frozenset(member.node_id for member in self.group if member.role is Role.VOTER)
        if self.voters and len(voters ^ self.voters) > 1:
            raise Violation(
                f"entry {index} takes the voters from {sorted(self.voters)} to {sorted(voters)} at once"
            )
        self.voters, self.configurations = voters, self.configurations + 1
        self.members = frozenset(member.node_id for member in self.group)

    def look_at_change(self, node_id: str, member: Any) -> None:
        """A leader changes the members when it has committed an entry of its own term and the change before;
        the first entry of the group, which binds its disks, is all there is."""
        log, index, commit = member._log, member._configuration_index, member.commit_index
        if not (log.holds(index) and log.term_at(index) == member.term and index > log.base.index):
            return  # of a former leader
        before = max([at for at, _ in log.configurations[:-1]], default=member._base_configuration[0])
        if before > commit or (before and log.term_at(commit) != member.term):
            raise Violation(
                f"{node_id} of term {member.term} changes the members with entry {index}: the change before "
                f"it is entry {before}, committed is {commit} of term {log.term_at(commit)}"
            )

    def bodies(self) -> set[bytes]:
        """Of all entries that any log ever held."""
        return {body_of(command) for command, _ in self.entries.values() if command[0] == REGULAR}

    def elected(self, node_id: str, member: Any) -> None:
        """A leader has every entry that was committed in the terms before its own."""
        log = member._log
        for index in range(self.last_committed, log.base.index, -1):
            term, committed_in = self.committed.get(index, (0, member.term))
            if committed_in >= member.term:
                continue
            if index > log.last_index or log.term_at(index) != term:
                raise Violation(
                    f"leader completeness: {node_id} leads term {member.term} without entry {index} of term "
                    f"{term}, committed in term {committed_in}"
                )
