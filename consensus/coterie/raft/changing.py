"""Changes of the members in the life of a member: asked for on any node, made by the leader, one at a time.

Raft thesis, chapter 4, with the later correction that a leader changes nothing before it has committed an
entry of its own term: https://groups.google.com/g/raft-dev/c/t4xj6dJTP6E"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from coterie.core import ports
from coterie.core.ports import ChangeRefused, Member, MembershipChange, NoQuorum, NotCommitted, Role
from coterie.raft import configuration as form
from coterie.raft import messages as m
from coterie.raft import storing
from coterie.raft.configuration import Configuration, Facts
from coterie.raft.entry import seal_configuration
from coterie.raft.errors import RemovedFromCluster, Why
from coterie.raft.messages import ChangeKind, ChangeStatus
from coterie.raft.seam import LEADER, Node

logger = logging.getLogger("coterie.raft")
Done = Callable[[tuple[Member, ...] | Exception], None]


@dataclass(slots=True, eq=False)
class ChangeWish:
    """Somebody on this node wants the members changed."""

    id: int
    change: MembershipChange
    deadline: float
    done: Done
    asked: str = ""  # the leader that knows of the wish
    retry_at: float = 0.0
    is_begun: bool = False  # a leader may have appended it


@dataclass(frozen=True, slots=True)
class Waiter:
    """A peer that is told when the change it asked for is committed."""

    node: Node
    id: int
    index: int
    configuration: bytes


class SyncObj(storing.SyncObj):
    """Adds changes, the binding of disks, promotions, and the way out of the group."""

    _is_own_idea = False  # the leader's latest change was a binding or a promotion that was due
    _leads_until = math.inf  # as one that is no voter any more
    _gone_at = math.inf  # when this node found itself removed

    def __init__(self, *args: Any) -> None:
        self._change_wishes: list[ChangeWish] = []
        self._waiters: list[Waiter] = []
        super().__init__(*args)
        self._wish_ids = count(self._rng.getrandbits(48))  # no answer to a former process fits one of them

    # --- wishes of this node ---

    def change(self, change: MembershipChange, timeout_s: float, done: Done) -> Callable[[], None]:
        """`done` is called once, with the members, ChangeRefused or NotCommitted. The function returned gives
        up waiting."""
        if isinstance(change, ports.RemoveMember) and not change.disk_id:
            change = replace(change, disk_id=self._configuration.disk_of(change.node_id))
        wish = ChangeWish(next(self._wish_ids), change, self._now() + timeout_s, done)
        self._change_wishes.append(wish)
        self._asked = True

        def give_up() -> None:
            if wish in self._change_wishes:
                self._change_wishes.remove(wish)

        return give_up

    def _end(self, wish: ChangeWish, answer: tuple[Member, ...] | Exception) -> None:
        self._change_wishes.remove(wish)
        wish.done(answer)

    def _tick_changes(self) -> None:
        if self.__raftState == LEADER:
            for wish in list(self._change_wishes) if self._change_wishes else ():
                self._make(wish)
            if self._waiters:
                self._answer_waiters()
            if not self._configuration.is_complete:
                self._bind_and_promote()
            self._leave_the_lead()
        else:
            self._waiters.clear()
            if self._change_wishes:
                self._ask_changes()
        self._notice_removal()

    def _make(self, wish: ChangeWish) -> None:
        try:
            index = self._begin_change(wish.change)
        except ChangeRefused as refusal:
            self._end(wish, refusal)
            return
        wish.is_begun = wish.is_begun or index > 0
        if 0 < index <= self.__raftCommitIndex:
            self._end(wish, self._configuration.members)

    def _ask_changes(self) -> None:
        leader, now = self.__raftLeader, self._now()
        if leader is None or not self._is_up(leader):
            return
        for wish in self._change_wishes:
            if wish.asked != leader.id or now >= wish.retry_at:
                wish.asked, wish.retry_at = str(leader.id), now + 2 * self._options.election_timeout_s
                wish.is_begun = True
                self._post(leader, _request(self.__raftCurrentTerm, wish))

    def _on_change_reply(self, node: Node, message: m.ChangeReply) -> None:
        wish = next((wish for wish in self._change_wishes if wish.id == message.id), None)
        if wish is None or wish.asked != node.id:
            return
        if message.status is ChangeStatus.DONE:
            self._end(wish, form.decode(message.configuration).members)
        elif message.status is ChangeStatus.REFUSED:
            self._end(wish, ChangeRefused(message.reason))
        else:
            wish.retry_at = self._now() + self._pause()

    def expire(self) -> None:
        super().expire()
        for wish in list(self._change_wishes) if self._change_wishes else ():
            if wish.deadline <= self._now():
                kind = NotCommitted if wish.is_begun else NoQuorum
                self._end(wish, kind(f"the cluster did not change its members in time: {wish.change}"))

    def _next_deadline(self) -> float:
        due = super()._next_deadline()
        for wish in self._change_wishes:
            due = min(due, wish.deadline)
        return due

    def _has_plans(self) -> bool:
        return bool(self._change_wishes) or self._gone_at < math.inf or super()._has_plans()

    def _next_due(self, now: float) -> float:
        due = min(super()._next_due(now), self._gone_at + self._options.election_timeout_s)
        for wish in self._change_wishes:
            if wish.retry_at > now:
                due = min(due, wish.retry_at)
        return due

    def __onNodeDisconnected(self, node: Node) -> None:
        super().__onNodeDisconnected(node)
        self._waiters = [waiter for waiter in self._waiters if waiter.node is not node]
        for wish in self._change_wishes:
            if wish.asked == node.id:
                wish.asked = ""  # it will not answer; the next link brings the wish again

    # --- on the leader ---

    def _on_change_request(self, node: Node, message: m.ChangeRequest) -> None:
        if self.__raftState != LEADER:
            self._reply(node, message.id, ChangeStatus.LATER)
            return
        try:
            index = self._begin_change(_change_of(message))
        except ChangeRefused as refusal:
            self._reply(node, message.id, ChangeStatus.REFUSED, reason=str(refusal))
            return
        if not index:
            self._reply(node, message.id, ChangeStatus.LATER)
            return
        self._waiters.append(Waiter(node, message.id, index, form.encode(self._configuration)))

    def _reply(
        self, node: Node, number: int, status: ChangeStatus, *, reason: str = "", raw: bytes = b""
    ) -> None:
        self._post(node, m.ChangeReply(self.__raftCurrentTerm, number, status, reason, raw))

    def _answer_waiters(self) -> None:
        for waiter in list(self._waiters):
            if waiter.index <= self.__raftCommitIndex:
                self._waiters.remove(waiter)
                self._reply(waiter.node, waiter.id, ChangeStatus.DONE, raw=waiter.configuration)

    def _begin_change(self, change: MembershipChange) -> int:
        """The index whose commit makes the change true; 0: not now, ask again. Raises ChangeRefused."""
        now, under_way = self._configuration, self._configuration_index > self.__raftCommitIndex
        try:
            wanted = form.changed(now, change, self._facts())
        except ChangeRefused:
            if self._is_settled():
                raise
            return 0  # an older leader's change may yet turn out to be committed
        if wanted == now:
            return self._configuration_index
        if not self._is_settled() or not self._has_room() or (under_way and self._is_own_idea):
            return 0
        if under_way:
            raise ChangeRefused("another change of the members is under way: try again when it is done")
        self._append_configuration(wanted)
        return self._configuration_index

    def _is_settled(self) -> bool:
        """An entry of this term is committed: no older leader's change can come to life any more."""
        commit = self.__raftCommitIndex
        return self._log.holds(commit) and self._log.term_at(commit) == self.__raftCurrentTerm

    def _facts(self) -> Facts:
        since = self._now() - self._options.election_timeout_s
        live = {
            str(node.id): progress
            for node, progress in self._progress.items()
            if self._counts(node) and progress.contact_at > since
        }
        caught_up = frozenset(
            peer for peer, progress in live.items() if progress.catching_up.done and not progress.probing
        )
        return Facts(frozenset({self._options.node_id, *live}), caught_up, self._told_disks)

    def _append_configuration(self, wanted: Configuration, *, own_idea: bool = False) -> None:
        self._is_own_idea = own_idea
        index = self._log.last_index + 1
        self._log.add(seal_configuration(form.encode(wanted)), index, self.__raftCurrentTerm)
        self._update_members()
        members = [f"{member.node_id}:{member.role}" for member in wanted.members]
        logger.info("members changed", extra={"index": index, "members": members})

    # --- what the leader does by itself ---

    def __onBecomeLeader(self) -> None:
        if not self._configuration.is_bound:
            # The very first entry of the group: see membership.py.
            disks = self._told_disks | {self._options.node_id: self.disk_id}
            self._append_configuration(self._configuration.bind(disks), own_idea=True)
        super().__onBecomeLeader()

    def _bind_and_promote(self) -> None:
        if (
            self._configuration_index > self.__raftCommitIndex
            or not self._is_settled()
            or not self._has_room()
        ):
            return
        now = self._configuration
        wanted = now.bind({str(n.id): self._told_disks[str(n.id)] for n in self._peers if self._is_up(n)})
        if wanted == now:
            wanted = self._promoted(now)
        if wanted != now:
            self._append_configuration(wanted, own_idea=True)

    def _promoted(self, now: Configuration) -> Configuration:
        if now.promote:
            facts = self._facts()
            ready = sorted(now.promote & facts.caught_up)
            with contextlib.suppress(ChangeRefused):  # voters fell silent since the quorum was looked at
                return form.changed(now, ports.PromoteMember(ready[0]), facts) if ready else now
        return now

    def _leave_the_lead(self) -> None:
        """A leader that is no voter any more leads until that is committed, then lets another one."""
        if self._is_voter or self._configuration_index > self.__raftCommitIndex:
            self._leads_until = math.inf
            return
        now = self._now()
        if self._leads_until == math.inf:
            self._leads_until = now + self._options.election_timeout_s
        if self._hand_over is None and now < self._leads_until:
            self._begin_hand_over("")
        if self._hand_over is None or now >= self._leads_until:
            # One try: its target may be unable to lead, and until somebody does nothing is appended.
            self._hand_over, self._leads_until = None, math.inf
            self._step_down()

    # --- the way out ---

    def _notice_removal(self) -> None:
        """Raises RemovedFromCluster, a while after the log has said so: what waits here can be answered."""
        me = self._options.node_id
        configuration = self._committed_configuration()
        is_removed = configuration.removed and configuration.has_removed(me, self.disk_id)
        if self.__raftState == LEADER or not is_removed:
            self._gone_at = math.inf
            return
        if self._gone_at == math.inf:
            self._gone_at = self._now()
            logger.warning("this node was removed from the cluster", extra={"disk_id": self.disk_id})
        if self._now() >= self._gone_at + self._options.election_timeout_s:
            raise self._removed("the log says")

    def link_refused(self, peer: str, why: Why) -> None:
        """Raises RemovedFromCluster when a member says that this node is none any more. A node that has not
        joined yet knows no members, and believes everybody: its disk was removed before it heard of them."""
        logger.warning("a peer refuses this node", extra={"peer": peer, "why": str(why)})
        self._note_refusal(peer)
        known = self._configuration
        if why is Why.REMOVED and (not known.members or known.member(peer) is not None):
            raise self._removed(f"{peer} says")

    def _removed(self, who: str) -> RemovedFromCluster:
        return RemovedFromCluster(
            f"{who} that node {self._options.node_id!r} with disk {self.disk_id} was removed from the cluster"
            ". Remedy: to bring the node back, add it again with an empty data directory"
        )


def _request(term: int, wish: ChangeWish) -> m.ChangeRequest:
    match wish.change:
        case ports.AddMember(node_id, address, role):
            return m.ChangeRequest(term, wish.id, ChangeKind.ADD, node_id, address, role is Role.VOTER)
        case ports.PromoteMember(node_id):
            return m.ChangeRequest(term, wish.id, ChangeKind.PROMOTE, node_id)
        case ports.DemoteMember(node_id):
            return m.ChangeRequest(term, wish.id, ChangeKind.DEMOTE, node_id)
        case ports.RemoveMember(node_id, disk_id):
            return m.ChangeRequest(term, wish.id, ChangeKind.REMOVE, node_id, disk_id=disk_id)
        case ports.MoveMember(node_id, address):
            return m.ChangeRequest(term, wish.id, ChangeKind.MOVE, node_id, address)


def _change_of(message: m.ChangeRequest) -> MembershipChange:
    match message.kind:
        case ChangeKind.ADD:
            role = Role.VOTER if message.voter else Role.LEARNER
            return ports.AddMember(message.node_id, message.address, role)
        case ChangeKind.PROMOTE:
            return ports.PromoteMember(message.node_id)
        case ChangeKind.DEMOTE:
            return ports.DemoteMember(message.node_id)
        case ChangeKind.REMOVE:
            return ports.RemoveMember(message.node_id, message.disk_id)
        case ChangeKind.MOVE:
            return ports.MoveMember(message.node_id, message.address)
