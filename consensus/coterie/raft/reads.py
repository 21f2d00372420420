"""Read barriers by ReadIndex (Raft thesis, section 6.4): the leader's commit index, once a majority has
answered something the leader sent after the read began; then wait until that index is applied here."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from coterie.core.ports import NoQuorum, NotCommitted

Done = Callable[[int | Exception], None]


@dataclass(slots=True, eq=False)
class Read:
    """One caller of read_barrier."""

    deadline: float
    done: Done
    open: bool = True

    def finish(self, answer: int | Exception) -> None:
        if self.open:
            self.open = False
            self.done(answer)


@dataclass(slots=True)
class Round:
    """Reads that wait for the same proof of leadership."""

    after_sequence: int  # the proof: a majority answers a message with a higher one
    index: int
    reads: list[Read]
    asked_by: list[tuple[str, int]]  # (peer, its number)


@dataclass(slots=True)
class Reads:
    """Everything this node knows about reads under way, as leader and as follower."""

    count_max: int
    first_number: int  # of this process's questions: an answer to a former process must fit none of them
    fresh: list[Read] = field(default_factory=list)  # nobody was asked yet
    asked: dict[int, list[Read]] = field(default_factory=dict)  # by the number of our question
    asked_leader: str = ""
    questions: list[tuple[str, int]] = field(default_factory=list)  # of followers, not yet in a round
    rounds: deque[Round] = field(default_factory=deque)
    retry_at: float = 0.0
    _known: list[tuple[int, int, Read]] = field(default_factory=list)  # index known, not applied
    _deadlines: list[tuple[float, int, Read]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(init=False)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(self.first_number)

    def add(self, deadline: float, done: Done) -> Read:
        """Raises NoQuorum when too many wait already: then answers are not coming."""
        if len(self._deadlines) >= self.count_max:
            self._deadlines = [item for item in self._deadlines if item[2].open]
            heapq.heapify(self._deadlines)
        self._sweep()
        if len(self._deadlines) >= self.count_max:
            raise NoQuorum(f"{self.count_max} reads wait here already; try again later")
        read = Read(deadline, done)
        heapq.heappush(self._deadlines, (deadline, next(self._numbers), read))
        self.fresh.append(read)
        return read

    def _sweep(self) -> None:
        """Drop those whose time is over: nobody may lead for long, or what a leader said is not applied."""
        if len(self.fresh) > self.count_max:
            self.fresh = [read for read in self.fresh if read.open]
        if len(self._known) > self.count_max:
            self._known = [item for item in self._known if item[2].open]
            heapq.heapify(self._known)

    def ask(self, leader: str) -> int:
        """All fresh reads go to the leader as one question."""
        number = next(self._numbers)
        self.asked[number] = [read for read in self.fresh if read.open]
        self.asked_leader, self.fresh = leader, []
        return number

    def answered(self, number: int, index: int) -> None:
        for read in self.asked.pop(number, []):
            self.know(read, index)

    def know(self, read: Read, index: int) -> None:
        if read.open:
            heapq.heappush(self._known, (index, next(self._numbers), read))

    def start_over(self) -> None:
        """Whoever was asked will not answer."""
        for reads in self.asked.values():
            self.fresh.extend(read for read in reads if read.open)
        self.asked.clear()

    def drop_rounds(self) -> list[tuple[str, int]]:
        """This node leads no more: own reads start over; returns the questions nobody will answer."""
        refused = list(self.questions)
        for each in self.rounds:
            self.fresh.extend(read for read in each.reads if read.open)
            refused.extend(each.asked_by)
        self.rounds.clear()
        self.questions.clear()
        return refused

    def forget(self, peer: str) -> None:
        """The link to a peer is gone: whoever comes over the next one has asked nothing yet."""
        self.questions = [item for item in self.questions if item[0] != peer]
        for each in self.rounds:
            each.asked_by = [item for item in each.asked_by if item[0] != peer]

    def start_round(self, after_sequence: int, index: int) -> None:
        self.rounds.append(Round(after_sequence, index, self.fresh, self.questions))
        self.fresh, self.questions = [], []

    def proved(self, quorum_sequence: float) -> list[Round]:
        """The rounds whose proof has come."""
        done = []
        while self.rounds and self.rounds[0].after_sequence < quorum_sequence:
            done.append(self.rounds.popleft())
        return done

    def applied(self, index: int) -> None:
        while self._known and self._known[0][0] <= index:
            heapq.heappop(self._known)[2].finish(index)

    def next_deadline(self) -> float:
        """Infinite: nobody waits."""
        deadlines = self._deadlines
        while deadlines and not deadlines[0][2].open:
            heapq.heappop(deadlines)
        return deadlines[0][0] if deadlines else math.inf

    def may_be_late(self, now: float) -> bool:
        """The time of somebody is over who was still waiting when it was last looked."""
        return bool(self._deadlines) and self._deadlines[0][0] <= now

    def expire(self, now: float) -> None:
        while self.next_deadline() <= now:
            error = NoQuorum(
                "no majority confirmed in time who leads; the read may be stale, so it is refused"
            )
            heapq.heappop(self._deadlines)[2].finish(error)

    def fail_all(self, reason: str) -> None:
        for _, _, read in self._deadlines:
            read.finish(NotCommitted(reason))
        self._deadlines.clear()
