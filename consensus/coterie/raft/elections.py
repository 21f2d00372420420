"""Elections: PySyncObj's votes, with PreVote, leader stickiness and one vote per voter in front of them.

Raft thesis, sections 4.2.3 (disruptive servers), 6.2 (check quorum) and 9.6 (PreVote)."""

from __future__ import annotations

import math
from typing import Any

from coterie.raft import beginning
from coterie.raft import messages as m
from coterie.raft.journal import Journal
from coterie.raft.seam import CANDIDATE, FOLLOWER, LEADER, Node


class SyncObj(beginning.SyncObj):
    """Adds: nobody's term rises unless a majority would vote; a live leader is not disturbed."""

    _leader_heard_at = -math.inf  # last message of the current leader
    _sworn_until = -math.inf  # a leader may rely on an answer this node gave before it was restarted
    _pre_voters: frozenset[str] = frozenset()
    _voters: frozenset[str] = frozenset()
    _elect_now = False  # a majority has granted the pre-vote
    _campaigns = False  # this step's library timer may start an election
    _by_transfer = False  # the running election was asked for by the leader

    def _use_journal(self, journal: Journal) -> None:
        super()._use_journal(journal)
        if self.__raftCurrentTerm > 0:
            self._sworn_until = self._now() + self._options.election_timeout_s

    def _tick_election(self) -> None:
        """Before the library's own election timer: ask first, unless the leader told us to go."""
        self._campaigns = False
        if self.__raftState == LEADER or self.__raftElectionDeadline >= self._now():
            return
        nobody_to_ask = self._others and not any(map(self._is_up, self._others))
        if nobody_to_ask or not self._may_campaign():
            self._step_down()
            return
        if self._others and not (self._elect_now or self.__transferInProgress):
            self._ask_pre_votes()
            return
        self._by_transfer = self.__transferInProgress
        self._elect_now = False
        self._voters = frozenset()
        self._campaigns = True

    def __connectedToAnyone(self) -> bool:
        """The library asks it when its own look at the clock says that an election is due. It looks a little
        later than `_tick_election`: what that has not decided must not happen in between."""
        return self._campaigns

    def _ask_pre_votes(self) -> None:
        self._restart_election_timer()
        self.__raftLeader = None
        self._pre_voters = frozenset([self._options.node_id])
        last = self._log[-1]
        for node in self._others:
            disk_id = self._configuration.disk_of(str(node.id))
            self._post(node, m.PreVote(self.__raftCurrentTerm + 1, last[1], last[2], disk_id))

    def _on_pre_vote(self, node: Node, message: m.PreVote) -> None:
        self._note_log_of(node, message.last_index)
        granted = (
            message.term > self.__raftCurrentTerm
            and (message.last_term, message.last_index) >= (self._log[-1][2], self._log[-1][1])
            and not self._is_loyal()
            and self._may_grant(message)
        )
        self._post(node, m.PreVoteReply(message.term, granted, self.__raftCurrentTerm))

    def _on_pre_vote_reply(self, node: Node, message: m.PreVoteReply) -> None:
        if message.voter_term > self.__raftCurrentTerm:
            self._adopt_term(message.voter_term)
            return
        if (
            not message.granted
            or not self._is_candidates_voter(node)
            or message.term != self.__raftCurrentTerm + 1
            or not self._pre_voters
            or self.__raftState == LEADER
        ):
            return
        self._pre_voters |= {node.id}
        if self._is_elected_by(self._pre_voters - {self._options.node_id}):
            self._pre_voters = frozenset()
            self._elect_now = True
            self.__raftElectionDeadline = -math.inf

    def _on_vote_request(self, node: Node, message: m.VoteRequest) -> None:
        self._note_log_of(node, message.last_index)
        if not message.transfer and message.term > self.__raftCurrentTerm and self._is_loyal():
            return  # whoever cannot hear the leader must not depose it
        if not self._may_grant(message):
            return  # as if the question had been lost
        if message.term > self.__raftCurrentTerm:
            # A hand-over that this node was told of in an older term entitles it to nothing in this one.
            self.__transferInProgress = False
            self._pre_voters, self._elect_now = frozenset(), False
        self._as_library(
            node,
            {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            },
        )

    def _on_vote_reply(self, node: Node, message: m.VoteReply) -> None:
        if message.term > self.__raftCurrentTerm or node.id in self._voters:
            return
        if not self._is_candidates_voter(node):
            return
        if message.term == self.__raftCurrentTerm and self.__raftState == CANDIDATE:
            self._voters |= {node.id}
            if self._is_elected_by(self._voters):
                self.__onBecomeLeader()

    def _is_elected_by(self, others: frozenset[str]) -> bool:
        """These and this node, if it votes, are a majority. The library would always count this node."""
        return self._is_voter + len(others) >= self._majority

    def _on_timeout_now(self, node: Node, message: m.TimeoutNow) -> None:
        self._as_library(node, {"type": "timeout_now", "term": message.term})

    def _as_library(self, node: Node, message: dict[str, Any]) -> None:
        super().__onMessageReceived(node, message)

    def _send_library_message(self, node: Node, message: dict[str, Any]) -> bool:
        match message["type"]:
            case "request_vote":
                last_index, last_term = message["last_log_index"], message["last_log_term"]
                disk_id = self._configuration.disk_of(str(node.id))
                self._post(
                    node, m.VoteRequest(message["term"], last_index, last_term, self._by_transfer, disk_id)
                )
            case "response_vote":
                self._post(node, m.VoteReply(message["term"]))
            case kind:
                raise AssertionError(f"the library must not send {kind} by itself")
        return True

    # --- terms and leaders ---

    def _adopt_term(self, term: int) -> None:
        """Follow into a higher term whose leader is not known yet."""
        self.__setCurrentTerm(term, None)
        self._step_down()

    def _step_down(self) -> None:
        self.__setState(FOLLOWER)
        self.__raftLeader = None
        self.__transferInProgress = False
        self._pre_voters, self._elect_now = frozenset(), False
        self._restart_election_timer()

    def _follow(self, node: Node, term: int) -> None:
        """A message of the leader of `term` (at least ours) has arrived."""
        if term > self.__raftCurrentTerm:
            self.__transferInProgress = False
            self.__setCurrentTerm(term, None)
        if not self.__transferInProgress:
            self._restart_election_timer()  # else the old leader's heartbeats would delay the hand-over
        self.__setState(FOLLOWER)
        self._pre_voters, self._elect_now = frozenset(), False
        self._leader_heard_at = self._now()
        self.__raftLeader = node

    def _restart_election_timer(self) -> None:
        self.__raftElectionDeadline = self._now() + self.__generateRaftTimeout()

    def _is_loyal(self) -> bool:
        """A leader may be counting on this node not to vote for another one. Also when this node has followed
        a hand-over into a higher term since: the one that was to take over need not have been elected."""
        heard_until = self._leader_heard_at + self._options.election_timeout_s
        return self._now() < max(self._sworn_until, heard_until) or self._leader_is_alive()

    def _leader_is_alive(self) -> bool:
        """This node leads with a live majority, or has heard its leader within an election timeout."""
        since = self._now() - self._options.election_timeout_s
        if self.__raftState == LEADER:
            return self._contact_at() > since
        return self.__raftLeader is not None and self._leader_heard_at > since

    def _contact_at(self) -> float:
        """See Engine.quorum_contact_at."""
        raise NotImplementedError
