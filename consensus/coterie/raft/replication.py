"""Replication: what the leader sends, what a follower does with it, and what an answer proves.

Replaces PySyncObj's AppendEntries: every answer carries a term; matching entries are never cut; a follower's
commit index never passes what it was shown to share with the leader; entries stream only after a match."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from coterie.raft import elections
from coterie.raft import messages as m
from coterie.raft.errors import FatalRaftError
from coterie.raft.progress import CatchUp, Progress
from coterie.raft.room import Room
from coterie.raft.seam import LEADER, Node

SMALL_APPEND_ENTRIES = 64  # fewer than these wait while an append is unanswered
UNANSWERED_MAX = 256  # a follower that owes this many answers gets no more messages
CONTACT_AT, ACKED_SEQUENCE, MATCH_INDEX = map(attrgetter, ("contact_at", "acked_sequence", "match_index"))
NEWS_WAIT_S = 0.003  # that a new commit index waits for entries to travel with


class SyncObj(elections.SyncObj):
    """Leader and follower sides of the log."""

    _led_since = math.inf
    _commit_before = 0
    _news_at = math.inf  # when followers are told of a commit that no entries carry

    def __init__(self, *args: Any) -> None:
        self._progress: dict[Node, Progress] = {}  # of this leadership
        self._sequence = 0
        super().__init__(*args)

    # --- leader ---

    def __onBecomeLeader(self) -> None:
        self._close_progress()
        # A granted vote is no contact: the voter may vote again, in the next term, until it hears a leader.
        self._led_since = self._now()
        self._progress = {node: self._new_progress() for node in self._peers}
        super().__onBecomeLeader()  # appends the no-op of the term, then sends
        self._tell_library()

    def _new_progress(self) -> Progress:
        return Progress(self._log.last_index + 1, catching_up=CatchUp(self._log.last_index, self._now()))

    def _members_changed(self) -> None:
        super()._members_changed()
        if self.__raftState == LEADER:
            for node in self._peers:
                self._progress.setdefault(node, self._new_progress())

    def _forget_leavers(self) -> None:
        """Who is no member any more is still sent its removal, as long as its link stands."""
        for node in [node for node in self._progress if node not in self._peers]:
            progress = self._progress[node]
            if not self._is_up(node) or progress.told_commit >= self._configuration_index:
                progress.close_snapshot()
                del self._progress[node]

    def __setState(self, newState: int) -> None:
        super().__setState(newState)
        if newState != LEADER:
            self._close_progress()  # nothing may be sent in the name of a leadership that is over

    def _close_progress(self) -> None:
        for progress in self._progress.values():
            progress.close_snapshot()
        self._progress = {}

    def __onNodeConnected(self, node: Node) -> None:
        super().__onNodeConnected(node)
        self._restart_progress(node)

    def __onNodeDisconnected(self, node: Node) -> None:
        super().__onNodeDisconnected(node)
        self._restart_progress(node)

    def _restart_progress(self, node: Node) -> None:
        if node in self._progress:
            self._progress[node].restart(self._log.last_index + 1)

    def __sendAppendEntries(self) -> None:
        """The library calls this when a heartbeat is due and at the start of a leadership."""
        self.__newAppendEntriesTime = self._now() + self._options.heartbeat_s
        for node, progress in self._progress.items():
            before = progress.sent_sequence
            self._send_entries(node, progress)
            if progress.sent_sequence == before:
                self._send_heartbeat(node, progress)

    def _replicate(self) -> None:
        """Send what is new: entries, and the commit index when nothing else carries it soon."""
        self._news_at = math.inf
        last, commit = self._log.last_index, self.__raftCommitIndex
        for node, progress in self._progress.items():
            if progress.next_index <= last or progress.probing:
                self._send_entries(node, progress)
            match = progress.match_index
            known = match if match < commit else commit
            if known > progress.told_commit and self._is_up(node) and self._log.holds(known):
                self._tell_commit(node, progress, known)
        if len(self._progress) > len(self._peers):
            self._forget_leavers()

    def _announce(self) -> bool:
        """Tell of a commit before it is applied here, whoever has all entries: the one who proposed the last
        may be among them and waits for this alone. The others hear of it with what they are sent next."""
        told = False
        for node, progress in self._progress.items():
            known = min(self.__raftCommitIndex, progress.match_index)
            idle = not (progress.window or progress.probing) and progress.next_index > self._log.last_index
            if idle and known > progress.told_commit and self._is_up(node) and self._log.holds(known):
                self._append(node, progress, known, 0, wants_reply=False)
                told = True
        return told

    def _tell_commit(self, node: Node, progress: Progress, known: int) -> None:
        """When the follower answers soon, the next entries bring it; behind a slow disk it is sent alone."""
        due = progress.entries_sent_at + NEWS_WAIT_S if progress.window else -math.inf
        if due <= self._now():
            self._append(node, progress, known, 0, wants_reply=False)
        else:
            self._news_at = min(self._news_at, due)

    def _kick(self, after_sequence: int) -> None:
        """Let every voter answer something sent after this, at once."""
        for node in self._others:
            progress = self._progress[node]
            if progress.sent_sequence <= after_sequence:
                self._send_heartbeat(node, progress)

    def _send_heartbeat(self, node: Node, progress: Progress) -> None:
        if self._is_up(node) and len(progress.unanswered) < UNANSWERED_MAX:
            at = progress.match_index if self._log.holds(progress.match_index) else 0
            self._append(node, progress, at, 0)

    def _send_entries(self, node: Node, progress: Progress) -> None:
        if not self._is_up(node) or len(progress.unanswered) >= UNANSWERED_MAX:
            return
        if progress.room is Room.FULL:
            return
        if progress.snapshot is not None or progress.next_index <= self._log.base.index:
            self._send_snapshot(node, progress)
            return
        if progress.probing:
            if not progress.probe_sequence:
                self._append(node, progress, progress.next_index - 1, self._batch(progress.next_index))
                progress.probe_sequence = progress.sent_sequence
            return
        options = self._options
        waiting = self._log.last_index - progress.next_index + 1
        if progress.window and waiting < SMALL_APPEND_ENTRIES:
            return  # they travel together when the follower has answered (RFC 896 does so with bytes)
        while (
            progress.next_index <= self._log.last_index
            and len(progress.window) < options.window_messages_max
            and progress.window_bytes < options.window_bytes_max
        ):
            count = self._batch(progress.next_index)
            self._append(node, progress, progress.next_index - 1, count)
            progress.next_index += count

    def _batch(self, start: int) -> int:
        """How many entries from `start` on go into one message."""
        log, options = self._log, self._options
        count = min(log.last_index - start + 1, options.append_entries_max)
        while count > 1 and log.bytes_between(start - 1, start - 1 + count) > options.append_bytes_max:
            count = (count + 1) // 2
        return max(count, 0)

    def _append(
        self, node: Node, progress: Progress, prev: int, count: int, *, wants_reply: bool = True
    ) -> None:
        log = self._log
        first = prev + 1 - log.base.index
        entries = log[first : first + count] if count else []
        sequence = self._next_sequence() if wants_reply else 0
        message = m.Append(
            self.__raftCurrentTerm,
            sequence,
            self._stamp_us(),
            prev,
            log.term_at(prev) if prev else 0,
            self.__raftCommitIndex,
            [entry[2] for entry in entries],
            [entry[0] for entry in entries],
        )
        if wants_reply:
            progress.sent(sequence, log.bytes_between(prev, prev + count) if count else 0)
            if count:
                progress.entries_sent_at = self._now()
        if progress.match_index >= prev:
            told = min(self.__raftCommitIndex, prev + count, progress.match_index)
            progress.told_commit = max(progress.told_commit, told)
        self._post(node, message)

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _stamp_us(self) -> int:
        """Taken before the message leaves, so it never claims more than is true."""
        return int(self._now() * 1_000_000)

    def _on_append_reply(self, node: Node, message: m.AppendReply) -> None:
        """What follows from it is sent at the end of the step, with the commit index of then."""
        if message.early:
            self._note_contact(node, message)
            return
        progress = self._note_answer(node, message)
        if progress is None:
            return
        progress.room = Room(min(message.room, Room.FULL))
        progress.sync_s = message.sync_us / 1_000_000
        if message.matched:
            self._note_match(progress, message.next_index - 1)
            if progress.probing and message.sequence == progress.probe_sequence:
                progress.probing, progress.probe_sequence = False, 0
                progress.next_index = progress.match_index + 1
        else:
            self._note_mismatch(progress, message)
        if progress.room is Room.FULL:
            progress.hold()

    def _note_answer(self, node: Node, message: m.AppendReply | m.SnapshotReply) -> Progress | None:
        """The follower's progress, if this answers the present leadership. A higher term deposes."""
        progress = self._note_contact(node, message)
        if progress is not None:
            progress.answered(min(message.sequence, self._sequence))
        return progress

    def _note_contact(self, node: Node, message: m.AppendReply | m.SnapshotReply) -> Progress | None:
        if message.term > self.__raftCurrentTerm:
            self._adopt_term(message.term)
            return None
        if self.__raftState != LEADER or message.term != self.__raftCurrentTerm:
            return None
        progress = self._progress.get(node)
        if progress is not None:
            sent_at = min(message.sent_at_us / 1_000_000, self._now())
            progress.heard(min(message.sequence, self._sequence), sent_at)
        return progress

    def _note_match(self, progress: Progress, index: int) -> None:
        progress.matched(min(index, self._log.last_index))
        limit_s = self._options.election_timeout_s
        progress.catching_up.reached(progress.match_index, self._log.last_index, self._now(), limit_s)

    def _note_mismatch(self, progress: Progress, message: m.AppendReply) -> None:
        if not message.sequence or (progress.probing and message.sequence != progress.probe_sequence):
            return  # not of the probe that is under way
        progress.probing, progress.probe_sequence = True, 0
        lower = min(progress.next_index - 1, message.next_index)
        progress.next_index = max(progress.match_index + 1, lower)

    # --- what a majority has ---

    def _contact_at(self) -> float:
        if self.__raftState != LEADER:
            return -math.inf
        return self._agreed(self._now(), CONTACT_AT)

    def _quorum_sequence(self) -> float:
        """A majority has answered a message with this sequence or a later one."""
        return self._agreed(self._sequence, ACKED_SEQUENCE)

    def _agreed(self, own: float, of: Callable[[Progress], float]) -> float:
        """The highest value that a majority of the voters has reached. A leader that is no voter any more
        does not count itself (Raft thesis, section 4.2.2)."""
        reached = list(map(of, map(self._progress.__getitem__, self._counted)))
        if self._is_voter:
            reached.append(own)
        reached.sort(reverse=True)
        return reached[self._majority - 1] if len(reached) >= self._majority else -math.inf

    def _onTick(self, timeToWait: float) -> None:
        """The library's tick when an election is to start. Else only what it would get to, in its order: its
        own counting is not used, and there is nothing to poll."""
        self._commit_before = self.__raftCommitIndex
        if self._campaigns:
            super()._onTick(timeToWait)
            return
        self.__applyLogEntries()
        if self.__raftState == LEADER and self._now() > self.__newAppendEntriesTime:
            self.__sendAppendEntries()
        self._checkCommandsToApply()

    def _count_majority(self) -> None:
        """In the middle of a tick, in place of the library's counting: it knows of no learners, no disks, no
        leader that leaves, and not that our own copy counts when it is durable."""
        if self.__raftState != LEADER:
            return
        index = self._agreed(self._log.durable_index, MATCH_INDEX)
        is_news = index > self._commit_before
        # Entries of older terms are committed by one of this term only (section 3.6.2).
        if is_news and self._log.term_at(int(index)) == self.__raftCurrentTerm:
            self._commit_before = int(index)
        self.__raftCommitIndex = self._commit_before
        self._check_quorum()

    def _check_quorum(self) -> None:
        """A leader that no majority has answered for an election timeout leads no more (section 6.2)."""
        alone_since = max(self._contact_at(), self._led_since)
        if self.__raftState == LEADER and alone_since <= self._now() - self._options.election_timeout_s:
            self._step_down()

    def _send_snapshot(self, node: Node, progress: Progress) -> None:
        raise NotImplementedError

    # --- follower ---

    def _on_append(self, node: Node, message: m.Append) -> None:
        if message.term < self.__raftCurrentTerm:
            self._answer(node, message, matched=False, next_index=0)  # the term tells it that it is deposed
            return
        if self.__raftState == LEADER and message.term == self.__raftCurrentTerm:
            raise FatalRaftError(f"{node.id} leads term {message.term} too: two nodes share an id or a vote")
        self._follow(node, message.term)
        self.__leaderCommitIndex = message.commit_index
        mismatch = self._mismatch(message)
        if mismatch is not None:
            self._answer(node, message, matched=False, next_index=mismatch)
            return
        match = max(self._store_entries(message), self._log.base.index)
        self._update_members()
        self._answer(node, message, matched=True, next_index=match + 1)
        self._commit_to(min(message.commit_index, match))

    def _answer(self, node: Node, message: m.Append, *, matched: bool, next_index: int) -> None:
        if message.sequence or not matched:
            self._post(
                node,
                m.AppendReply(
                    self.__raftCurrentTerm,
                    message.sequence,
                    message.sent_at_us,
                    matched,
                    next_index,
                    self._room_to_tell(),
                    int(self.sync_p99_s * 1_000_000),
                ),
            )

    def _mismatch(self, message: m.Append) -> int | None:
        """None when our log holds the entry before the new ones; else where the leader may try next."""
        log, prev = self._log, message.prev_index
        if prev > log.last_index:
            return log.last_index + 1
        if prev < log.base.index or log.term_at(prev) == message.prev_term:
            return None  # what the base covers is committed, hence equal
        if prev <= self.__raftCommitIndex:
            raise FatalRaftError(
                f"entry {prev} is committed with term {log.term_at(prev)} here, "
                f"and {message.prev_term} at the leader"
            )
        conflicting, index = log.term_at(prev), prev
        while index - 1 > self.__raftCommitIndex and log.term_at(index - 1) == conflicting:
            index -= 1
        return index

    def _store_entries(self, message: m.Append) -> int:
        """Returns the last index that is equal to the leader's; below the end when there is no room."""
        log = self._log
        index = message.prev_index
        for term, command in zip(message.terms, message.entries, strict=True):
            index += 1
            if index <= log.base.index:
                continue
            if index <= log.last_index:
                if log.term_at(index) == term:
                    continue  # what matches is never cut: it may have been acknowledged
                if index <= self.__raftCommitIndex:
                    raise FatalRaftError(f"entry {index} is committed here and the leader has another")
                if not self._takes_entries():
                    return index - 1
                log.deleteEntriesFrom(index - log.base.index)
            if not self._takes_entries():
                return index - 1
            log.add(command, index, term)
        return index

    def _takes_entries(self) -> bool:
        raise NotImplementedError

    def _room_to_tell(self) -> Room:
        raise NotImplementedError

    @property
    def sync_p99_s(self) -> float:
        raise NotImplementedError

    def _commit_to(self, index: int) -> None:
        if index > self.__raftCommitIndex:
            self.__raftCommitIndex = index
