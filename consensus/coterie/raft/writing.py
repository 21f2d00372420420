"""Writing the log, and what a member does meanwhile.

A step changes the log in memory. One job at a time writes what was changed; what changes while it runs is
written by the next one. So a slow disk costs time, and every write takes all that has come up to it.

While a write is under way the member goes on: it takes in messages, appends, counts, commits, applies. That
is safe, because nothing is said before it is true on the disk:

- A message leaves when every write is done that its step had begun or left due (outbox.py): votes, requests
  for votes and answers to entries, as if the member had stood still.
- A leader's entries go ahead (Raft thesis, 10.2.1). They promise nothing but its term, which must be durable,
  as must its configuration (membership.py). Its own copy counts up to `durable_index` only, which sinks with
  every cut of the log. So an entry may be committed, and applied here, that only the others have on disk.
- Questions, refusals and forwarded entries go ahead: what they say is about the moment, or is in the log of
  nobody. An *early* answer says that a message of the leader has arrived, in a term that is durable here: as
  much as a restarted member keeps to (`_sworn_until`), and as much as leases and reads ask for.
- The journal's file is replaced only when it holds all that memory holds.

It does not go on for the first moment of a write, since whatever comes then costs fewer steps and messages
when it is taken in together; nor behind a disk that has stood still for an election timeout, or is full: such
a member says nothing more, so that another one takes its place."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from coterie.raft import changing
from coterie.raft import messages as m
from coterie.raft.jobs import Job
from coterie.raft.outbox import Outbox
from coterie.raft.seam import LEADER, Node
from coterie.raft.storing import WRITE_LOG

GATHER_S = 0.003  # a write that is done within this time is waited for
# They promise nothing that a crash could take back.
FREE = frozenset(
    (
        m.Greeting,
        m.PreVote,
        m.PreVoteReply,
        m.Forward,
        m.ForwardReply,
        m.ReadRequest,
        m.ReadReply,
        m.TransferRequest,
    )
)
FREE_FOR_A_LEADER = FREE | {m.Append, m.SnapshotChunk, m.TimeoutNow}


class SyncObj(changing.SyncObj):
    """Adds jobs, the writes among them, and messages that wait for them."""

    def __init__(self, *args: Any) -> None:
        self._outbox = Outbox()
        self._jobs: deque[Job] = deque()
        self._finished: deque[Job] = deque()
        self._blocked = 0  # blocking jobs under way
        self._writes_begun = self._writes_done = 0
        self._write_began_at = -math.inf
        self._durable_term = -1  # the term of the last write that has ended
        super().__init__(*args)

    # --- jobs ---

    def _job(
        self, name: str, work: Callable[[], object], done: Callable[[], None], *, blocking: bool = False
    ) -> None:
        self._jobs.append(Job(name, work, done, blocking))
        self._blocked += blocking

    def take_jobs(self) -> list[Job]:
        """New jobs, to be run one after the other in this order."""
        if not self._jobs:
            return []
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs

    def job_done(self, job: Job, took_s: float = 0.0) -> None:
        """A job's work has ended well. One that raises DiskFull waits for room (`job_waits`) and is run
        again; any other failure is fatal, and there is no next step."""
        was_stuck = self._is_stuck
        self._job_took(job, took_s)
        self._blocked -= job.blocking
        if job.name == WRITE_LOG:
            job.done()  # at once: messages that wait for it need no step
            counts_now = self.__raftState == LEADER and self._log.durable_index > self.__raftCommitIndex
            self._asked |= counts_now or was_stuck or self._needs_rest
        else:
            self._finished.append(job)

    def _finish_jobs(self) -> None:
        # A job's end may start a blocking job; the rest then waits for the next step.
        while self._finished and not self._blocked:
            self._finished.popleft().done()

    # --- writes ---

    @property
    def _is_writing(self) -> bool:
        return self._writes_done < self._writes_begun

    @property
    def _is_settled_on_disk(self) -> bool:
        """Everything in memory is in the journal's file."""
        return self._writes_done == self._writes_begun and not self._log.is_dirty

    def _write_log(self) -> None:
        if not self._log.is_dirty or self._is_writing:
            return
        block, term = self._log.take_block(), self.__raftCurrentTerm
        self._writes_begun += 1
        self._write_began_at = self._now()

        def written() -> None:
            self._writes_done += 1
            self._durable_term = term
            self._log.block_written()

        self._job(WRITE_LOG, lambda: self._log.write(block), written)

    @property
    def is_blocked(self) -> bool:
        """No step may be taken: the end of a job is waited for, or the moment `next_step_at`."""
        if self._writes_done == self._writes_begun:
            return self._blocked > 0
        return self._blocked > 0 or not self._goes_on_at(self._now())

    def _goes_on_at(self, now: float) -> bool:
        """Whether the member goes on beside the write that is under way. See the module."""
        if self._is_stuck or self._needs_rest:
            return False
        return GATHER_S <= now - self._write_began_at < self._options.election_timeout_s

    def _unblocked_at(self) -> float:
        """The moment a blocked member may go on although no job has ended; infinite: there is none."""
        goes_on_at = self._write_began_at + GATHER_S
        waits = not (self._blocked or self._is_stuck or self._needs_rest)
        return goes_on_at if waits and self._now() < goes_on_at else math.inf

    # --- messages ---

    def _post(self, node: Node, message: m.Message) -> None:
        if self._has_link(node):
            self._outbox.post(str(node.id), message)

    def _answer(self, node: Node, message: m.Append, *, matched: bool, next_index: int) -> None:
        if self._is_writing and matched and message.sequence:
            self._answer_early(node, message)
        super()._answer(node, message, matched=matched, next_index=next_index)

    def _answer_early(self, node: Node, message: m.Append) -> None:
        """Neither the leader, which counts on its followers, nor its readers wait for a slow disk."""
        term, sequence = self.__raftCurrentTerm, message.sequence
        if self._durable_term == term and message.prev_index <= self._log.durable_index:
            next_index = message.prev_index + 1
            self._post(
                node, m.AppendReply(term, sequence, message.sent_at_us, True, next_index, 0, 0, early=True)
            )

    def _take_messages(self) -> dict[str, list[m.Message]]:
        """Those that may leave. See the module."""
        if self._blocked:
            return {}
        needed = self._writes_begun + self._log.is_dirty
        return self._outbox.take(
            self._writes_done, needed, FREE_FOR_A_LEADER if self._leads_for_good else FREE
        )

    @property
    def _leads_for_good(self) -> bool:
        """This node leads, by a vote and with a configuration that are on its disk."""
        leads = self.__raftState == LEADER and self._durable_term == self.__raftCurrentTerm
        return leads and self._configuration_index <= self._log.durable_index

    def _has_link(self, node: Node) -> bool:
        raise NotImplementedError
