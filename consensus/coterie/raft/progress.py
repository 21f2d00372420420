"""What the leader knows about one follower, and what is on its way there."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from coterie.raft.disk import DiskFile
from coterie.raft.room import Room
from coterie.raft.snapshot import Meta


@dataclass(slots=True)
class SnapshotSend:
    """A snapshot on its way. The open file stays the same even when a newer snapshot takes its name."""

    file: DiskFile
    meta: Meta
    size_bytes: int
    first_sequence: int  # answers to older messages are of an earlier try
    offset: int = 0
    unanswered: int = 0


@dataclass(slots=True)
class CatchUp:
    """Rounds of replication (Raft thesis, section 4.2.1): each ends when the follower has what the log held
    at its start. A follower that was quick with its last round would not hold up the group as a voter."""

    target: int
    began_at: float
    done: bool = False

    def reached(self, match_index: int, last_index: int, now: float, limit_s: float) -> None:
        if match_index >= self.target:
            self.done = now - self.began_at <= limit_s
            self.target, self.began_at = last_index, now


@dataclass(slots=True)
class Progress:
    """Probing: the follower's log is not known to match, and one message at a time looks for where it does.
    Otherwise entries stream, up to a window of unanswered messages."""

    next_index: int
    catching_up: CatchUp
    match_index: int = 0
    probing: bool = True
    probe_sequence: int = 0  # the unanswered probe; 0: none
    acked_sequence: int = 0  # highest answered
    sent_sequence: int = 0  # last message that wants a reply
    contact_at: float = -math.inf  # highest answered send stamp
    told_commit: int = 0
    entries_sent_at: float = -math.inf
    window: deque[tuple[int, int]] = field(default_factory=deque)  # (sequence, bytes) with entries
    window_bytes: int = 0
    unanswered: deque[int] = field(default_factory=deque)  # sequences of messages of any kind
    snapshot: SnapshotSend | None = None
    room: Room = Room.OK  # on its disk; FULL: it is sent nothing to store
    sync_s: float = 0.0  # 99th percentile of its syncs; 0: not known

    def sent(self, sequence: int, size: int) -> None:
        self.sent_sequence = sequence
        self.unanswered.append(sequence)
        if size:
            self.window.append((sequence, size))
            self.window_bytes += size

    def answered(self, sequence: int) -> None:
        """Answers come in the order of the messages; what was sent before this one is answered too."""
        while self.unanswered and self.unanswered[0] <= sequence:
            self.unanswered.popleft()
        while self.window and self.window[0][0] <= sequence:
            self.window_bytes -= self.window.popleft()[1]

    def heard(self, sequence: int, sent_at: float) -> None:
        """That message has arrived there, and its sender is followed."""
        if sequence > self.acked_sequence:
            self.acked_sequence = sequence
        if sent_at > self.contact_at:
            self.contact_at = sent_at

    def matched(self, index: int) -> None:
        if index > self.match_index:
            self.match_index = index
        if self.next_index <= self.match_index:
            self.next_index = self.match_index + 1

    def hold(self) -> None:
        """It has no room: what was sent ahead was not stored."""
        self.close_snapshot()
        if not self.probing:
            self.next_index = self.match_index + 1
        self.window.clear()
        self.window_bytes = 0

    def restart(self, next_index: int) -> None:
        """A new link: what was on its way is lost, and the disk behind the link may be another one."""
        self.close_snapshot()
        self.catching_up.done = False
        self.next_index, self.match_index = next_index, 0
        self.probing, self.probe_sequence = True, 0
        self.told_commit = 0
        self.window.clear()
        self.unanswered.clear()
        self.window_bytes = 0

    def close_snapshot(self) -> None:
        if self.snapshot is not None:
            self.snapshot.file.close()
            self.snapshot = None
