"""Who the members are, as this node's log has it, and whose answers count.

A configuration holds from the moment it is appended, and is gone when its entry is cut off again. An answer
counts when its sender is a voter and has the disk that the configuration binds it to (see configuration.py).

**A fresh disk never helps to lose data.** A node with a new disk knows nothing of what an older one promised
under the same id. It grants a vote only when its disk is bound: by its own log, or by the candidate's, whose
leader had everything that was committed when it bound this very disk. The group begins with logs that are all
empty, so a blank node grants votes to blank candidates too, as long as it knows of nobody who holds anything
(beginning.py); the first leader's first entry binds the majority that elected it, before anything else is in
the log."""

from __future__ import annotations

import math
from typing import Any

from coterie.core import ports
from coterie.raft import messages as m
from coterie.raft import seam
from coterie.raft.configuration import Configuration, decode, first
from coterie.raft.errors import LinkRefused, Why
from coterie.raft.journal import FIRST_INDEX, Journal
from coterie.raft.seam import LEADER, Node


class SyncObj(seam.SyncObj):
    """Adds the configuration to the library's set of nodes."""

    changed = False  # the driver rings the bell, and sets it back
    _configuration = Configuration()
    _configuration_index = -1
    _known: tuple[int, bytes] | None = None  # where the configuration was appended, and its bytes

    def __init__(self, *args: Any) -> None:
        self._told_disks: dict[str, str] = {}  # what each peer last said its disk is
        self._base_configuration: tuple[int, bytes] = (0, b"")  # the snapshot's
        self._counted: list[Node] = []  # the other voters whose answers count
        super().__init__(*args)

    def _use_journal(self, journal: Journal) -> None:
        super()._use_journal(journal)
        self._first = first(self._options.peers, self._options.addresses)
        self._update_members()

    @property
    def disk_id(self) -> str:
        return self._log.disk_id

    @property
    def members(self) -> tuple[ports.Member, ...]:
        """See Engine.members."""
        return self._configuration.members

    # --- following the log ---

    def _configuration_at(self, index: int) -> tuple[int, bytes]:
        """The configuration that holds at an index, and where it was appended; (0, b""): the first one."""
        for at, raw in reversed(self._log.configurations):
            if at <= index:
                return max((at, raw), self._base_configuration)
        return self._base_configuration

    def _read_configuration(self, raw: bytes) -> Configuration:
        return decode(raw) if raw else self._first

    def _committed_configuration(self) -> Configuration:
        commit = self.__raftCommitIndex
        if self._base_configuration[0] <= self._configuration_index <= commit:
            return self._configuration
        return self._read_configuration(self._configuration_at(commit)[1])

    def _update_members(self) -> None:
        """The log's end has changed, or what lies behind its base."""
        index, raw = known = self._configuration_at(self._log.last_index)
        if known == self._known:
            return
        self._known = known
        configuration = self._read_configuration(raw)
        if (index, configuration) == (self._configuration_index, self._configuration):
            return
        self._configuration_index, self._configuration = index, configuration
        me = self._options.node_id
        voters = frozenset(configuration.voters)
        self._majority = configuration.majority
        self._is_voter = me in voters
        self._peers = [self._node(member.node_id) for member in configuration.members if member.node_id != me]
        self._others = [node for node in self._peers if node.id in voters]
        self._tell_library()
        self._count_anew()
        self.changed = True
        self._members_changed()

    def _tell_library(self) -> None:
        """It asks these for votes. Copies and answers we count ourselves, so it must never find a majority of
        either, nor miss one."""
        self.__otherNodes.clear()
        self.__otherNodes.update(self._others)
        for node in self._others:
            self.__raftMatchIndex[node] = 0
            self.__lastResponseTime[node] = math.inf

    def _node(self, peer: str) -> Node:
        if peer not in self._nodes:
            self._nodes[peer] = Node(peer)
        return self._nodes[peer]

    def _members_changed(self) -> None:
        """For the layers above."""

    # --- whose answers count ---

    def _note_disk(self, peer: str, disk_id: str) -> None:
        """A peer has said what its disk is."""
        self._told_disks[peer] = disk_id
        self._count_anew()

    def _count_anew(self) -> None:
        self._counted = [node for node in self._others if self._counts(node)]

    def _counts(self, node: Node) -> bool:
        """It is bound to a disk, and this is the one we talk to."""
        disk_id = self._configuration.disk_of(str(node.id))
        return bool(disk_id) and self._told_disks.get(str(node.id)) == disk_id

    def _is_candidates_voter(self, node: Node) -> bool:
        """Its vote counts: at the very beginning nobody is bound yet."""
        disk_id = self._configuration.disk_of(str(node.id))
        return node in self._others and (not disk_id or self._counts(node))

    def _is_blank(self) -> bool:
        """Nothing was ever appended here."""
        return self._log.last_index == FIRST_INDEX

    def _may_campaign(self) -> bool:
        if not self._is_voter:
            return self._was_a_voter()
        disk_id = self._configuration.disk_of(self._options.node_id)
        return disk_id == self.disk_id or (not disk_id and self._is_blank() and self._may_begin())

    def _was_a_voter(self) -> bool:
        """Before a change that may not be committed yet. Without it in their logs the others may be too few
        to elect anybody, so this node still starts elections (Raft thesis, section 4.2.2)."""
        commit, me = self.commit_index, self._options.node_id
        if self._configuration_index <= commit:
            return False
        later = [decode(raw) for at, raw in self._log.configurations if at > commit]
        return any(
            me in configuration.voters and configuration.disk_of(me) == self.disk_id
            for configuration in (self._committed_configuration(), *later)
        )

    def _may_grant(self, message: m.PreVote | m.VoteRequest) -> bool:
        """This disk has a vote, as far as it matters to this candidate. See the module."""
        bound = (self._configuration.disk_of(self._options.node_id), message.disk_id)
        if self.disk_id in bound:
            return True
        are_blank = self._is_blank() and message.last_index == FIRST_INDEX
        return self._is_voter and are_blank and not self._holders

    @property
    def _holders(self) -> list[str]:
        """Of whom this node knows that they hold something."""
        raise NotImplementedError

    def _may_begin(self) -> bool:
        """This node, which is blank, may stand in the group's first election."""
        raise NotImplementedError

    # --- whom to talk to ---

    def check_link(self, peer: str, disk_id: str) -> None:
        """Raises LinkRefused. Without a live leader our log may be far behind, and a leader that we do not
        know yet must get through: then only those who were certainly removed are refused."""
        if peer == self._options.node_id:
            raise LinkRefused(
                Why.STRANGER, f"{peer!r} is this node itself: every node needs an id of its own"
            )
        if self._committed_configuration().has_removed(peer, disk_id):
            raise LinkRefused(
                Why.REMOVED,
                f"node {peer!r} with disk {disk_id} was removed from the cluster. Remedy: to bring the node "
                "back, add it again with an empty data directory",
            )
        if not (self.__raftState == LEADER or self._leader_is_alive()):
            return
        member = self._configuration.member(peer)
        if member is None:
            raise LinkRefused(Why.STRANGER, f"{peer!r} is no member of this cluster. Remedy: add it first")
        if disk_id and member.disk_id not in ("", disk_id):
            raise LinkRefused(
                Why.WRONG_DISK,
                f"node {peer!r} is bound to disk {member.disk_id} and comes with disk {disk_id}: its data "
                "directory was wiped or replaced. Remedy: remove the node from the cluster, and add it again",
            )

    def _leader_is_alive(self) -> bool:
        raise NotImplementedError
