"""Bugs planted on purpose, to see that the simulator finds them. They exist in this file only.

The classes are called SyncObj for the reason given in coterie.raft.seam: so they override private methods."""

from __future__ import annotations

from collections.abc import Callable

from coterie.raft.jobs import nothing
from coterie.raft.journal import Base
from coterie.raft.member import Member
from coterie.raft.proposals import Proposal, Stage
from coterie.raft.seam import Node
from coterie.raft.snapshot import Meta
from tests.sim.raft.run import Report, seeded_size, simulate


def _hasty_sender() -> type[Member]:
    class SyncObj(Member):
        """Does not wait for the disk before it answers."""

        def take_frames(self) -> list[tuple[str, bytes]]:
            blocked, self._blocked = self._blocked, 0
            try:
                return super().take_frames()
            finally:
                self._blocked = blocked

    return SyncObj


def _no_fsync() -> type[Member]:
    class SyncObj(Member):
        """Writes its log, and trusts the operating system with it."""

        def _write_log(self) -> None:
            if self._log.is_dirty:
                block = self._log.take_block()
                self._job("write log", lambda: self._log._file.append(block), nothing, blocking=True)

    return SyncObj


def _forgotten_vote() -> type[Member]:
    class SyncObj(Member):
        """Does not write its term and its vote down."""

        def __setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
            self.__raftCurrentTerm, self.__votedForNodeId = term, votedForNodeId

    return SyncObj


def _unverified_commit() -> type[Member]:
    class SyncObj(Member):
        """Believes the leader's commit index for entries it never compared."""

        def _commit_to(self, index: int) -> None:
            super()._commit_to(max(index, min(self.__leaderCommitIndex, self._log.last_index)))

    return SyncObj


def _careless_resend() -> type[Member]:
    class SyncObj(Member):
        """Sends again what may have arrived, and does not look what it has appended already."""

        def _remember_id(self, entry_id: bytes) -> None:
            self._remembers_all = True

        def _is_same_try(self, proposal: Proposal, leader: Node) -> bool:
            return True

    return SyncObj


def _hasty_retry() -> type[Member]:
    class SyncObj(Member):
        """Takes a change of leader as proof that the old one's entries are dead."""

        def _note_changes(self) -> None:
            if (self.leader, self.term) != self._seen:
                for proposal in self._proposals._open.values():
                    if proposal.stage is Stage.SENT:
                        self._proposals._send_anew(proposal)
            super()._note_changes()

    return SyncObj


def _cut_before_switch() -> type[Member]:
    class SyncObj(Member):
        """Cuts the log before the snapshot that replaces it has its name."""

        def _switch(self, name: str, meta: Meta, base: Base, done: Callable[[], None]) -> None:
            rewrite = self._log.rewrite(base)

            def work() -> None:
                rewrite()
                self._store.switch(name)

            def adopt() -> None:
                self._store.adopt(meta)
                done()

            self._job("switch snapshot", work, adopt, blocking=True)

    return SyncObj


def _disloyal_voter() -> type[Member]:
    class SyncObj(Member):
        """Votes for anybody while its leader is alive."""

        def _is_loyal(self) -> bool:
            return False

    return SyncObj


PLANTED: dict[str, type[Member]] = {
    "": Member,
    "careless-resend": _careless_resend(),
    "cut-before-switch": _cut_before_switch(),
    "disloyal-voter": _disloyal_voter(),
    "forgotten-vote": _forgotten_vote(),
    "hasty-retry": _hasty_retry(),
    "hasty-sender": _hasty_sender(),
    "no-fsync": _no_fsync(),
    "unverified-commit": _unverified_commit(),
}


def simulate_planted(
    sizes: list[int], plant: str, seed: int, trace: Callable[[str], None] | None = None
) -> Report:
    """One run with the planted bug of that name; without one when it is empty."""
    return simulate(seed, seeded_size(seed, sizes), PLANTED[plant], trace)
