"""One member of the Raft group as a synchronous object: things happen to it, then it takes a step.

A step turns what has happened (messages, proposals, finished disk jobs, time) into messages and disk jobs.
What a step wants to send is handed out only when everything it rests on is durable (writing.py). The engine
drives a member from the event loop, the simulator from virtual time; neither adds anything to what is decided
here."""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from coterie.core.ports import Machine, NotCommitted
from coterie.raft import messages as m
from coterie.raft import writing
from coterie.raft.disk import Disk
from coterie.raft.errors import BadFrame, DamagedFile, LinkRefused, Why
from coterie.raft.journal import MARK_NAME, Journal
from coterie.raft.journal import NAME as JOURNAL_NAME
from coterie.raft.journal_format import Identity
from coterie.raft.options import RaftOptions
from coterie.raft.past import Past, past_of
from coterie.raft.seam import LEADER, Clock, Node, use_clock
from coterie.raft.snapshot import NAME as SNAPSHOT_NAME
from coterie.raft.snapshot import SnapshotStore
from coterie.raft.wire import Wire

logger = logging.getLogger("coterie.raft")
TIMER_SLACK_S = 0.0005  # the library's timers fire when they have passed, not when they are reached
TERM_JUMP_MAX = 1 << 32  # elections that a node can have missed; more would use up the terms there are


class SyncObj(writing.SyncObj):
    """See the module. Known outside as Member."""

    def __init__(
        self, options: RaftOptions, machine: Machine, disk: Disk, clock: Clock, rng: random.Random
    ) -> None:
        """Reads the node's files, without starting anything. Raises WrongDataDir or DamagedFile."""
        self._inbox: deque[tuple[Callable[[Node, Any], None], Node, Any]] = deque()
        self._up: set[str] = set()
        self._wire = Wire(options.cluster_id, options.frame_bytes_max)
        self._seen: tuple[Node | None, int] = (None, 0)  # the leader and the term
        for name in (SNAPSHOT_NAME, MARK_NAME):
            if disk.exists(name) and not disk.exists(JOURNAL_NAME):
                # Its term and vote are gone with it: this node could vote twice.
                raise DamagedFile(disk.path_of(JOURNAL_NAME), 0, f"it is missing, and {name} is there")
        journal = Journal(disk, Identity(options.cluster_id, options.node_id), rng)
        store = SnapshotStore(disk, options.cluster_id)
        self._handlers: dict[type, Callable[[Node, Any], None]] = {
            m.Greeting: self._on_greeting,
            m.PreVote: self._on_pre_vote,
            m.PreVoteReply: self._on_pre_vote_reply,
            m.VoteRequest: self._on_vote_request,
            m.VoteReply: self._on_vote_reply,
            m.Append: self._on_append,
            m.AppendReply: self._on_append_reply,
            m.SnapshotChunk: self._on_snapshot_chunk,
            m.SnapshotReply: self._on_snapshot_reply,
            m.Forward: self._on_forward,
            m.ForwardReply: self._on_forward_reply,
            m.ReadRequest: self._on_read_request,
            m.ReadReply: self._on_read_reply,
            m.TimeoutNow: self._on_timeout_now,
            m.TransferRequest: self._on_transfer_request,
            m.ChangeRequest: self._on_change_request,
            m.ChangeReply: self._on_change_reply,
        }
        super().__init__(machine, disk, store, options, journal, clock, rng)
        self._load_snapshot()

    # --- things that happen ---

    def link_up(self, peer: str, disk_id: str = "") -> None:
        """A new link; whatever was on the way over an older one is lost. Raises LinkRefused."""
        self.check_link(peer, disk_id)
        node = self._node(peer)
        if peer in self._up:
            self.link_down(peer)
        self._up.add(peer)
        self._note_disk(peer, disk_id)
        self._inbox.append((self._greet, node, None))

    def link_down(self, peer: str) -> None:
        if peer in self._up:
            node = self._nodes[peer]
            self._up.discard(peer)
            self._outbox.drop(peer)
            # Nor is what came over it looked at: an answer would leave over the next link, and be taken for
            # one to what was asked there.
            kept = [item for item in self._inbox if item[1] is not node or item[2] is None]
            self._inbox.clear()
            self._inbox.extend([*kept, (self._part, node, None)])

    def _greet(self, node: Node, _: None) -> None:
        self._say_what_it_holds(node)
        self.__onNodeConnected(node)

    def _part(self, node: Node, _: None) -> None:
        self.__onNodeDisconnected(node)

    def receive(self, peer: str, frame: bytes) -> None:
        """Queue a frame's messages for the next step. Raises BadFrame, and then nothing was taken."""
        if peer not in self._nodes:
            raise LinkRefused(Why.STRANGER, f"{peer!r} has no link to this node")
        node = self._nodes[peer]
        messages, limit = self._wire.decode(frame), self.__raftCurrentTerm + TERM_JUMP_MAX
        for message in messages:
            if _highest_term(message) > limit:
                raise BadFrame(
                    f"term {_highest_term(message)}, and {self.term} is the highest known here: "
                    "no election was in between"
                )
        if peer in self._up:
            for message in messages:
                self._inbox.append((self._handlers[type(message)], node, message))

    # --- the step ---

    def step(self) -> None:
        """Take in everything that has happened. Raises FatalRaftError: then never step again."""
        use_clock(self._clock)
        self._asked = False
        was_leader = self.__raftState == LEADER
        if self._finished:
            self._finish_jobs()
        if self._needs_rest:
            self._replace_files()
        if not self._blocked and (self._is_settled_on_disk or not self._needs_rest):
            self._take_in()
        else:
            self._check_quorum()  # steps without a tick may follow each other for long
        if was_leader and self.__raftState != LEADER:
            self._restart_election_timer()
            self._hand_over = None
        self._write_log()
        self._note_changes()

    def _replace_files(self) -> None:
        if self._is_settled_on_disk and not self._blocked:
            self._maybe_cut()
            self._maybe_replace_log()
        if self._is_settled_on_disk and not self._blocked:
            self._tick_install()

    def _take_in(self) -> None:
        inbox = self._inbox
        while inbox:
            handle, node, message = inbox.popleft()
            handle(node, message)
        self.expire()
        self._tick_disk()
        self._tick_election()
        super()._onTick(0)
        self._tick_reads()
        self._tick_transfers()
        self._tick_changes()
        self._replicate()
        self._maybe_make_snapshot()

    def _note_changes(self) -> None:
        leader, term = self.__raftLeader, self.__raftCurrentTerm
        if (leader, term) != self._seen:
            if leader != self._seen[0] or self.__raftState == LEADER:
                logger.info("leader changed", extra={"leader": self.leader, "term": term})
            self._seen = (leader, term)
            self._proposals.retry_at = self._reads.retry_at = 0.0
            self.changed = True
        if self.applied_some:
            self.applied_some = False
            self.changed |= self._reticent is None or self._reticent.take_news()

    # --- what comes out ---

    def take_frames(self) -> Iterable[tuple[str, bytes]]:
        """Frames to send, in order: what does not wait for a write, or for the end of a blocking job. The
        call takes them all; each is encoded when it is asked for, so that the first has left by then."""
        return () if self._outbox.is_empty else self._encoded(self._take_messages())

    def _encoded(self, leaving: dict[str, list[m.Message]]) -> Iterator[tuple[str, bytes]]:
        for peer, messages in leaving.items():
            if len(messages) == 1:
                yield peer, self._wire.encode(messages)
            else:
                for frame in self._frames(messages):
                    yield peer, frame

    def _frames(self, messages: list[m.Message]) -> list[bytes]:
        frames, start, size = [], 0, 0
        for at, message in enumerate(messages):
            if at > start and size + _size_of(message) > self._options.append_bytes_max:
                frames.append(self._wire.encode(messages[start:at]))
                start, size = at, 0
            size += _size_of(message)
        frames.append(self._wire.encode(messages[start:]))
        return frames

    def next_step_at(self) -> float:
        """When the next step is due, if nothing happens before; while blocked, the end of that or the next
        `expire`. Monotonic clock, seconds."""
        if self.is_blocked:
            return min(self._unblocked_at(), self._next_deadline()) + TIMER_SLACK_S
        if self._is_busy():
            return -math.inf
        due = self.__newAppendEntriesTime if self.__raftState == LEADER else self.__raftElectionDeadline
        for moment in (self._news_at, self._look_at, self._next_deadline()):
            if moment < due:
                due = moment
        proposals = self._proposals
        if proposals.has_to_send and proposals.retry_at > self._now():
            due = min(due, proposals.retry_at)
        if self._has_plans():
            due = min(due, self._next_due(self._now()))
        return due + TIMER_SLACK_S

    def _is_busy(self) -> bool:
        """There is something to do that waits for nothing."""
        if self._asked or self._inbox or self._finished or self._replaces_now:
            return True
        if self.__raftCommitIndex > self.__raftLastApplied or self._installs_now:
            return True
        return self._log.is_dirty and not self._is_writing

    # --- what the engine reports ---

    @property
    def has_quorum(self) -> bool:
        return self._leader_is_alive()

    def quorum_contact_at(self) -> float:
        """See Engine.quorum_contact_at."""
        return self._contact_at()

    def fail_all(self, reason: str) -> None:
        """Nobody will be answered any more."""
        self._proposals.fail_all(reason)
        self._reads.fail_all(reason)
        for transfer in self._wishes:
            transfer.done(NotCommitted(reason))
        for change in self._change_wishes:
            change.done(NotCommitted(reason))
        self._wishes.clear()
        self._change_wishes.clear()

    def past(self, index: int) -> Past:
        """See `past.past_of`."""
        return past_of(self._log, self._store, self.applied_index, index)

    def close(self) -> None:
        """Close the files. No job may be under way."""
        self._close_progress()
        self._log._destroy()

    def _has_link(self, node: Node) -> bool:
        return node.id in self._up


Member = SyncObj


def _highest_term(message: m.Message) -> int:
    return max(message.term, message.voter_term) if isinstance(message, m.PreVoteReply) else message.term


def _size_of(message: m.Message) -> int:
    match message:
        case m.Append(entries=entries):
            return 64 + sum(map(len, entries))
        case m.Forward(bodies=bodies):
            return 64 + sum(map(len, bodies))
        case m.SnapshotChunk(data=data):
            return 64 + len(data)
    return 64
