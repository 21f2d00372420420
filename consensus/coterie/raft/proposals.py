"""The proposals of this node that wait for their outcome, and what is known about each.

An entry gets into the log at most once per try, and a try is bound to one term: only the leader of that term
may append it. Log terms never fall along the log, so once an entry of a higher term is applied here without
the proposal having been seen, that try is certainly dead and the proposal may be sent anew."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from coterie.core.ports import Committed, NoQuorum, NotCommitted
from coterie.raft.entry import make_id
from coterie.raft.errors import NoSpace, TooManyProposals

Done = Callable[[Committed | Exception], None]
SPARE = 64  # closed proposals that may wait to be swept out


class Stage(Enum):
    """What may have become of a proposal."""

    WAITING = "certainly in no log"
    SENT = "on its way to the leader of `term`, or in its log"
    UNSURE = "its link broke: the leader of `term` must look before it appends"
    LOST_SIGHT = "a snapshot jumped over the place where it may be"


@dataclass(slots=True, eq=False)
class Proposal:
    """One entry and the one who waits for it."""

    entry_id: bytes
    body: bytes
    deadline: float
    done: Done
    vital: bool
    stage: Stage = Stage.WAITING
    term: int = 0
    via: str = ""  # the leader it was sent to; empty: this node appended it itself


class Proposals:
    """Answers every proposal exactly once: committed, or not known to be at its deadline."""

    def __init__(self, incarnation: int, count_max: int, bytes_max: int) -> None:
        self._incarnation = incarnation
        self._numbers = itertools.count(1)
        self._count_max, self._bytes_max = count_max, bytes_max
        self._bytes = 0
        self._open: dict[bytes, Proposal] = {}
        self._to_send: deque[Proposal] = deque()
        self._deadlines: list[tuple[float, bytes]] = []
        self.retry_at = 0.0  # nothing is sent before; a change of leader sets it back

    def __len__(self) -> int:
        return len(self._open)

    def add(self, body: bytes, deadline: float, done: Done, *, vital: bool = False) -> Proposal:
        """Raises TooManyProposals."""
        if len(self._open) >= self._count_max or self._bytes + len(body) > self._bytes_max:
            raise TooManyProposals(
                f"{len(self._open)} proposals with {self._bytes} bytes wait already, the limits are "
                f"{self._count_max} and {self._bytes_max}; try again later"
            )
        proposal = Proposal(make_id(self._incarnation, next(self._numbers)), body, deadline, done, vital)
        self._open[proposal.entry_id] = proposal
        self._bytes += len(body)
        if len(self._to_send) > 2 * len(self._open) + SPARE:
            # While nobody leads nothing is sent, and those whose time was over would stay.
            self._to_send = deque(each for each in self._to_send if each.entry_id in self._open)
        self._to_send.append(proposal)
        heapq.heappush(self._deadlines, (deadline, proposal.entry_id))
        return proposal

    def drop(self, proposal: Proposal) -> None:
        """Whoever proposed it does not wait any more."""
        self._close(proposal.entry_id)

    @property
    def has_to_send(self) -> bool:
        return bool(self._to_send)

    def to_send(self) -> Iterator[Proposal]:
        """Those that may be sent now. A proposal that is not sent after all goes `back`."""
        while self._to_send:
            proposal = self._to_send.popleft()
            if proposal.entry_id in self._open:
                yield proposal

    def back(self, proposal: Proposal) -> None:
        """Still to be sent, before the others."""
        self._to_send.appendleft(proposal)

    def awaits(self, entry_id: bytes) -> bool:
        """Somebody here waits for this entry."""
        return entry_id in self._open

    def applied(self, entry_id: bytes, committed: Committed) -> None:
        proposal = self._close(entry_id)
        if proposal is not None:
            proposal.done(committed)

    def refused(self, ids: Iterable[bytes], peer: str, term: int) -> bool:
        """`peer` certainly did not append these when it was asked to in `term`. True when some will be sent
        again; an answer to an older try says nothing about the present one."""
        again = False
        for entry_id in ids:
            proposal = self._open.get(entry_id)
            if (
                proposal is not None
                and proposal.stage is Stage.SENT
                and (proposal.via, proposal.term) == (peer, term)
            ):
                self._send_anew(proposal)
                again = True
        return again

    def turned_away(self, ids: Iterable[bytes], peer: str, term: int) -> None:
        """`peer` has no room for these, and certainly did not append them when it was asked in `term`."""
        for entry_id in ids:
            proposal = self._open.get(entry_id)
            if proposal is not None and (proposal.via, proposal.term) == (peer, term):
                self.turn_away(proposal)

    def turn_away(self, proposal: Proposal) -> None:
        if self._close(proposal.entry_id) is not None:
            proposal.done(NoSpace("the disks are too full for new work; the entry was not appended"))

    def term_applied(self, term: int) -> None:
        """An entry of this term is applied: tries in older terms that were not seen by now are dead."""
        for proposal in self._open.values():
            if proposal.stage in (Stage.SENT, Stage.UNSURE) and proposal.term < term:
                if proposal.stage is Stage.SENT:
                    self._to_send.append(proposal)
                proposal.stage = Stage.WAITING

    def link_lost(self, peer: str) -> None:
        """What went there may have been lost with the link."""
        for proposal in self._open.values():
            if proposal.stage is Stage.SENT and proposal.via == peer:
                proposal.stage = Stage.UNSURE
                self._to_send.append(proposal)

    def lose_sight(self) -> None:
        """A snapshot was installed: entries were skipped here, and any try may be among them."""
        for proposal in self._open.values():
            if proposal.stage is not Stage.WAITING:
                proposal.stage = Stage.LOST_SIGHT

    def next_deadline(self) -> float:
        """Infinite: nobody waits."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][1] not in self._open:
            heapq.heappop(deadlines)
        return deadlines[0][0] if deadlines else math.inf

    def may_be_late(self, now: float) -> bool:
        """The time of somebody is over who was still waiting when it was last looked."""
        return bool(self._deadlines) and self._deadlines[0][0] <= now

    def expire(self, now: float, *, quorum: bool) -> None:
        while self.next_deadline() <= now:
            proposal = self._close(heapq.heappop(self._deadlines)[1])
            if proposal is not None:
                proposal.done(_late(proposal, quorum=quorum))

    def fail_all(self, reason: str) -> None:
        for entry_id in list(self._open):
            proposal = self._close(entry_id)
            if proposal is not None:
                proposal.done(NotCommitted(reason))

    def _send_anew(self, proposal: Proposal) -> None:
        proposal.stage = Stage.WAITING
        self._to_send.append(proposal)

    def _close(self, entry_id: bytes) -> Proposal | None:
        proposal = self._open.pop(entry_id, None)
        if proposal is not None:
            self._bytes -= len(proposal.body)
        return proposal


def _late(proposal: Proposal, *, quorum: bool) -> NotCommitted:
    if proposal.stage is Stage.WAITING and not quorum:
        return NoQuorum("no leader with a majority could be reached in time; the entry was not appended")
    return NotCommitted("not known to be committed in time; it may be, or may yet be: propose it again")
