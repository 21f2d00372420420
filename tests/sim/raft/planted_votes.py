"""Planted bugs of elections, leadership and reads."""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import Any

from coterie.raft import messages as m
from coterie.raft.member import Member
from coterie.raft.progress import Progress
from coterie.raft.reading import TransferWish
from coterie.raft.reads import Read, Reads
from coterie.raft.seam import LEADER, Node
from tests.sim.raft.plant import Plant


def _forgotten_vote() -> type[Member]:
    class SyncObj(Member):
        """Does not write its term and its vote down."""

        def __setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
            self.__raftCurrentTerm, self.__votedForNodeId = term, votedForNodeId

    return SyncObj


def _vote_counted_twice() -> type[Member]:
    class SyncObj(Member):
        """Counts every vote that arrives, also the second one of the same voter."""

        def _on_vote_reply(self, node: Node, message: m.VoteReply) -> None:
            self._voters = frozenset()
            super()._on_vote_reply(node, message)

    return SyncObj


def _disloyal_voter() -> type[Member]:
    class SyncObj(Member):
        """Votes for anybody while its leader is alive."""

        def _is_loyal(self) -> bool:
            return False

    return SyncObj


def _forgetful_voter() -> type[Member]:
    class SyncObj(Member):
        """Owes its leader nothing any more once it has voted for the one that was to take over."""

        def _is_loyal(self) -> bool:
            return self._now() < self._sworn_until or self._leader_is_alive()

    return SyncObj


def _no_prevote() -> type[Member]:
    class SyncObj(Member):
        """Raises its term whenever it hears nobody."""

        def _tick_election(self) -> None:
            if self.__raftState != LEADER:
                self._elect_now = True
            super()._tick_election()

    return SyncObj


def _no_check_quorum() -> type[Member]:
    class SyncObj(Member):
        """Leads on when nobody answers."""

        def _check_quorum(self) -> None:
            pass

    return SyncObj


def _drained_answers() -> type[Member]:
    class SyncObj(Member):
        """Counts its lease from when it hears, not from when it asked."""

        def _note_answer(self, node: Node, message: m.AppendReply | m.SnapshotReply) -> Progress | None:
            return super()._note_answer(node, replace(message, sent_at_us=self._stamp_us()))

    return SyncObj


def _stale_read() -> type[Member]:
    class SyncObj(Member):
        """A leader answers reads without asking whether it still leads."""

        def _tick_rounds(self) -> None:
            fresh, self._reads.fresh = self._reads.fresh, []
            for read in fresh:
                self._reads.know(read, self.commit_index)
            super()._tick_rounds()

    return SyncObj


def _reads_refused() -> type[Member]:
    class SyncObj(Member):
        """A leader proves nothing to those who read: all are refused when their time is over."""

        def _tick_rounds(self) -> None:
            """Nothing is ever proved."""

    return SyncObj


def _late_reads_dropped(reads: Reads, now: float) -> None:
    """Forgets those whose time is over, in the place of refusing them."""
    while reads.next_deadline() <= now:
        heapq.heappop(reads._deadlines)[2].open = False


def _finish_twice(read: Read, answer: int | Exception) -> None:
    if read.open:
        read.done(answer)
    read.open = False
    read.done(answer)


def _former_question() -> type[Member]:
    class SyncObj(Member):
        """Numbers its reads from 1 in every process, and answers what a former process has asked."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._reads = _Memorious(self._options.reads_max, 1)

    return SyncObj


def _forgotten_transfer() -> type[Member]:
    class SyncObj(Member):
        """Whoever wished for another leader in vain is told nothing."""

        def expire(self) -> None:
            self._wishes = [wish for wish in self._wishes if wish.deadline > self._now()]
            super().expire()

    return SyncObj


def _lying_transfer() -> type[Member]:
    class SyncObj(Member):
        """Takes any leader for the one that was wished for."""

        def _is_fulfilled(self, wish: TransferWish) -> bool:
            return bool(self.leader)

    return SyncObj


class _Memorious(Reads):
    def forget(self, peer: str) -> None:
        pass


def _spinner() -> type[Member]:
    class SyncObj(Member):
        """A leader asks for the next step at once, for ever."""

        def next_step_at(self) -> float:
            due = super().next_step_at()
            return self._now() if self.__raftState == LEADER and not self.is_blocked else due

    return SyncObj


PLANTS: dict[str, Plant] = {
    "disloyal-voter": Plant(_disloyal_voter()),
    "drained-answers": Plant(_drained_answers()),
    "forgetful-voter": Plant(
        _forgetful_voter(),
        found_by="test_elections.py::test_a_hand_over_that_comes_to_nothing_leaves_voters_loyal_to_the_old_leader",
    ),
    "forgotten-vote": Plant(_forgotten_vote()),
    "former-question": Plant(
        _former_question(),
        found_by="test_reads.py::test_a_restarted_node_is_not_answered_what_its_former_process_asked",
    ),
    "no-check-quorum": Plant(_no_check_quorum()),
    "no-prevote": Plant(_no_prevote()),
    "read-answered-twice": Plant(patches=(("coterie.raft.reads:Read", "finish", _finish_twice),)),
    "reads-never-answered": Plant(patches=(("coterie.raft.reads:Reads", "expire", _late_reads_dropped),)),
    "reads-refused": Plant(_reads_refused()),
    "spinning-leader": Plant(_spinner()),
    "stale-read": Plant(_stale_read()),
    "transfer-forgotten": Plant(_forgotten_transfer()),
    "transfer-lie": Plant(_lying_transfer()),
    "vote-counted-twice": Plant(
        _vote_counted_twice(), found_by="test_elections.py::test_a_voter_counts_once"
    ),
}
