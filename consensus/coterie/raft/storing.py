"""What the state of the disk means for a member: what it takes, what it refuses, when it should not lead."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from coterie.raft import reading
from coterie.raft.errors import NoSpace
from coterie.raft.jobs import Job
from coterie.raft.pace import Pace
from coterie.raft.proposals import Done
from coterie.raft.room import Reading, Room, judge
from coterie.raft.seam import LEADER

logger = logging.getLogger("coterie.raft")
LOOK_S, LOOK_AGAIN_S = 1.0, 0.25  # at the disk: when there is room, when there is not
WRITE_LOG = "write log"
REST_TIMEOUTS = 60  # election timeouts, before those are tried again who could not take the lead


class SyncObj(reading.SyncObj):
    """Adds: new work is refused before the disk is full, what ends work goes on; a leader with a full or slow
    disk hands over to a node with a better one."""

    def __init__(self, *args: Any) -> None:
        self._room, self._is_stuck, self._is_short = Room.OK, False, False
        self._free_bytes = math.inf
        self._pace = Pace()
        self._look_at, self._give_way_at = -math.inf, -math.inf
        self._tried: set[str] = set()  # to whom this node gave way, since another one has led
        super().__init__(*args)

    # --- what is known about the disk ---

    @property
    def room(self) -> Room:
        """FULL also while a write waits for room: then the member takes no step."""
        return Room.FULL if self._is_stuck else self._room

    @property
    def takes_new_work(self) -> bool:
        """Whether an entry that is not vital may be proposed here; the leader may refuse it all the same."""
        return self.room is Room.OK and not self._is_short

    @property
    def free_bytes(self) -> float:
        """On the disk of the log, as of the last look; infinite before the first."""
        return self._free_bytes

    @property
    def sync_p99_s(self) -> float:
        """Of the syncs of the log within the last seconds."""
        return self._pace.p99_s(self._now())

    def job_waits(self, job: Job, why: str = "") -> None:
        """There is no room for a job's write; the driver tries it again."""
        if not self._is_stuck:
            logger.error("no room to write, waiting", extra={"job": job.name, "error": why})
        self._is_stuck = True

    def _job_took(self, job: Job, took_s: float) -> None:
        self._is_stuck = False
        if job.name == WRITE_LOG:
            self._pace.note(self._now(), took_s)

    def _tick_disk(self) -> None:
        now = self._now()
        if now >= self._look_at:
            self._look_at = math.inf  # until this look has ended
            seen: list[Reading] = []
            self._job(
                "look at disk",
                lambda: seen.append(self._log.look(self._options)),
                lambda: self._looked(seen[0]),
            )
        if self._tried and self.leader not in ("", self._options.node_id):
            self._tried.clear()
        if self.__raftState != LEADER:
            self._is_short = False
            return
        self._is_short = self._lacks_room(now)
        if self._hand_over is None and now >= self._give_way_at:
            self._give_way(now)

    def _looked(self, reading: Reading) -> None:
        before, self._room = self._room, judge(reading, self._options, self._room)
        self._free_bytes = reading.free_bytes
        self._look_at = self._now() + (LOOK_S if self._room is Room.OK else LOOK_AGAIN_S)
        if self._room is not before:
            level = logging.INFO if self._room is Room.OK else logging.ERROR
            fields = {"room": self._room.name, "free_bytes": reading.free_bytes}
            logger.log(level, "room on disk changed", extra=fields)
            self.changed = True

    # --- too little room ---

    def _lacks_room(self, now: float) -> bool:
        """Here, or on so many of the others that no majority is left."""
        if self._room is not Room.OK:
            return True
        for progress in self._progress.values():
            if progress.room is not Room.OK:
                break
        else:
            return False
        since = now - self._options.election_timeout_s
        others = [self._progress[node] for node in self._counted]
        rooms = [progress.room for progress in others if progress.contact_at > since]
        some = any(room is not Room.OK for room in rooms)  # else it is a matter of contact, not of room
        return some and self._is_voter + rooms.count(Room.OK) < self._majority

    def propose(
        self, body: bytes, timeout_s: float, done: Done, *, vital: bool = False
    ) -> Callable[[], None]:
        """See proposing. Also raises NoSpace, unless the entry is vital: it ends work or frees room."""
        if not (vital or self.takes_new_work):
            raise NoSpace(
                f"too little room: {self._free_bytes:.0f} bytes are free here, or the others lack it"
            )
        return super().propose(body, timeout_s, done, vital=vital)

    def _refuses(self, vital: bool) -> bool:
        return self._is_short and not vital

    def _has_room(self) -> bool:
        return self._room is not Room.FULL and super()._has_room()

    def _takes_entries(self) -> bool:
        return self._room is not Room.FULL

    def _room_to_tell(self) -> Room:
        takes_none = self._has_to_tell or self._now() < self._no_room_until
        self._has_to_tell = False
        return Room.FULL if takes_none else self._room

    def _has_space_for(self, size_bytes: int) -> bool:
        return size_bytes < self._free_bytes

    # --- others have better disks ---

    def _give_way(self, now: float) -> None:
        """Each try that fails costs the cluster an election: who is fast and up to date may hear too few of
        the others to be elected. So everybody is tried once, and then there is a long rest."""
        options = self._options
        limit_s = options.slow_disk_ms / 1000
        is_low = self._room is not Room.OK
        if not (is_low or self._pace.is_slow(now, limit_s)):
            return
        candidates = [
            (progress.match_index, str(node.id))
            for node, progress in ((node, self._progress[node]) for node in self._counted)
            if self._is_up(node)
            and progress.contact_at > now - options.election_timeout_s
            and progress.room is Room.OK
            # Twice as fast at least, so that two nodes never pass the leadership to and fro.
            and (is_low or 0 < progress.sync_s <= limit_s / 2)
        ]
        if not candidates:
            return
        untried = [candidate for candidate in candidates if candidate[1] not in self._tried]
        if not untried:
            self._give_way_at = now + REST_TIMEOUTS * options.election_timeout_s
            self._tried.clear()
            return
        target = max(untried)[1]
        self._tried.add(target)
        fields = {"to": target, "room": self._room.name, "sync_p99_ms": round(1000 * self._pace.p99_s(now))}
        logger.warning("handing over, the disk here is full or slow", extra=fields)
        self._give_way_at = now + 4 * options.election_timeout_s
        self._begin_hand_over(target)
