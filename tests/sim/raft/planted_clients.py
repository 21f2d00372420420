"""Planted bugs of what clients are told, of applying, and of the driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from coterie.core.ports import Committed, NoQuorum
from coterie.raft.engine import RaftEngine
from coterie.raft.errors import FatalRaftError, NoSpace
from coterie.raft.member import Member
from coterie.raft.proposals import Done, Proposal, Proposals, Stage
from coterie.raft.seam import Node
from coterie.raft.snapshot import Meta
from tests.sim.raft.plant import Plant

TICK_S = 0.05


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
            if (self.__raftLeader, self.term) != self._seen:
                for proposal in self._proposals._open.values():
                    if proposal.stage is Stage.SENT:
                        self._proposals._send_anew(proposal)
            super()._note_changes()

    return SyncObj


def _leaky_callbacks() -> type[Member]:
    class SyncObj(Member):
        """Forgets who waits when a snapshot is installed."""

        def _restored(self, meta: Meta) -> None:
            super()._restored(meta)
            self._proposals._open.clear()

    return SyncObj


def _lost_forward() -> type[Member]:
    class SyncObj(Member):
        """What was forwarded over a link that broke is answered by nobody, ever."""

        def __onNodeDisconnected(self, node: Node) -> None:
            super().__onNodeDisconnected(node)
            for proposal in list(self._proposals._open.values()):
                if proposal.via == node.id:
                    del self._proposals._open[proposal.entry_id]

    return SyncObj


def _lying_success() -> type[Member]:
    class SyncObj(Member):
        """Takes an installed snapshot for proof that everything it waits for is in it."""

        def _restored(self, meta: Meta) -> None:
            super()._restored(meta)
            for proposal in list(self._proposals._open.values()):
                if proposal.stage is Stage.LOST_SIGHT:
                    self._proposals.applied(proposal.entry_id, Committed(meta.index, meta.term, 0, None))

    return SyncObj


def _apply_again_and_again() -> type[Member]:
    class SyncObj(Member):
        """An apply that raises is tried again at the next step, and the next."""

        def __applyLogEntries(self) -> bool:
            try:
                return bool(super().__applyLogEntries())
            except FatalRaftError:
                return False

    return SyncObj


def _refused_but_appended() -> type[Member]:
    class SyncObj(Member):
        """Says that there is no room for an entry, and takes it in all the same."""

        def propose(
            self, body: bytes, timeout_s: float, done: Done, *, vital: bool = False
        ) -> Callable[[], None]:
            try:
                return super().propose(body, timeout_s, done, vital=vital)
            except NoSpace:
                super().propose(body, timeout_s, lambda answer: None, vital=True)
                raise

    return SyncObj


_applied = Proposals.applied


def _answer_twice(proposals: Proposals, entry_id: bytes, committed: Committed) -> None:
    proposal = proposals._open.get(entry_id)
    _applied(proposals, entry_id, committed)
    if proposal is not None:
        proposal.done(committed)


def _certain_when_unknown(proposal: Proposal, *, quorum: bool) -> NoQuorum:
    return NoQuorum("not appended, says a node that cannot know")


def _any_entry(command: bytes) -> bool:
    return True


def _kick_by_ticks(engine: RaftEngine) -> None:
    """The next step is taken when the next tick comes round."""
    if engine._running and not engine._scheduled:
        engine._scheduled = True
        asyncio.get_running_loop().call_later(TICK_S, engine._step)


def _other_parameters(self: Any) -> None:
    """What a later version of the library might make of a method."""


PLANTS: dict[str, Plant] = {
    "apply-again": Plant(
        _apply_again_and_again(),
        found_by="test_replication.py::test_an_apply_that_raises_stops_the_node_instead_of_trying_again",
    ),
    "callbacks-leak": Plant(_leaky_callbacks()),
    "careless-resend": Plant(_careless_resend()),
    "double-answer": Plant(patches=(("coterie.raft.proposals:Proposals", "applied", _answer_twice),)),
    "false-refusal": Plant(patches=(("coterie.raft.proposals", "_late", _certain_when_unknown),)),
    "forward-lost": Plant(_lost_forward()),
    "hasty-retry": Plant(_hasty_retry()),
    "library-entries": Plant(
        patches=(("coterie.raft.wire", "is_valid", _any_entry),),
        found_by="test_wire.py::test_a_message_we_would_not_send",
    ),
    "library-renamed": Plant(
        patches=(("pysyncobj.syncobj:SyncObj", "_SyncObj__setState", _other_parameters),),
        found_by="test_seam.py::test_a_method_is_there_with_its_parameters",
    ),
    "lying-success": Plant(_lying_success()),
    "refused-but-appended": Plant(_refused_but_appended()),
    "ticking": Plant(
        patches=(("coterie.raft.engine:RaftEngine", "_kick", _kick_by_ticks),),
        found_by="test_no_ticks.py::test_a_commit_waits_for_no_timer",
    ),
}
