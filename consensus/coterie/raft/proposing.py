"""Entries on their way: proposed here or forwarded, stamped and appended by the leader, applied."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from coterie.core.ports import Committed, DiscerningMachine, ReticentMachine
from coterie.raft import messages as m
from coterie.raft import snapshots
from coterie.raft.entry import HEADER_BYTES, REGULAR, Logged, at_ms_of, body_of, id_of, require_known, seal
from coterie.raft.errors import EntryTooLarge, FatalRaftError, NewerVersion
from coterie.raft.jobs import nothing
from coterie.raft.messages import Refusal
from coterie.raft.proposals import Done, Proposal, Proposals, Stage
from coterie.raft.seam import LEADER, Node
from coterie.raft.snapshot import Meta

REMEMBERED_MAX = 65_536  # forwarded entry ids of this term
APPLY_S_MAX = 0.01  # without a turn for the event loop
RETRY_MIN_S, RETRY_SPREAD_S = 0.01, 0.04
WARN_EVERY_S = 10.0
logger = logging.getLogger("coterie.raft")


class SyncObj(snapshots.SyncObj):
    """Adds proposals. PySyncObj's own command queue stays empty."""

    _warn_again_at = -math.inf
    send_now: Callable[[], None] = staticmethod(nothing)
    """The driver's, to take frames within a step. What has been said so far may leave then as well as
    at the end: nothing that comes later in the step undoes what it rests on."""

    def __init__(self, *args: Any) -> None:
        # Not a dict: its first key is found by walking over the places of all that were deleted before it.
        self._remembered: OrderedDict[bytes, None] = OrderedDict()
        self._remembers_all = True
        self._applied_term = 0
        self._stamped = (0, 0.0)  # a moment of the log's time, and the same on the monotonic clock (s)
        self.applied_some = False
        super().__init__(*args)
        # Looked up once: to ask whether an object fits a protocol costs more than to decode an entry.
        self._discerning = self._machine if isinstance(self._machine, DiscerningMachine) else None
        self._reticent = self._machine if isinstance(self._machine, ReticentMachine) else None
        self._proposals = Proposals(
            self._rng.getrandbits(64), self._options.outstanding_max, self._options.outstanding_bytes_max
        )

    # --- proposing ---

    def propose(
        self, body: bytes, timeout_s: float, done: Done, *, vital: bool = False
    ) -> Callable[[], None]:
        """Queue an entry for the next step. `done` is called once, with Committed or NotCommitted; the
        function returned gives up waiting. Raises EntryTooLarge or TooManyProposals."""
        if len(body) > self._options.entry_bytes_max - HEADER_BYTES:
            raise EntryTooLarge(
                f"entry of {len(body)} bytes, the limit is {self._options.entry_bytes_max - HEADER_BYTES}; "
                "put large data beside the log and refer to it"
            )
        proposal = self._proposals.add(body, self._now() + timeout_s, done, vital=vital)
        self._asked = True
        return lambda: self._proposals.drop(proposal)

    def _checkCommandsToApply(self) -> None:
        """The library's place in a tick for handing on what was proposed."""
        if not self._proposals.has_to_send or self._now() < self._proposals.retry_at:
            return
        if self.__raftState == LEADER:
            self._append_proposals()
        elif self.__raftLeader is not None and self._is_up(self.__raftLeader):
            self._forward_proposals(self.__raftLeader)

    def _append_proposals(self) -> None:
        later: list[Proposal] = []
        for proposal in self._proposals.to_send():
            if proposal.stage is Stage.WAITING and self._refuses(proposal.vital):
                self._proposals.turn_away(proposal)
                continue
            if proposal.stage is not Stage.WAITING or not self._has_room():
                later.append(proposal)
                continue
            self._append_entry(proposal.entry_id, proposal.body)
            proposal.stage, proposal.term, proposal.via = Stage.SENT, self.__raftCurrentTerm, ""
        self._put_back(later)

    def _forward_proposals(self, leader: Node) -> None:
        later: list[Proposal] = []
        batches: dict[tuple[bool, bool], list[Proposal]] = {}
        for proposal in self._proposals.to_send():
            if proposal.stage is Stage.UNSURE and not self._is_same_try(proposal, leader):
                later.append(proposal)
            elif proposal.stage in (Stage.WAITING, Stage.UNSURE):
                key = (proposal.stage is Stage.UNSURE, proposal.vital)
                batches.setdefault(key, []).append(proposal)
        for (again, vital), batch in sorted(batches.items()):
            self._forward(leader, batch, again=again, vital=vital)
        self._put_back(later)

    def _is_same_try(self, proposal: Proposal, leader: Node) -> bool:
        return proposal.via == leader.id and proposal.term == self.__raftCurrentTerm

    def _put_back(self, proposals: list[Proposal]) -> None:
        for proposal in reversed(proposals):
            self._proposals.back(proposal)

    def _forward(self, leader: Node, batch: list[Proposal], *, again: bool, vital: bool) -> None:
        start, size = 0, 0
        for at, proposal in enumerate(batch):
            if at > start and size + len(proposal.body) > self._options.append_bytes_max:
                self._post_forward(leader, batch[start:at], again=again, vital=vital)
                start, size = at, 0
            size += len(proposal.body)
            proposal.stage, proposal.term = Stage.SENT, self.__raftCurrentTerm
            proposal.via = str(leader.id)
        if start < len(batch):
            self._post_forward(leader, batch[start:], again=again, vital=vital)

    def _post_forward(self, leader: Node, batch: list[Proposal], *, again: bool, vital: bool) -> None:
        ids, bodies = [p.entry_id for p in batch], [p.body for p in batch]
        self._post(leader, m.Forward(self.__raftCurrentTerm, again, ids, bodies, vital))

    # --- on the leader ---

    def __onBecomeLeader(self) -> None:
        self._remembered, self._remembers_all = OrderedDict(), True
        self._stamped = (self._log.last_at_ms, self._now())
        super().__onBecomeLeader()

    def _on_forward(self, node: Node, message: m.Forward) -> None:
        if self.__raftState != LEADER or message.term != self.__raftCurrentTerm:
            reason = Refusal.UNKNOWN if message.again else Refusal.NOT_LEADER
            self._post(node, m.ForwardReply(self.__raftCurrentTerm, message.term, message.ids, reason))
            return
        refused: dict[Refusal, list[bytes]] = {Refusal.BUSY: [], Refusal.UNKNOWN: [], Refusal.NO_SPACE: []}
        for entry_id, body in zip(message.ids, message.bodies, strict=True):
            if entry_id in self._remembered:
                continue
            if (message.again and not self._remembers_all) or not self._understands(node, body):
                refused[Refusal.UNKNOWN].append(entry_id)
            elif self._refuses(message.vital):
                refused[Refusal.NO_SPACE].append(entry_id)
            elif self._takes(body):
                self._remember_id(entry_id)
                self._append_entry(entry_id, body)
            else:
                refused[Refusal.BUSY].append(entry_id)
        for reason, ids in refused.items():
            if ids:
                self._post(node, m.ForwardReply(self.__raftCurrentTerm, message.term, ids, reason))

    def _understands(self, node: Node, body: bytes) -> bool:
        """What would stop every node of this version is not appended: only the newer node that asks goes
        without an answer, until the others are as new. Nor is what no version can read."""
        if self._discerning is None or self._discerning.understands(body):
            return True
        if self._now() >= self._warn_again_at:
            self._warn_again_at = self._now() + WARN_EVERY_S
            logger.error(
                "a peer asks for what cannot be applied here: it is of a newer version, or broken",
                extra={"peer": node.id},
            )
        return False

    def _takes(self, body: bytes) -> bool:
        return self._has_room() and len(body) <= self._options.entry_bytes_max - HEADER_BYTES

    def _remember_id(self, entry_id: bytes) -> None:
        self._remembered[entry_id] = None
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
            self._remembers_all = False

    def _has_room(self) -> bool:
        log, options = self._log, self._options
        commit = self.__raftCommitIndex
        return (
            log.last_index - commit < options.uncommitted_max
            and log.bytes_between(commit, log.last_index) < options.uncommitted_bytes_max
        )

    def _refuses(self, vital: bool) -> bool:
        """Whether this leader's disks are too full for an entry."""
        raise NotImplementedError

    def _append_entry(self, entry_id: bytes, body: bytes) -> None:
        at_ms = self._stamp()
        self._log.add(seal(at_ms, entry_id, body), self._log.last_index + 1, self.__raftCurrentTerm)

    def _stamp(self) -> int:
        """The wall clock; when that was set back, the log's time goes on from where it was."""
        last_ms, last_at = self._stamped
        now = self._now()
        at_ms, wall_ms = last_ms + int((now - last_at) * 1000), self._clock.wall_ms()
        if wall_ms > at_ms:
            at_ms = wall_ms
            self._stamped = (wall_ms, now)
        return at_ms

    # --- back on the follower ---

    def _on_forward_reply(self, node: Node, message: m.ForwardReply) -> None:
        if message.reason is Refusal.UNKNOWN:
            return  # then only the log, or the deadline, can tell
        if message.reason is Refusal.NO_SPACE:
            self._proposals.turned_away(message.ids, str(node.id), message.of_term)
            return
        if self._proposals.refused(message.ids, str(node.id), message.of_term):
            self._proposals.retry_at = self._now() + self._pause()

    def _pause(self) -> float:
        return RETRY_MIN_S + RETRY_SPREAD_S * self._rng.random()

    def __onNodeDisconnected(self, node: Node) -> None:
        super().__onNodeDisconnected(node)
        self._proposals.link_lost(str(node.id))

    # --- applying ---

    @property
    def has_more_to_apply(self) -> bool:
        return self.__raftCommitIndex > self.__raftLastApplied

    def __applyLogEntries(self) -> bool:
        self._count_majority()
        if self.__raftCommitIndex <= self.__raftLastApplied:
            return False
        if not self._proposals.has_to_send and self._announce():
            self.send_now()
        count = min(self.__raftCommitIndex - self.__raftLastApplied, self._options.apply_max)
        first = self.__raftLastApplied + 1 - self._log.base.index
        entries = self._log[first : first + count]
        if len(entries) != count:
            raise FatalRaftError(f"committed entries above {self.__raftLastApplied} are missing from the log")
        until = self._now() + APPLY_S_MAX
        for entry in entries:
            self._apply(entry)
            if self._now() > until:
                break  # the event loop gets a turn; a step for the rest follows at once
        return False  # what is new is sent by the member itself

    def _apply(self, entry: Logged) -> None:
        command, index, term = entry
        if command[0] == REGULAR:
            at_ms = at_ms_of(command)
            try:
                result = self._machine.apply(index, at_ms, body_of(command))
            except NewerVersion as error:
                raise FatalRaftError(f"entry {index}: {error}") from error
            except Exception as error:
                raise FatalRaftError(
                    f"applying entry {index} raised {error!r}: apply must be total"
                ) from error
            entry_id = id_of(command)
            if self._proposals.awaits(entry_id):
                self._proposals.applied(entry_id, Committed(index, term, at_ms, result))
        else:
            require_known(index, command)
        self.__raftLastApplied = index
        self._bytes_since_snapshot += len(command)
        self.applied_some = True
        if term > self._applied_term:
            self._applied_term = term
            self._proposals.term_applied(term)

    def _restored(self, meta: Meta) -> None:
        super()._restored(meta)
        self._applied_term = meta.term
        self.applied_some = True
        self._proposals.lose_sight()
