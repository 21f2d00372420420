"""Read barriers and the hand-over of leadership, in the life of a member."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coterie.raft import messages as m
from coterie.raft import proposing
from coterie.raft.errors import TransferFailed
from coterie.raft.reads import Done, Reads
from coterie.raft.seam import LEADER, Node


@dataclass(slots=True)
class HandOver:
    """The leader waits for the target to have the whole log, then tells it to start an election."""

    target: Node
    until: float
    told: bool = False


@dataclass(slots=True, eq=False)
class TransferWish:
    """Somebody on this node wants another leader."""

    target: str  # empty: any other
    old_leader: str
    deadline: float
    done: Callable[[str | Exception], None]
    asked: str = ""  # the leader that knows of the wish
    retry_at: float = 0.0


class SyncObj(proposing.SyncObj):
    """Adds reads and transfers."""

    def __init__(self, *args: Any) -> None:
        self._hand_over: HandOver | None = None
        self._wishes: list[TransferWish] = []
        super().__init__(*args)
        self._reads = Reads(self._options.reads_max, self._rng.getrandbits(48))

    # --- reads ---

    def read(self, timeout_s: float, done: Done) -> Callable[[], None]:
        """`done` is called once, with the applied index or NoQuorum. The function returned gives up."""
        read = self._reads.add(self._now() + timeout_s, done)
        self._asked = True

        def give_up() -> None:
            read.open = False

        return give_up

    def _tick_reads(self) -> None:
        reads = self._reads
        if self.__raftState == LEADER:
            if reads.asked:
                reads.start_over()
            self._tick_rounds()
        else:
            self._refuse_questions()
            if reads.asked and reads.asked_leader != self.leader:
                reads.start_over()
            if reads.fresh and self.leader and self._now() >= reads.retry_at:
                self._ask_leader()
        reads.applied(self.__raftLastApplied)

    def _tick_rounds(self) -> None:
        reads, commit = self._reads, self.__raftCommitIndex
        # Before an entry of this term is committed, the commit index may lag behind what others know.
        if (reads.fresh or reads.questions) and self._log.term_at(commit) == self.__raftCurrentTerm:
            after = self._sequence
            reads.start_round(after, commit)
            self._replicate()
            self._kick(after)
            if self._majority == 1:
                self._next_sequence()
        for proved in reads.proved(self._quorum_sequence()) if reads.rounds else ():
            for read in proved.reads:
                reads.know(read, proved.index)
            for peer, number in proved.asked_by:
                self._post(self._nodes[peer], m.ReadReply(self.__raftCurrentTerm, number, True, proved.index))

    def _ask_leader(self) -> None:
        node = self._nodes[self.leader]
        if self._is_up(node):
            self._post(node, m.ReadRequest(self.__raftCurrentTerm, self._reads.ask(self.leader)))

    def _refuse_questions(self) -> None:
        if not (self._reads.rounds or self._reads.questions):
            return
        for peer, number in self._reads.drop_rounds():
            self._post(self._nodes[peer], m.ReadReply(self.__raftCurrentTerm, number, False, 0))

    def _on_read_request(self, node: Node, message: m.ReadRequest) -> None:
        self._reads.questions.append((str(node.id), message.id))

    def _on_read_reply(self, node: Node, message: m.ReadReply) -> None:
        if message.confirmed:
            self._reads.answered(message.id, message.index)
        elif message.id in self._reads.asked:
            self._reads.fresh.extend(self._reads.asked.pop(message.id))
            self._reads.retry_at = self._now() + self._pause()

    def __onNodeDisconnected(self, node: Node) -> None:
        super().__onNodeDisconnected(node)
        self._reads.forget(str(node.id))
        if self._reads.asked_leader == node.id:
            self._reads.start_over()

    # --- hand-over of leadership ---

    def transfer(
        self, target: str, timeout_s: float, done: Callable[[str | Exception], None]
    ) -> Callable[[], None]:
        """`done` is called once, with the new leader or TransferFailed. The function returned gives up."""
        wish = TransferWish(target, self.leader, self._now() + timeout_s, done)
        voters = self._configuration.voters
        if target and target not in voters:
            done(TransferFailed(f"{target!r} is no voter; the voters are {', '.join(voters)}"))
        elif len(voters) == 1:
            done(TransferFailed("this cluster has one voter: there is nobody to hand over to"))
        else:
            self._wishes.append(wish)
            self._asked = True

        def give_up() -> None:
            if wish in self._wishes:
                self._wishes.remove(wish)

        return give_up

    def _tick_transfers(self) -> None:
        if not self._wishes and self._hand_over is None:
            return
        now = self._now()
        for wish in list(self._wishes):
            if self._is_fulfilled(wish):
                self._wishes.remove(wish)
                wish.done(self.leader)
            elif self.leader and (self.leader != wish.asked or now >= wish.retry_at):
                wish.asked, wish.retry_at = self.leader, now + 2 * self._options.election_timeout_s
                self._ask_transfer(wish)
        self._tick_hand_over(now)

    def expire(self) -> None:
        """Answer those whose time is over. Also while the disk works and no step may be taken."""
        now = self._now()
        if self._proposals.may_be_late(now):
            self._proposals.expire(now, quorum=self._leader_is_alive())
        if self._reads.may_be_late(now):
            self._reads.expire(now)
        for wish in list(self._wishes) if self._wishes else ():
            if wish.deadline <= now:
                self._wishes.remove(wish)
                wish.done(TransferFailed(f"leadership did not move in time from {self.leader or 'nobody'}"))

    def _next_deadline(self) -> float:
        """When `expire` has something to do; infinite: never."""
        proposal, due = self._proposals.next_deadline(), self._reads.next_deadline()
        if proposal < due:
            due = proposal
        for wish in self._wishes:
            due = min(due, wish.deadline)
        return due

    def _is_fulfilled(self, wish: TransferWish) -> bool:
        leader = self.leader
        return bool(leader) and (leader == wish.target if wish.target else leader != wish.old_leader)

    def _ask_transfer(self, wish: TransferWish) -> None:
        if self.__raftState == LEADER:
            self._begin_hand_over(wish.target)
        elif self.__raftLeader is not None and self._is_up(self.__raftLeader):
            self._post(self.__raftLeader, m.TransferRequest(self.__raftCurrentTerm, wish.target))

    def _on_transfer_request(self, node: Node, message: m.TransferRequest) -> None:
        if self.__raftState == LEADER:
            self._begin_hand_over(message.target)

    def _begin_hand_over(self, target: str) -> None:
        since = self._now() - self._options.election_timeout_s
        candidates = [
            (self._progress[node].match_index, str(node.id), node)
            for node in self._others
            if self._counts(node) and self._is_up(node) and (not target or node.id == target)
            if self._progress[node].contact_at > since
        ]
        if candidates and self._hand_over is None:
            self._hand_over = HandOver(max(candidates)[2], self._now() + self._options.election_timeout_s)

    def _tick_hand_over(self, now: float) -> None:
        hand_over = self._hand_over
        if hand_over is None:
            return
        if self.__raftState != LEADER or now >= hand_over.until:
            self._hand_over = None
            return
        progress = self._progress[hand_over.target]  # no change of the members begins meanwhile
        if not hand_over.told and progress.match_index == self._log.last_index:
            hand_over.told = True
            self._post(hand_over.target, m.TimeoutNow(self.__raftCurrentTerm))

    def _has_room(self) -> bool:
        """While leadership is handed over nothing new is appended, so that the target can catch up."""
        return self._hand_over is None and super()._has_room()

    def _has_plans(self) -> bool:
        """Only then `_next_due` is worth a question."""
        return bool(self._wishes or self._reads.fresh) or self._hand_over is not None

    def _next_due(self, now: float) -> float:
        """The moment at which a step has something to do here; infinite: there is none."""
        due = math.inf if self._hand_over is None else self._hand_over.until
        for wish in self._wishes:
            if wish.retry_at > now:
                due = min(due, wish.retry_at)
        if self._reads.fresh and self._reads.retry_at > now:
            due = min(due, self._reads.retry_at)
        return due
